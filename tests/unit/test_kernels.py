"""The kernels are compiled once; without a compiler the library's convolutions are used."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from rounding import needs_kernel

from fer_openset import kernels
from fer_openset.convolution import Conv3x3


def left_in(folder):
    return sorted(path.name for path in folder.glob("**/*")) if folder.exists() else []


@needs_kernel
def test_the_kernel_is_built_once(fresh_kernels, monkeypatch):
    assert kernels.library() is not None
    (name,) = left_in(fresh_kernels.cache)
    kernels.library.cache_clear()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("built again"))
    assert kernels.library() is not None and left_in(fresh_kernels.cache) == [name]


@needs_kernel
def test_another_source_is_another_kernel(fresh_kernels, monkeypatch, tmp_path):
    assert kernels.library() is not None
    changed = shutil.copytree(kernels.FOLDER, tmp_path / "kernels")
    with open(changed / "vectors.h", "a") as file:
        file.write("// changed")
    monkeypatch.setattr(kernels, "FOLDER", changed)
    kernels.library.cache_clear()
    assert kernels.library() is not None and len(left_in(fresh_kernels.cache)) == 2


@pytest.mark.parametrize("variable", [("FER_OPENSET_KERNELS", "0"), ("CXX", "no-such-compiler"), ("CXX", "false")])
def test_without_the_kernel_the_library_convolves(fresh_kernels, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    assert kernels.library() is None and left_in(fresh_kernels.cache) == []
    x, conv = torch.randn(8, 64, 12, 12), Conv3x3(64, 64, 1)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, None, 1, 1))


def test_a_source_that_does_not_compile_leaves_nothing(fresh_kernels, monkeypatch, tmp_path):
    (tmp_path / "broken.cpp").write_text("not C++")
    monkeypatch.setattr(kernels, "FOLDER", tmp_path)
    assert kernels.library() is None and left_in(fresh_kernels.cache) == []


def test_a_cache_folder_that_cannot_be_written_is_no_reason_to_stop(fresh_kernels):
    fresh_kernels.cache.write_text("a file")
    assert kernels.library() is None


def test_a_kernel_that_does_not_load_is_left_alone(fresh_kernels, monkeypatch):
    monkeypatch.setattr(kernels, "_built", lambda *_: fresh_kernels.cache / "none.so")
    assert kernels.library() is None


@needs_kernel
def test_two_processes_that_build_at_once_both_get_it(fresh_kernels):
    code = "from fer_openset import kernels; raise SystemExit(kernels.library() is None)"
    started = [subprocess.Popen([sys.executable, "-c", code], env=os.environ) for _ in range(2)]
    assert [process.wait(120) for process in started] == [0, 0]
    assert len(left_in(fresh_kernels.cache)) == 1
