"""What is measured: one dataclass, and the lists of measurements of a full and of a quick run."""

from dataclasses import dataclass, replace
from itertools import chain

TASKS = ("detection", "closed", "scoring")
SIDES = ("engine", "reference")
SIZE, PRESET_SIZE, BATCH = 112, 64, 128  # of the main table: the size asked for, and that of the `cpu` preset
# Timed images of the main table on two cores, (engine, reference): each measurement takes 5 to 30 seconds.
COUNTS = {
    SIZE: {"detection": (512, 384), "closed": (768, 512), "scoring": (1536, 640)},
    PRESET_SIZE: {"detection": (1536, 768), "closed": (2304, 1024), "scoring": (4608, 1536)},
}
SMALL = 48  # pixels: the size at which the image count, the workers and the threads are varied
SMALL_COUNT = 1024
# Timed images of each size, so that none takes more than ten seconds on two cores.
SIZE_COUNTS = {48: 1024, 64: 768, 80: 512, 112: 256, 160: 128, 224: 128}


@dataclass(frozen=True)
class Workload:
    """One measurement: `task` as `side` does it.

    size: pixels a side. images: how many the timed pass sees, a multiple of `batch`; before it comes an untimed pass
    over `warm_up` images. workers: loader processes of the reference (the engine has none). threads: threads of the
    engine, 0 for torch's own choice.
    """

    task: str
    side: str
    size: int
    batch: int
    images: int
    warm_up: int
    workers: int = 0
    threads: int = 0

    def __str__(self):
        more = f", {self.workers} workers" if self.side == "reference" else ""
        more += f", {self.threads} threads" if self.threads else ""
        return f"{self.task}, {self.side}, {self.size} px, batch {self.batch}, {self.images:,} images{more}"


def plan(quick, cores, gpu):
    """All measurements for a machine: ({task: (engine's, reference's)}, {varied field: [workloads]})."""
    return (_quick_table(), {}) if quick else (_main_table(cores, gpu), _scaling_tables(cores, gpu))


def flat(tables):
    """All workloads of a plan's two parts in one list."""
    return [one for table in tables for one in chain(*table.values())]


def _main_table(cores, gpu):
    """The measurements of the main table: {task, or task_SIZEpx at the preset's size: (engine's, reference's)}."""
    return {
        task if size == SIZE else f"{task}_{size}px": tuple(
            _workload(task, side, size, BATCH, count, cores, gpu)
            for side, count in zip(SIDES, counts[task], strict=True)
        )
        for size, counts in COUNTS.items()
        for task in TASKS
    }


def _scaling_tables(cores, gpu):
    """How speed and memory grow with one number at a time: {name of the varied field: [workloads]}."""

    def engine(size, batch, images):
        return _workload("detection", "engine", size, batch, images, cores, gpu)

    small = engine(SMALL, BATCH, SMALL_COUNT)
    loader = _workload("detection", "reference", SMALL, BATCH, SMALL_COUNT, cores, gpu)
    powers = [2**i for i in range(cores.bit_length()) if 2**i <= cores]
    return {
        "images": [replace(small, images=small.images * times) for times in (1, 4, 16)],
        # Small batches here, so that the largest size fits into the memory of a small machine.
        "size": [engine(size, 32, count) for size, count in SIZE_COUNTS.items()],
        "batch": [engine(SIZE, batch, 512) for batch in (32, 64, 128, 256)],
        "workers": [replace(loader, workers=workers) for workers in (0, *powers)],
        "threads": [replace(small, threads=threads) for threads in powers],
    }


def _quick_table():
    """Every task of both sides on a handful of tiny images: whether it runs, not how fast."""
    return {task: tuple(Workload(task, side, 32, 8, 16, 8, i) for i, side in enumerate(SIDES)) for task in TASKS}


def _workload(task, side, size, batch, count, cores, gpu):
    images = count * (16 if gpu else max(1, cores // 4))  # a pass must last seconds to be timed
    # The first steps fetch memory from the system and choose kernels; how many do is a matter of time, too.
    warm_up = max(1, images // 4 // batch) * batch
    return Workload(task, side, size, batch, images, warm_up, cores if side == "reference" else 0)
