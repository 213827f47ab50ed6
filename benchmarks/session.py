"""Runs a list of measurements in turn and says which one is running."""

import time
from dataclasses import asdict

from benchmarks import measure, tables


class Session:
    """The measurements of one command; `folder` holds the faces, `total` is how many measurements there will be."""

    def __init__(self, folder, total):
        self.folder, self.total, self.done, self.began = folder, total, 0, time.monotonic()

    def pairs(self, plan, repeats):
        """Medians of {task: (engine's, reference's)}: both in turn, for the speed of a shared machine swings."""
        main = {}
        for task, pair in plan.items():
            rounds = [[self._run(one)[0] for one in pair] for _ in range(repeats)]
            main[task] = {one.side: tables.summary(r) for one, r in zip(pair, zip(*rounds, strict=True), strict=True)}
        return main

    def quick(self, plan):
        """The same once, all tasks of a side in one process: starting one takes longer than these measurements."""
        sides = [self._run(*ones) for ones in zip(*plan.values(), strict=True)]
        return {task: {r["side"]: tables.summary([r]) for r in pair} for task, *pair in zip(plan, *sides, strict=True)}

    def growth(self, plan):
        """One run of each of {field: [workloads]}; one that fails (memory, most likely) leaves the others alone."""
        return {field: [self._try(one) for one in ones] for field, ones in plan.items()}

    def _run(self, *workloads):
        self.done += len(workloads)
        seconds = time.monotonic() - self.began
        print(f"[{self.done}/{self.total}, {seconds:.0f} s] {'; '.join(map(str, workloads))}:", end=" ", flush=True)
        results = measure.run(workloads, self.folder)
        print(", ".join(f"{r['images_per_s']:.1f}" for r in results), "images/s", flush=True)
        return results

    def _try(self, one):
        try:
            return self._run(one)[0]
        except measure.MeasurementFailed as error:
            print(f"failed: {error}", flush=True)
            return {**asdict(one), "failed": str(error)}
