"""CIFAR-10's Python batches, taken apart opcode by opcode: nothing in the file is imported, called or executed.

A batch is a pickled dict with `labels`, a list of numbers, and `data`, a numpy array (n, 3072) uint8. The opcodes are
read by the standard library's disassembler; the few that such a file needs build lists, dicts and inert records here,
and any other refuses the file. What it holds is checked before it is hashed, compared or printed: a tuple that holds
the same tuple twice, many times over, would take for ever. Differs: torchvision calls pickle.load, which runs whatever
a file says.
"""

import pickletools

import numpy as np

from fer_openset.errors import UserError

PIXELS = 3 * 32 * 32
MOST_BYTES = 64 * 2**20  # a published batch has 31 MB
MOST_OPCODES = 200_000  # and 30,000 of these
CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINBYTES", "BINBYTES"),
    *("BINUNICODE", "SHORT_BINUNICODE"),
}
EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
ARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
# What a damaged file leads to here: Python finds in it what it cannot pop, look up, convert or hold.
FAILURES = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError, MemoryError)


class _Inert:
    """What the file says to call, with what, and the state it says to set: only looked at, never done."""

    def __init__(self, function, arguments):
        self.function, self.arguments, self.state = function, arguments, None


def read_batch(path):
    """Labels (n,) and pictures (n, 3072), both uint8. Raises: UserError for a file that is no such batch."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MiB")
        batch = {_text(key): value for key, value in _assemble(path.read_bytes()).items()}
        labels, pictures = _labels(batch["labels"]), _pictures(batch["data"])
        if len(labels) != len(pictures):
            raise ValueError(f"{len(labels)} labels for {len(pictures)} pictures")
        return labels, pictures
    except FAILURES as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a batch of CIFAR-10 ({type(error).__name__}: {reason}); "
                        "get the file again.") from None  # fmt: skip


def _assemble(raw):
    """The structure that a pickle describes, with _Inert records where it would call something."""
    stack, marks, memo = [], [], {}
    for count, (opcode, argument, _) in enumerate(pickletools.genops(raw)):
        name = opcode.name
        if count == MOST_OPCODES:
            raise ValueError("far more opcodes than a batch needs")
        if name == "STOP":
            return stack.pop()
        if name in CONSTANTS:
            stack.append(argument)
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in VALUES:
            stack.append(VALUES[name])
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name not in ("PROTO", "FRAME"):
            _build(name, argument, stack, marks)
    raise ValueError("it ends too early")


def _build(name, argument, stack, marks):
    if name == "GLOBAL":
        stack.append(_Inert(argument, ()))
    elif name == "STACK_GLOBAL":
        function, module = stack.pop(), stack.pop()
        if not isinstance(function, str) or not isinstance(module, str):
            raise ValueError("it names a function by something other than text")
        stack.append(_Inert(f"{module} {function}", ()))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_Inert(function.function, arguments))
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name == "TUPLE":
        stack.append(tuple(_since_mark(stack, marks)))
    elif name == "APPEND":
        value = stack.pop()
        stack[-1].append(value)
    elif name == "APPENDS":
        values = _since_mark(stack, marks)
        stack[-1].extend(values)
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        _put(stack[-1], [key], [value])
    elif name == "SETITEMS":
        values = _since_mark(stack, marks)
        _put(stack[-1], values[::2], values[1::2])
    else:
        raise ValueError(f"the opcode {name} has no place in a batch")


def _put(target, keys, values):
    if not isinstance(target, dict) or not all(isinstance(key, str | bytes) for key in keys):
        raise ValueError("it names something by other than text")
    target.update(zip(keys, values, strict=True))


def _since_mark(stack, marks):
    """What lies above the topmost mark; both leave the stack."""
    at = marks.pop()
    values = stack[at:]
    del stack[at:]
    return values


def _text(value):
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _labels(values):
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 256 for value in values):
        raise ValueError("its labels are no list of class numbers")
    return np.array(values, np.uint8)


def _pictures(array):
    if array.function not in ARRAYS:
        raise ValueError(f"its data is made by {array.function[:60]}, expected a numpy array")
    _, shape, dtype, fortran, raw = array.state
    if isinstance(raw, str):  # a Python 2 string, which the disassembler hands over as latin-1 text
        raw = raw.encode("latin-1")
    if not isinstance(shape, tuple) or len(shape) != 2 or any(type(s) is not int or s >> 31 for s in shape):
        raise ValueError("its data has no shape of two numbers")
    if dtype.function != "numpy dtype" or _text(dtype.arguments[0]) != "u1" or fortran or shape[1:] != (PIXELS,):
        raise ValueError(f"its data has shape {shape}, expected rows of {PIXELS} bytes")
    return np.frombuffer(raw, np.uint8).reshape(shape)
