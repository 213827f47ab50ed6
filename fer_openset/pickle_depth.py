"""Looks through the pickle in a torch file before torch reads it: nothing is imported, called or built.

torch.load(weights_only=True) calls no stranger's function, but it hashes and prints what the file gives it. A tuple
that holds the same tuple twice, sixty times over, is a few hundred bytes in a file and 2**60 steps to hash or to print.
So the opcodes are followed here with stand-ins that know only how large an object is once it is written out in full.
Torch's own files need about 5 such steps for each of their bytes, and nest some 10 deep.
"""

import pickletools
from itertools import islice

DEEPEST = 100  # deeper tuples overflow the C stack when they are hashed
STEPS = 40  # for each byte read so far, and for a thousand more
CONSTANTS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"),
    *("NONE", "NEWTRUE", "NEWFALSE"),
}
EMPTY = {"EMPTY_DICT": None, "EMPTY_LIST": None, "EMPTY_SET": None, "EMPTY_TUPLE": ()}
OLD_PICKLES = 5  # in torch's older files: magic number, protocol, machine, content, keys of the storages


class _Name(str):
    """What the file asks to import."""


class _Node:
    """Stands in for an object: its size written out in full, how deep it nests, and its value if it is a plain one."""

    __slots__ = ("depth", "shared", "size", "value")

    def __init__(self, parts=(), value=None):
        self.size, self.depth, self.value, self.shared = 1, 1, value, False
        if isinstance(value, str):
            self.size += len(value)
        self.add(parts)

    def add(self, parts):
        """Put parts into it. Returns: how much larger it has become."""
        if self.shared:  # those who hold it already have counted it as it was
            raise ValueError("something in it changes after it was used")
        if any(isinstance(part.value, _Name) and part.value.endswith(" encode") for part in parts):
            raise ValueError("it hands on a function")  # to be called where _check_call does not see it
        self.depth = max([self.depth, *(1 + part.depth for part in parts)])
        if self.depth > DEEPEST:
            raise ValueError(f"it nests more than {DEEPEST} deep")
        more = sum(part.size for part in parts)
        self.size += more
        return more


def check_torch_pickles(file, most_bytes, pickles=OLD_PICKLES):
    """Look through the pickles that stand in a binary file, one after the other, from where it is.

    most_bytes: the size of the torch file; no storage in it can hold more numbers.
    Raises: ValueError for a pickle that would cost more than its size allows, or is none of torch's.
    """
    for _ in range(pickles):
        _check(file, most_bytes)


def _check(file, most_bytes):
    stack, frames, memo, steps = [], [], {}, 0
    for opcode, argument, position in pickletools.genops(file):
        name = opcode.name
        if name in CONSTANTS:
            stack.append(_Node(value=argument))
        elif name in EMPTY:
            stack.append(_Node(value=EMPTY[name]))
        elif name == "GLOBAL":
            if argument.endswith(" bytearray"):
                raise ValueError("it asks for a bytearray, which may be of any size")
            stack.append(_Node(value=_Name(argument)))
        elif name == "MARK":
            frames.append(stack)
            stack = []
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            memo[argument].shared = True
            stack.append(memo[argument])
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            parts, stack = stack, frames.pop()
            steps += _tuple(stack, parts) if name == "TUPLE" else stack[-1].add(parts)
        elif name not in ("PROTO", "STOP"):
            steps += _build(name, stack, most_bytes)
        if steps > STEPS * (position + 1000):
            raise ValueError("it holds the same things over and over")


def _tuple(stack, parts):
    stack.append(_Node(parts, value=tuple(parts)))
    return stack[-1].size


def _build(name, stack, most_bytes):
    """Do what an opcode does with the top of the stack. Returns: how many steps that may take torch."""
    if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        return _tuple(stack, [stack.pop() for _ in range(int(name[-1]))][::-1])
    if name in ("APPEND", "BUILD", "SETITEM"):
        parts = [stack.pop() for _ in range(2 if name == "SETITEM" else 1)]
        return stack[-1].add(parts)
    if name in ("REDUCE", "NEWOBJ"):
        arguments, function = stack.pop(), stack.pop()
        _check_call(function.value, arguments.value)
        stack.append(_Node([arguments]))
    elif name == "BINPERSID":
        storage = stack.pop()
        if any(type(part.value) is int and part.value > most_bytes for part in storage.value or ()):
            raise ValueError("it promises more numbers than it has bytes")
        stack.append(_Node([storage]))
    else:
        raise ValueError(f"the opcode {name} has no place among weights")
    return stack[-1].size


def _check_call(function, arguments):
    """Torch prints whatever it is told to call and does not know; some of Python's encodings take forever."""
    if not isinstance(function, _Name) or not isinstance(arguments, tuple):
        raise ValueError("it calls something that has no name")
    if function.endswith(" encode") and [part.value for part in islice(arguments, 1, None)] != ["latin1"]:
        raise ValueError("it asks for an encoding other than latin1")
