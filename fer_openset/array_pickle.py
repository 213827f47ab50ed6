"""Reads a pickle of {name: numpy array}, the form of VGGFace2's weights, and runs nothing that stands in it.

A pickle is a program: it may import any function and call it. Here its few permitted names are answered by stand-ins
that check what they are given, every other name ends the reading, and numpy itself sees only checked bytes. The reader
is the Python form of the standard library's: its memory is a dict, so that a large number in a damaged file costs
nothing (the C form fills a table up to that number).
"""

import io
import math
import pickle
import struct
from collections import OrderedDict

import numpy as np

from fer_openset.errors import UserError

NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


class Refused(pickle.UnpicklingError):
    """The file asks for something that an array of numbers does not need."""


class _Dtype:
    """Stands in for numpy.dtype: a kind of number, and its byte order, which arrives as a state."""

    def __init__(self, code, *_):
        if code not in NUMBERS:
            raise Refused(f"numbers of the type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise Refused("a structured type of numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for a numpy array: its shape, type and bytes arrive as a state."""

    values = None

    def __setstate__(self, state):
        _, shape, kind, fortran, raw = state
        self._fill(raw.encode("latin1") if isinstance(raw, str) else raw, kind, shape, "F" if fortran else "C")

    def _fill(self, raw, kind, shape, order):
        if not isinstance(raw, bytes | bytearray) or not isinstance(kind, _Dtype):
            raise Refused("an array of something other than numbers")
        if any(type(side) is not int or side < 0 for side in shape) or order not in ("C", "F"):
            raise Refused("an array without a shape")
        if math.prod(shape) * kind.dtype.itemsize != len(raw):
            raise ValueError(f"an array of shape {tuple(shape)} comes with {len(raw)} bytes")
        self.values = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


def _reconstruct(subtype, shape, code):
    """An array of the older protocols: empty until its state comes."""
    return _Array()


def _frombuffer(raw, kind, shape, order):
    """An array of protocol 5."""
    array = _Array()
    array._fill(raw, kind, shape, order)
    return array


def _encode(text, encoding="latin1"):
    """How Python 3 writes bytes in protocol 2."""
    if encoding != "latin1":
        raise Refused(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _bytes(*arguments):
    """How Python 3 writes no bytes in protocol 2."""
    if arguments:
        raise Refused("bytes of something")
    return b""


PERMITTED = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "_reconstruct"): _reconstruct,
    ("numpy", "_frombuffer"): _frombuffer,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _bytes,
}
# numpy.core was renamed to numpy._core in numpy 2.
MODULES = {f"numpy.{core}.{module}": "numpy" for core in ("core", "_core") for module in ("multiarray", "numeric")}


class _Reader(pickle._Unpickler):
    """The standard reader, with the permitted names, and states for stand-ins only."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module, name):
        found = PERMITTED.get((MODULES.get(module, module), name))
        if found is None:
            raise Refused(f"{module}.{name}"[:80])
        return found

    def persistent_load(self, pid):
        raise Refused("something kept outside of the file")

    def load_build(self):
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Array | _Dtype):
            target.__setstate__(state)
        elif not isinstance(target, dict):  # an OrderedDict may carry attributes; they are not kept
            raise Refused(f"a state for {type(target).__name__}")

    def load_bytearray8(self):
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # the standard one makes room for `length` before it reads

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def read_arrays(path):
    """Read {name: array} from a pickle. Raises: UserError when the file asks for anything but arrays of numbers, is
    damaged, or holds something else; nothing in it has run then.
    """
    try:
        with open(path, "rb") as file:
            found = _Reader(io.BytesIO(file.read()), encoding="latin1").load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path of the weights.") from None
    except Refused as error:
        raise UserError(f"{path}: refused, it asks for {error} where weights need only arrays; nothing in it was run; "
                        "get the file from its source again.") from None  # fmt: skip
    except Exception as error:  # nothing but the standard reader in this block; damaged files make it raise anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{path}: no readable weights: neither torch's nor safetensors, nor a pickle of arrays ({reason})."
        ) from None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    whole = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(array, _Array) and array.values is not None
        for name, array in found.items()
    )
    if not whole:
        raise UserError(f"{path}: holds something other than named arrays; expected {{name: array}} as in VGGFace2's.")
    return {name: array.values for name, array in found.items()}
