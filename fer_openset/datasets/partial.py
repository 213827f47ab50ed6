"""A store's file while it is being built: its chunks in order, and beside it a checksum of each, so that a build that
was killed goes on where it stopped, even when the power went and the last bytes never reached the disk.
"""

import os
import uuid
import zlib
from contextlib import suppress

from fer_openset.atomic import disk_errors

READ = 2**22


class Partial:
    """The file `.NAME.partial` beside `target`, and `.NAME.partial.sums` with a line `CRC32 BYTES` for each chunk.

    A context manager. An error removes both; a kill or Ctrl-C leaves them to be resumed. resumable: False where two
    builders cannot be kept apart (no locks): the file then has a name of its own and is never gone on with.
    Raises: UserError when the disk is full or the folder cannot be written.
    """

    def __init__(self, target, header, resumable):
        self.target, self.header, self.resumable = target, header, resumable
        name = f".{target.name}.{'partial' if resumable else uuid.uuid4().hex}"
        self.path, self.sums_path = target.with_name(name), target.with_name(name + ".sums")
        self.file = self.sums = None

    def __enter__(self):
        with disk_errors(self.target):
            whole = self._whole_bytes()
            if whole is None:
                self.file, self.sums, self.written = open(self.path, "wb"), open(self.sums_path, "wb"), 0
                self.file.write(self.header)
            else:
                self.file, self.sums = open(self.path, "r+b"), open(self.sums_path, "r+b")
                self.written, lines = whole
                self.file.truncate(len(self.header) + self.written)
                self.sums.truncate(lines)
                self.file.seek(0, os.SEEK_END)
                self.sums.seek(0, os.SEEK_END)
        return self

    def append(self, chunk):
        """Write one chunk (bytes-like)."""
        with disk_errors(self.target):
            self.file.write(chunk)
            self.file.flush()
            self.sums.write(b"%d %d\n" % (zlib.crc32(chunk), len(chunk)))
            self.sums.flush()
            self.written += len(chunk)

    def finish(self):
        """Put the whole file in its place."""
        with disk_errors(self.target):
            self.file.flush()
            os.fsync(self.file.fileno())
            self._close()
            os.replace(self.path, self.target)
            self.sums_path.unlink()

    def __exit__(self, kind, error, trace):
        with suppress(OSError):  # on a full disk what is left in a buffer cannot be written either
            self._close()
        if kind is not None and (issubclass(kind, Exception) or not self.resumable):
            self.path.unlink(missing_ok=True)
            self.sums_path.unlink(missing_ok=True)

    def _close(self):
        for file in (self.file, self.sums):
            file.close()

    def _whole_bytes(self):
        """How much of what a killed builder left is whole: (bytes of chunks, bytes of sums), None when nothing is."""
        if not (self.resumable and self.path.exists() and self.sums_path.exists()):
            return None
        with open(self.path, "rb") as file, open(self.sums_path, "rb") as sums:
            if file.read(len(self.header)) != self.header:
                return None
            done = lines = 0
            for line in sums:
                words = line.split()
                if not line.endswith(b"\n") or len(words) != 2 or not all(word.isdigit() for word in words):
                    break
                if _checksum(file, int(words[1])) != int(words[0]):
                    break
                done, lines = done + int(words[1]), lines + len(line)
        return (done, lines) if done else None


def _checksum(file, length):
    """CRC32 of the next `length` bytes, None when there are fewer."""
    value = 0
    while length:
        data = file.read(min(length, READ))
        if not data:
            return None
        value, length = zlib.crc32(data, value), length - len(data)
    return value
