"""Files with a network's weights, in the forms they come in; what a file is shows in its first bytes, not its name."""

import hashlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch

from fer_openset.array_pickle import read_arrays
from fer_openset.checkpoint import load_tensors
from fer_openset.errors import UserError
from fer_openset.pickle_depth import check_torch_pickles

ZIP, OLD_TORCH = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# Under which key a training script keeps the weights among other things.
NESTED = ("state_dict", "model_state_dict", "model", "net")


def sha256(path):
    """SHA-256 of a file, in hexadecimal. Raises: UserError when it cannot be read."""
    _need_file(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path):
    """Read the weights in a torch file, a pickle of numpy arrays or a safetensors file.

    Returns: ({name: tensor}, header); header is what this workbook wrote into its own files, {} for others. A leading
    `module.` of all names goes. Raises: UserError when the file is missing, damaged, holds anything but weights, or
    asks for code: nothing of it has run then.
    """
    path = Path(path)
    start, header = _first_bytes(path), {}
    if start.startswith((ZIP, OLD_TORCH)):
        tensors = _torch_file(path, zipped=start.startswith(ZIP))
    elif start[8:9] == b"{":  # safetensors: eight bytes of length, then a JSON object
        tensors, header = load_tensors(path, remedy="get the file again")
    else:
        tensors = {name: torch.from_numpy(_native(array)) for name, array in read_arrays(path).items()}
    if not tensors:
        raise UserError(f"{path}: holds no weights; check which file this is.")
    if all(name.startswith("module.") for name in tensors):  # written from a network on several devices
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors, header


def _need_file(path):
    if not Path(path).is_file():  # nor a pipe, which would make the reader wait
        raise UserError(f"{path}: there is no such file of weights; check the path.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: cannot be read; check its permissions.")


def _first_bytes(path):
    _need_file(path)
    with open(path, "rb") as file:
        return file.read(16)


def _native(array):
    """A copy of its own in this machine's byte order."""
    return np.array(array, array.dtype.newbyteorder("="))


def _torch_file(path, zipped):
    """Tensors of a torch file; memory-mapped, which also checks that each lies within the file."""
    try:
        if zipped and any(item.compress_type for item in zipfile.ZipFile(path).infolist()):
            raise ValueError("it is compressed, torch's own files are not")
        _check_pickles(path, zipped)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked is None:
            raise _unreadable(path, error) from None
        raise UserError(f"{path}: refused, it asks for {asked[1][:80]} where weights need only tensors; nothing in it "
                        "was run; get the file from its source again.") from None  # fmt: skip
    except Exception as error:  # nothing but torch's reader in this block; damaged files make it raise anything
        raise _unreadable(path, error) from None
    return _plain_tensors(path, found)


def _check_pickles(path, zipped):
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if zipped:  # by torch's own reader: another may find other bytes under the same name
            record = torch._C.PyTorchFileReader(file).get_record("data.pkl")
            check_torch_pickles(io.BytesIO(record), size, pickles=1)
        else:
            check_torch_pickles(file, size)


def _unreadable(path, error):
    reason = shorten(str(error), 120, placeholder=" ...") or type(error).__name__
    return UserError(f"{path}: no readable torch file ({reason}); get the file again.")


def _plain_tensors(path, found):
    if isinstance(found, Mapping):
        found = next((found[key] for key in NESTED if isinstance(found.get(key), Mapping)), found)
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: holds a {type(found).__name__}; expected named tensors.")
    for name, tensor in found.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not isinstance(name, str) or not plain or tensor.is_quantized or tensor.is_complex():
            shown = (
                repr(name[:80]) if isinstance(name, str) else f"what stands under a name of type {type(name).__name__}"
            )
            raise UserError(f"{path}: {shown} is no tensor of plain numbers; expected weights only.")
    return dict(found)
