"""The workbook's own kernels for CPUs, in C++: compiled at their first use and kept in the cache folder.

`winograd.cpp` (with its `forms.h`) and `grey.cpp` say what they compute; the modules of these names beside this folder
call them. Compiling takes a few seconds. Without a compiler, on other processors and with FER_OPENSET_KERNELS=0 there
are none, and torch's own are used.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch

from fer_openset.atomic import atomic_path
from fer_openset.errors import UserError
from fer_openset.settings import cache_dir

FOLDER = Path(__file__).parent
# By torch's name of what the processor has: how many floats a vector holds, and how to say so to the compiler.
FLAGS = {"AVX2": ("-DKERNEL_LANES=8", "-mavx2", "-mfma"), "AVX512": ("-DKERNEL_LANES=16", "-mavx512f", "-mfma")}


@cache
def library():
    """The compiled kernels, or None where they cannot be had. `panel`: how many channels they take at a time."""
    flags = FLAGS.get(torch.backends.cpu.get_cpu_capability())
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    linux = platform.system() == "Linux"  # elsewhere another OpenMP than torch's would be loaded
    if os.environ.get("FER_OPENSET_KERNELS") == "0" or not (flags and compiler and linux):
        return None
    path = _built(compiler, flags)
    return None if path is None else _loaded(path)


def need_memory(failed):
    """Raises: MemoryError when a kernel says that it got no memory."""
    if failed:
        raise MemoryError("no memory left for a convolution; close other programs or lower batch_size")


def _built(compiler, flags):
    """Path of the compiled kernels, or None if the compiler fails. They are named by what decides their content."""
    sources = sorted(FOLDER.glob("*.cpp"))
    texts = [path.read_bytes() for path in (*sources, *sorted(FOLDER.glob("*.h")))]
    digest = hashlib.sha256(b"".join(texts) + repr((flags, compiler, torch.__version__)).encode()).hexdigest()[:16]
    target = cache_dir() / f"kernels-{digest}.so"
    if target.exists():
        return target
    try:
        with atomic_path(target) as temporary:
            command = [compiler, "-std=c++17", "-O3", *flags, "-fopenmp", "-shared", "-fPIC", "-o", str(temporary)]
            subprocess.run([*command, *map(str, sources)], check=True, capture_output=True, timeout=300)
    except (subprocess.SubprocessError, OSError, UserError):
        return None
    return target


def _loaded(path):
    """The kernels with the types of their arguments, or None if they won't load."""
    try:
        found = ctypes.CDLL(str(path))
    except OSError:
        return None
    pointer, number = ctypes.c_void_p, ctypes.c_int
    found.winograd_packed.argtypes, found.winograd_packed.restype = [number] * 3, ctypes.c_long
    found.winograd_pack.argtypes = [pointer, number, number, number, number, pointer, number]
    for function in (found.winograd_convolve, found.winograd_weight_gradient):
        function.argtypes, function.restype = [pointer] * 3 + [number] * 7, number
    for function in (found.grey_convolve, found.grey_gradient):
        function.argtypes, function.restype = [pointer] * 3 + [number] * 4, number
    found.panel = found.winograd_panel()
    return found
