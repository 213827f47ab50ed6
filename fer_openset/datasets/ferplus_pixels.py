"""FERPlus's faces, as PNG files in three folders or as rows of fer2013.csv: where they are and how to decode them."""

import hashlib
import os

import numpy as np
from PIL import Image

from fer_openset.datasets.image_files import match, scan
from fer_openset.datasets.pictures import read_picture
from fer_openset.errors import UserError

VOTES_FILE, PIXELS_FILE = "fer2013new.csv", "fer2013.csv"
FOLDERS = {"Training": "FER2013Train", "PublicTest": "FER2013Valid", "PrivateTest": "FER2013Test"}
SIDE = 48  # of a FER2013 face


def need_columns(path, found, needed):
    """Raises: UserError naming the columns of a CSV file that are missing."""
    missing = [column for column in needed if column not in found]
    if missing:
        raise UserError(f"{path}: no column {', '.join(missing)}; its first line must name {', '.join(needed)}.")


def png_folder(root):
    """The folder that holds the PNG folders (`root` or `root`/data), or None when neither does.

    A fresh clone of FERPlus has the three folders with a label.csv only, so a folder counts once a PNG file is in it.
    """
    for base in (root, root / "data"):
        for folder in FOLDERS.values():
            if os.path.isdir(base / folder) and any(name.endswith(".png") for name in os.listdir(base / folder)):
                return base
    return None


def check_pngs(base, votes):
    """Compare the votes with what is on disk; return a digest of names, sizes and times, without opening an image.

    `votes` holds a row an image, columns folder and name. Raises: UserError for an image without votes or the reverse.
    """
    digest = hashlib.sha256()
    for folder in FOLDERS.values():
        here, names = base / folder, votes["name"][votes["folder"] == folder]
        if not os.path.isdir(here):
            if names.empty:
                continue
            raise UserError(f"{here}: there is no such folder, but {VOTES_FILE} lists {len(names)} images in it.")
        found = scan(here, ".png")
        match(here, names, found, VOTES_FILE)
        for name, (size, changed) in found.items():
            digest.update(f"{folder}/{name} {size} {changed}\n".encode())
    return digest.hexdigest()


def png_decoder(base, kept, size):
    """Decoder of the PNG files of the rows `kept`. Shapes: decode(start, stop) -> (n, 1, size, size) uint8."""
    files = list(zip(kept["folder"], kept["name"], strict=True))
    return lambda start, stop: np.stack([read_picture(base / f / name, 1, size) for f, name in files[start:stop]])


class Fer2013File:
    """fer2013.csv as a random-access file of faces: 290 MB of text, of which one row at a time is in memory.

    `usages` holds the Usage of every row of fer2013new.csv, `positions` the rows whose faces are wanted.
    Raises: UserError, at the first decode, when the two files do not pair row by row or a row holds no face.
    """

    def __init__(self, path, usages, positions, size):
        self.path, self.usages, self.positions, self.size = path, usages, positions, size
        self.columns = self.starts = self.unpaired = None

    def decode(self, start, stop):
        """Faces start..stop of those wanted. Shapes: (stop - start, 1, size, size) uint8."""
        if self.unpaired:  # looked through once: check-data asks again for each row
            raise UserError(self.unpaired)
        if self.starts is None:
            self.starts = self._index()
        with self._open() as handle:
            return np.stack([self._read_face(handle, position) for position in self.positions[start:stop]])

    def _open(self):
        try:
            return open(self.path, "rb")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}); get the file again.") from None

    def _index(self):
        """Where each row begins, in bytes."""
        starts = []
        with self._open() as handle:
            header = [field.decode("utf-8-sig", "replace") for field in _fields(handle.readline())]
            need_columns(self.path, header, ("pixels", "Usage"))
            self.columns = header.index("pixels"), header.index("Usage"), len(header)
            offset = handle.tell()
            for line in handle:
                if line.strip():
                    self._check_row(_fields(line), len(starts))
                    starts.append(offset)
                offset += len(line)
        if len(starts) != len(self.usages):
            self._unpaired(f"{len(starts)} rows, but {VOTES_FILE} has {len(self.usages)}")
        return starts

    def _check_row(self, fields, position):
        _, usage, count = self.columns
        if len(fields) != count:
            self._unpaired(f"line {position + 2} has {len(fields)} fields, expected {count}")
        if position < len(self.usages) and fields[usage] != self.usages[position].encode():
            found = fields[usage].decode("utf-8", "replace")
            self._unpaired(f"line {position + 2} says {found}, but {VOTES_FILE} says {self.usages[position]} there")

    def _unpaired(self, what):
        self.unpaired = f"{self.path}: {what}; the two files pair row by row, get both of them whole."
        raise UserError(self.unpaired)

    def _read_face(self, handle, position):
        handle.seek(self.starts[position])
        try:
            values = bytes(map(int, _fields(handle.readline())[self.columns[0]].split()))  # refuses all but 0..255
        except ValueError:
            values = b""
        if len(values) != SIDE * SIDE:
            raise UserError(f"{self.path}: line {position + 2} has no {SIDE * SIDE} pixels of 0..255; get it again.")
        face = Image.frombytes("L", (SIDE, SIDE), values)
        if self.size != SIDE:  # as read_picture does
            face = face.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return np.asarray(face)[None]


def _fields(line):
    return [field.strip(b' "\t') for field in line.rstrip(b"\r\n").split(b",")]
