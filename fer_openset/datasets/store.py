"""Decode once: every dataset's images as one memory-mapped uint8 file, named by what decides its pixels."""

import hashlib
import io
import json
import shutil
import time
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset.datasets.partial import Partial
from fer_openset.errors import UserError
from fer_openset.numpy_files import DAMAGED
from fer_openset.settings import cache_dir, thread_count

try:
    import fcntl
except ImportError:  # Windows: two builders then both decode, and the last rename wins with the same bytes.
    fcntl = None

FORMAT = 1  # raise it when the layout of the stored file changes
SPLITS = ("train", "valid", "test")
CHUNK_BYTES = 4 * 2**20
MOST_THREADS = 8
KEEP_SECONDS = 7 * 24 * 3600  # a beginning that nobody went on with for a week goes
QUIET_SECONDS = 2.0  # a shorter build prints nothing
LINE_SECONDS = 3.0


@dataclass(frozen=True)
class Listing:
    """What a reader finds: the table, and how to decode any stretch of its rows when the store needs them.

    Shapes: table: N rows indexed by `sample_id` (unique str), columns `label` (one of `classes`) and `split`
    (train, valid, test); decode(start, stop) -> (stop - start, C, H, W) uint8 for those rows of the table, where
    shape = (C, H, W) and C is 1 or 3; several threads call it at once. `key_material` is JSON-able and names everything
    that decides the pixels: reader version, options, the files' contents or their sizes and times.
    Raises: ValueError when a reader breaks this, UserError for a sample id that is not UTF-8.
    """

    name: str
    table: pd.DataFrame
    classes: tuple[str, ...]
    key_material: dict
    shape: tuple[int, int, int]
    decode: Callable[[int, int], np.ndarray]
    files: list[str] | None = None  # the picture behind each row, where there is one: only check-data looks at them
    people: list[str] | None = None  # who is on each row's picture, where the reader knows
    left_out: tuple[str, ...] = ()  # classes that a trial has taken out (see `trial`)

    def __post_init__(self):
        table = self.table
        if table.index.name != "sample_id" or not table.index.is_unique or list(table.columns) != ["label", "split"]:
            raise ValueError(f"{self.name}: the table must have a unique index sample_id and columns label, split")
        if not set(table["split"]) <= set(SPLITS) or not set(table["label"]) <= set(self.classes):
            raise ValueError(f"{self.name}: the table holds a split or label that is not declared")
        for sample in table.index:
            if not sample.isascii() and any("\ud800" <= c <= "\udfff" for c in sample):
                raise UserError(f"{self.name}: the file name {sample!a} is not UTF-8; rename the file.")
        if len(self.shape) != 3 or self.shape[0] not in (1, 3):
            raise ValueError(f"{self.name}: shape must be (1 or 3, height, width), got {self.shape}")

    @property
    def key(self):
        """Name of the store: sha256 over the key material, the sample ids in order, and the shape."""
        # A file name, and so an id, may hold a line break: escaped, or two lists of ids could look the same.
        lines = (i.replace("\\", "\\\\").replace("\n", "\\n") for i in self.table.index)
        ids = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        material = [FORMAT, self.name, list(self.shape), ids, self.key_material]
        return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()


def open_store(listing, folder=None):
    """Return the images of `listing`, decoding them on first use into `folder`/KEY/images.npy.

    Shapes: (N, C, H, W) uint8, read-only memory map, row i belongs to row i of the table. A killed build leaves nothing
    that looks finished, and the next one goes on with it; of two processes that need the same store one builds and the
    other waits.
    Raises: UserError for an empty listing, an image that cannot be decoded, a full disk or a folder without permission.
    """
    if len(listing.table) == 0:
        raise UserError(f"{listing.name}: no image is left to read; check the data folder and the dataset's settings.")
    folder = Path(folder or cache_dir())
    target = folder / listing.key / "images.npy"
    images = _finished(target, listing)
    if images is None:
        with _only_builder(target.parent) as locked:
            if locked:
                _sweep(target)
            images = _finished(target, listing)  # another process may have built it while we waited
            if images is None:
                _build(target, listing, resumable=locked)
                images = _finished(target, listing)
        if images is None:
            raise UserError(f"{target}: changed while it was written; delete its folder and run the command again.")
    return images


