"""What numpy raises when a .npy or .npz file is damaged; it is not written anywhere, the fuzz test found it."""

import struct
import tokenize
import zipfile
import zlib

DAMAGED = (
    ValueError, KeyError, TypeError, OSError, EOFError, IndexError, AttributeError, OverflowError, MemoryError,
    SyntaxError, RecursionError, NotImplementedError, RuntimeError, SystemError,
    tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
