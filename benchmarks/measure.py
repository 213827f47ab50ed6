"""Each measurement in a process of its own, so that peak memory and the memory allocator's settings are its own.

python -m benchmarks.measure FOLDER WORKLOADS_JSON is that process; its last line is the result.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module

from benchmarks.workload import Workload
from fer_openset.settings import ROOT
from workflow.orphans import die_with_parent
from workflow.run_notebook import ALLOCATOR

TIMEOUT_SECONDS = 1800  # the longest measurement takes a minute on two cores


class MeasurementFailed(Exception):
    """A measuring process died or took too long; the message is one sentence."""


def run(workloads, folder):
    """Measure these workloads of one side, one after the other in one new process. Returns: a dict for each.

    Keys: the workload's fields, images_per_s, wall_s, cpu_s (loader workers included), peak_mib of the process,
    peak_worker_mib of its largest loader worker, peak_gpu_mib, result (a mean that shows the work was done).
    Raises: MeasurementFailed.
    """
    first = workloads[0]
    values = json.dumps([asdict(workload) for workload in workloads])
    return child("benchmarks.measure", [str(folder), values], _environment(first), str(first))


def child(module, arguments, environment, what):
    """Run `python -m module arguments` from the clone and read its last line as JSON. Raises: MeasurementFailed."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"{what}: not done after {TIMEOUT_SECONDS} s, stopped.") from None
    if done.returncode < 0:
        raise MeasurementFailed(f"{what}: killed by signal {-done.returncode} (9: most often out of memory).")
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise MeasurementFailed(f"{what}: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment(workload):
    """The engine runs as the workbook's runner starts it; the reference as one starts a script."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if workload.side == "engine":
        environment["GLIBC_TUNABLES"] = ALLOCATOR
    if workload.threads:
        environment["FER_OPENSET_THREADS"] = environment["OMP_NUM_THREADS"] = str(workload.threads)
    return environment


def measure(workload, folder):
    """Measure one workload in this process."""
    # Here, so that the process that only starts others stays small, and each side loads its own libraries alone.
    side = import_module(f"benchmarks.{workload.side}")
    from benchmarks.stopwatch import Stopwatch, peak_memory

    watch = Stopwatch()
    result = side.run(workload, folder, watch)
    if not math.isfinite(result):
        raise SystemExit(f"its result is {result}: this run did no proper work")
    speed = {"images_per_s": workload.images / watch.wall, "wall_s": watch.wall, "cpu_s": watch.cpu, "result": result}
    return {**asdict(workload), **speed, **peak_memory()}


def main(arguments):
    die_with_parent()
    folder, values = arguments
    print(json.dumps([measure(Workload(**fields), folder) for fields in json.loads(values)]))


if __name__ == "__main__":
    main(sys.argv[1:])