def _finished(target, listing):
    """The memory map of a whole store, or None when it is absent, cut short or not of the expected shape."""
    try:
        images = np.lib.format.open_memmap(target, mode="r")
        size = target.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{target}: cannot be read ({error.strerror}); delete it, it is made again.") from error
    except DAMAGED:  # no such header, or fewer bytes than the header promises
        return None
    whole = images.dtype == np.uint8 and images.shape == (len(listing.table), *listing.shape)
    return images if whole and images.flags.c_contiguous and size == images.offset + images.nbytes else None


@contextmanager
def _only_builder(folder):
    """Hold the folder's lock; the kernel frees it when its holder dies. Yields False where locks are not supported."""
    with _lock_file(folder) as handle:
        locked = _try_lock(handle)
        if locked is False:
            print(f"another process is decoding {folder.name[:12]}, waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield locked is not None


def _lock_file(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / ".lock", "ab")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another cache folder.") from error


def _try_lock(handle):
    """True: the lock is ours; False: another process holds it; None: this system or file system has no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None


def _sweep(target):
    """Remove what killed builders left: of this store (we hold its lock) what cannot be gone on with, of others that
    nobody holds everything but a recent beginning."""
    for leftover in target.parent.parent.glob(f"*/.{target.name}.*"):
        beginning = leftover.name.startswith(f".{target.name}.partial")
        if leftover.parent == target.parent:
            if not beginning:
                _remove(leftover)
            continue
        with _lock_file(leftover.parent) as handle:
            if _try_lock(handle) and not (beginning and time.time() - leftover.stat().st_mtime < KEEP_SECONDS):
                _remove(leftover)


def _remove(leftover):
    if leftover.is_dir():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def _build(target, listing, resumable):
    """Decode the listing in a few threads and write its images in order; goes on from what a killed builder wrote."""
    count, row = len(listing.table), int(np.prod(listing.shape))
    header = io.BytesIO()
    layout = {"descr": "|u1", "fortran_order": False, "shape": (count, *listing.shape)}
    np.lib.format.write_array_header_1_0(header, layout)
    # Plain writes, not a writable memory map: on a full disk those raise an error, a map kills the process.
    with Partial(target, header.getvalue(), resumable) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about odd files; what cannot be read is an error of ours
        done = partial.written // row
        if done:
            print(f"{listing.name}: going on after {done:,} of {count:,} images", flush=True)
        progress = _Progress(listing.name, count, done)
        with closing(_decoded(listing, done)) as chunks:
            for chunk in chunks:
                partial.append(np.ascontiguousarray(chunk).data.cast("B"))
                done += len(chunk)
                progress.tell(done)
        partial.finish()
    progress.done()


def _decoded(listing, done):
    """Chunks of images from row `done` on, in order, decoded by threads that run a little ahead of the writer.

    Threads, for Pillow and numpy let go of the interpreter while they work; all chunks that are alive at one time take
    at most 2 * MOST_THREADS * CHUNK_BYTES.
    """
    count = len(listing.table)
    step = max(1, CHUNK_BYTES // int(np.prod(listing.shape)))
    starts = range(done, count, step)
    if starts:  # the first one alone: a reader may look through its files when it is first asked
        yield _decode(listing, done, min(done + step, count))
    threads, waiting = min(MOST_THREADS, thread_count()), deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for start in starts[1:]:
                waiting.append(pool.submit(_decode, listing, start, min(start + step, count)))
                if len(waiting) == 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for chunk in waiting:
                chunk.cancel()


def _decode(listing, start, stop):
    chunk = listing.decode(start, stop)
    if chunk.dtype != np.uint8 or chunk.shape != (stop - start, *listing.shape):
        raise ValueError(f"{listing.name}: decode gave {chunk.dtype} {chunk.shape} for rows {start}:{stop}")
    return chunk


class _Progress:
    """One line every few seconds, and none for a build that is over at once."""

    def __init__(self, name, count, before=0):
        self.name, self.count, self.before = name, count, before
        self.began = time.monotonic()
        self.next_line = self.began + QUIET_SECONDS
        self.spoke = False

    def tell(self, done):
        now = time.monotonic()
        if now >= self.next_line:
            left = (now - self.began) * (self.count - done) / (done - self.before)
            print(f"{self.name}: {done:,} of {self.count:,} images decoded, about {left:.0f} s left", flush=True)
            self.next_line, self.spoke = now + LINE_SECONDS, True

    def done(self):
        if self.spoke:
            print(
                f"{self.name}: {self.count - self.before:,} images decoded in {time.monotonic() - self.began:.0f} s",
                flush=True,
            )
