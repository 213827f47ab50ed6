"""Files appear whole or not at all."""

import errno
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from fer_openset.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP,
          errno.ENOTDIR, errno.EEXIST)  # the last two: a file stands where a folder should  # fmt: skip


@contextmanager
def atomic_path(target):
    """Give a temporary path beside `target`; rename it onto `target` when the block ends without an error.

    The temporary file (or folder) is removed when the block fails, so a killed or failed writer never leaves a
    half-written `target`. Raises: UserError when the disk is full or the folder cannot be written.
    """
    target = Path(target)
    temporary = None
    try:
        with disk_errors(target):
            temporary = _holder(target) / target.name
            yield temporary
            if temporary.is_file():
                with open(temporary, "rb") as handle:
                    os.fsync(handle.fileno())
            os.replace(temporary, target)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary.parent, ignore_errors=True)


def _holder(target):
    """A hidden folder of our own beside `target`: two writers of one target never share a temporary name."""
    if not target.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except FileNotFoundError as error:  # in /proc, or removed meanwhile; a writer may miss other files than this one
        raise UserError(f"{target}: its folder cannot be written ({error.strerror}); choose another.") from error


def need_writable(target):
    """Find out, before long work, that the file `target` could be written; makes its folder.

    Raises: UserError when it is no name of a file, names a folder, or its folder cannot be written.
    """
    target = Path(target)
    with disk_errors(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _holder(target).rmdir()


@contextmanager
def disk_errors(target):
    """Say in one sentence that the disk is full or the folder closed. Raises: UserError naming `target`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                f"{target}: the disk is full, nothing was written there; free some space and run the command again."
            ) from error
        if error.errno == errno.EISDIR:
            raise UserError(f"{target}: a folder stands there; give the name of a file.") from error
        if error.errno in CLOSED:
            raise UserError(f"{target}: its folder cannot be written ({error.strerror}); choose another.") from error
        raise


def write_text(target, text):
    """Write `text` (UTF-8) to `target` atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_json(target, value):
    """Write `value` (plain JSON values only) as indented JSON to `target` atomically."""
    write_text(target, json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_csv(target, frame, **options):
    """Write a pandas DataFrame to `target` atomically, without its index unless asked."""
    with atomic_path(target) as path:
        frame.to_csv(path, **{"index": False, **options})
