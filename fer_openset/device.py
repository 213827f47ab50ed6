"""What hardware this process computes on: the only place that asks."""

import ctypes
import os
import platform
import resource
import sys
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from fer_openset import kernels
from fer_openset.settings import thread_count


@dataclass(frozen=True)
class Device:
    """Where tensors live and at which precision networks run; `amp` is None for plain float32."""

    torch_device: torch.device
    amp: torch.dtype | None
    name: str

    @property
    def arithmetic(self):
        """In words: bfloat16 or float32, and whether most convolutions are Winograd's (`winograd`)."""
        precision = "float32" if self.amp is None else str(self.amp).removeprefix("torch.")
        ours = self.torch_device.type == "cpu" and self.amp is None and kernels.library()
        return f"{precision}, Winograd's convolutions" if ours else precision

    def autocast(self):
        """Context in which networks run: bf16 autocast where the hardware multiplies in bf16, else float32."""
        if self.amp is None:
            return nullcontext()
        return torch.autocast(self.torch_device.type, dtype=self.amp)

    def place(self, net):
        """Move a network here, channels last (measured faster on CPU and GPU for these ResNets)."""
        return net.to(self.torch_device, memory_format=torch.channels_last)

    def at_once(self, asked):
        """How many images to score at once where `asked` are allowed.

        On a CPU more than 256 are no faster (measured), and their maps decide how much memory a run needs.
        """
        return min(asked, 256) if self.torch_device.type == "cpu" else asked

    def generator(self, seed):
        """A random generator on this device."""
        return torch.Generator(self.torch_device).manual_seed(seed)


def pick_device():
    """CUDA if there is one, else the CPU with FER_OPENSET_THREADS threads (default: torch's own choice).

    Raises: UserError when FER_OPENSET_THREADS is not a count.
    """
    if os.environ.get("FER_OPENSET_THREADS"):
        torch.set_num_threads(thread_count())
    if torch.cuda.is_available():
        amp = torch.bfloat16 if torch.cuda.is_bf16_supported() else None
        return Device(torch.device("cuda"), amp, torch.cuda.get_device_name())
    amp = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else None
    return Device(torch.device("cpu"), amp, f"cpu {platform.machine()} x{torch.get_num_threads()}")


def give_back_memory():
    """Hand the system what the C library keeps of freed memory, where it can (glibc's does).

    Kept memory saves time from step to step, but training and scoring ask for pieces of other sizes, and what fits
    neither adds up. Handing it back takes some 10 ms, fetching it again less than half a second (measured: ResNet-18,
    64 px, batch 128): little beside an epoch.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def peak_memory_mb():
    """Largest resident memory of this process so far, in MiB (plus the device's peak where there is one)."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated() / 2**20
    return round(peak, 1)
