"""Reads a pickle of {name: numpy array}, the form of VGGFace2's weights, and runs nothing that stands in it.

A pickle is a program: it may import any function and call it. Here its few permitted names are answered by stand-ins
that check what they are given, every other name ends the reading, and numpy itself sees only checked bytes. The reader
is the Python form of the standard library's: its memory is a dict, so that a large number in a damaged file costs
nothing (the C form fills a table up to that number). A few bytes may also describe a tuple that holds itself over and
over, which takes for ever to hash or to print: keys are plain values, and no message prints anything else.
"""

import io
import math
import pickle
import struct
from collections import OrderedDict

import numpy as np

from fer_openset.errors import UserError

NUMBERS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
MOST_SIDES, LONGEST_SIDE = 8, 2**40
COPIES = 16  # of the file's size that its arrays and bytes may come to; in an honest file all of them stand in it
PLAIN = (str, bytes, int, float, bool, type(None))


class Refused(pickle.UnpicklingError):
    """The file asks for something that an array of numbers does not need."""


def _shown(value):
    return repr(value[:40]) if isinstance(value, str) else f"(a {type(value).__name__})"


class _Dtype:
    """Stands in for numpy.dtype: a kind of number, and its byte order, which arrives as a state."""

    def __init__(self, code, *_):
        if not isinstance(code, str) or code not in NUMBERS:
            raise Refused(f"numbers of the type {_shown(code)}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise Refused("a structured type of numbers")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for a numpy array: its shape, type and bytes arrive as a state."""

    values = None

    def fill(self, raw, kind, shape, order):
        if not isinstance(raw, bytes | bytearray) or not isinstance(kind, _Dtype):
            raise Refused("an array of something other than numbers")
        if not _is_shape(shape) or order not in ("C", "F"):
            raise Refused("an array without a shape")
        if math.prod(shape) * kind.dtype.itemsize != len(raw):
            raise ValueError(f"an array of shape {tuple(shape)} comes with {len(raw)} bytes")
        self.values = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)


def _is_shape(shape):
    return (
        isinstance(shape, tuple | list)
        and len(shape) <= MOST_SIDES  # before the product: that of many large numbers takes hours
        and all(type(side) is int and 0 <= side <= LONGEST_SIDE for side in shape)
    )


def _reconstruct(subtype, shape, code):
    """An array of the older protocols: empty until its state comes."""
    return _Array()


def _frombuffer(raw, kind, shape, order):
    """An array of protocol 5."""
    array = _Array()
    array.fill(raw, kind, shape, order)
    return array


def _need_plain(keys):
    for key in keys:
        if type(key) not in PLAIN:
            raise Refused(f"a name of type {type(key).__name__}")


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
    ("__builtin__", "bytes"): _bytes,
}
# numpy.core was renamed to numpy._core in numpy 2.
MODULES = {f"numpy.{core}.{module}": "numpy" for core in ("core", "_core") for module in ("multiarray", "numeric")}


class _Reader(pickle._Unpickler):
    """The standard reader, with the permitted names, states for stand-ins only, and plain keys only."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, raw):
        super().__init__(io.BytesIO(raw), encoding="latin1")
        self.left = COPIES * len(raw)

    def encode(self, text, encoding="latin1"):
        """How Python 3 writes bytes in protocol 2. The text may be named again and again, and is copied each time."""
        if encoding != "latin1":
            raise Refused(f"the encoding {_shown(encoding)}")
        self._spend(len(text))
        return text.encode("latin1")

    def ordered(self, pairs=()):
        """How Python 2 writes an OrderedDict; Python 3 makes an empty one and fills it as any dict."""
        self._spend(len(pairs))
        _need_plain([name for name, _ in pairs])
        return OrderedDict(pairs)

    def _spend(self, count):
        self.left -= count
        if self.left < 0:
            raise Refused("the same things over and over")

    def find_class(self, module, name):
        copying = {("_codecs", "encode"): self.encode, ("collections", "OrderedDict"): self.ordered}
        found = (PERMITTED | copying).get((MODULES.get(module, module), name))
        if found is None:
            raise Refused(f"{module}.{name}"[:80])
        return found

    def persistent_load(self, pid):
        raise Refused("something kept outside of the file")

    def load_build(self):
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _Array):
            _, shape, kind, fortran, raw = state
            raw = self.encode(raw) if isinstance(raw, str) else raw
            target.fill(raw, kind, shape, "F" if fortran else "C")
        elif isinstance(target, _Dtype):
            target.__setstate__(state)
        elif not isinstance(target, dict):  # an OrderedDict may carry attributes; they are not kept
            raise Refused(f"a state for {type(target).__name__}")

    def load_bytearray8(self):
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))  # the standard one makes room for `length` before it reads

    def load_setitem(self):
        _need_plain(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        _need_plain(self.stack[::2])
        super().load_setitems()

    def load_dict(self):
        _need_plain(self.stack[::2])
        super().load_dict()

    def load_frozenset(self):
        _need_plain(self.stack)
        super().load_frozenset()

    def load_additems(self):
        _need_plain(self.stack)
        super().load_additems()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.FROZENSET[0]] = load_frozenset
    dispatch[pickle.ADDITEMS[0]] = load_additems


def read_arrays(path):
    """Read {name: array} from a pickle. Raises: UserError when the file asks for anything but arrays of numbers, is
    damaged, or holds something else; nothing in it has run then.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read()
        found = _Reader(raw).load()
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
    if sum(array.values.nbytes for array in found.values()) > COPIES * len(raw):  # whoever takes them copies each
        raise UserError(f"{path}: names the same arrays over and over; get the file from its source again.")
    return {name: array.values for name, array in found.items()}
