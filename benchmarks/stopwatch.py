"""Wall seconds, CPU seconds and peak memory of this process and of the children it waited for."""

import resource
import sys
import time
from pathlib import Path

import torch


class Stopwatch:
    """Measures what happens between `start` and `stop`; on a GPU both wait until it is idle."""

    def start(self):
        _wait_for_gpu()
        self._began = time.perf_counter(), _cpu_seconds()

    def stop(self):
        _wait_for_gpu()
        wall, cpu = self._began
        self.wall, self.cpu = time.perf_counter() - wall, _cpu_seconds() - cpu


def _wait_for_gpu():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu_seconds():
    """User and system time so far; a loader's workers count from the moment they have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_memory():
    """Largest memory so far in MiB: of this process, of its largest child (pages shared with it included), of the GPU.

    Read from /proc where there is one: the system's own record also holds the peak of the process that started this.
    """
    kib = 1 / 1024 if sys.platform == "darwin" else 1
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kib
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        own = int(lines["VmHWM"].split()[0]) if "VmHWM" in lines else own
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * kib
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    return {"peak_mib": own / 1024, "peak_worker_mib": child / 1024, "peak_gpu_mib": gpu}
