"""Make-believe photo albums from the drawn faces: what is shown and tested needs no picture of a person."""

import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from fer_openset.datasets.synthetic import examples
from fer_openset.labels import BASIC

SIZES = ((320, 240), (240, 320), (480, 360), (640, 480), (400, 400))
DRAWN = 128  # pixels a side at which faces are drawn
PEOPLE = 4  # at most, for each expression: an album shows the same faces again
KINDS = ("grey", "colour", "rgba", "sixteen", "empty", "corrupt", "several")
# Share of each kind in an album.
MIX = dict(zip(KINDS, (0.3, 0.4, 0.06, 0.06, 0.08, 0.04, 0.06), strict=True))


def make_photos(folder, n=24, seed=0, sizes=SIZES):
    """Write an album of n photos of mixed size and kind; returns {file name: kind}, kinds being `KINDS`.

    `empty` shows no face, `corrupt` is a file cut short, `several` shows a large and a small face; the others are one
    face as grey or colour JPEG, or PNG with transparency or with 16 bits a pixel. Equal seeds make equal pictures.
    """
    folder, rng = Path(folder), np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {kind: max(1, round(share * n)) for kind, share in MIX.items()}
    counts["colour"] = max(1, n - sum(count for kind, count in counts.items() if kind != "colour"))
    kinds = rng.permutation([kind for kind, count in counts.items() for _ in range(count)])
    people = min(PEOPLE, -(-len(kinds) // len(BASIC)))
    faces = rng.permutation(examples(BASIC, people, image_size=DRAWN, seed=seed)[1][:, 0])
    made = {}
    for i, (kind, face) in enumerate(zip(kinds, itertools.cycle(faces), strict=False)):
        name = f"photo_{i:03d}.{'png' if kind in ('rgba', 'sixteen') else 'jpg'}"
        _write(folder / name, kind, _scene(face, kind, sizes, rng))
        made[name] = str(kind)
    return made


def make_labelled(folder, counts, seed=0, sizes=(40, 64, 90)):
    """Write labelled faces as FOLDER/CLASS/face_NNN.png, of several sizes; returns the number of files.

    counts: {class name: (expression to draw, how many)}.
    """
    for label, (expression, n) in counts.items():
        (Path(folder) / label).mkdir(parents=True, exist_ok=True)
        for i, face in enumerate(examples([expression], n, image_size=DRAWN, seed=seed)[1][:, 0]):
            size = sizes[i % len(sizes)]
            Image.fromarray(face).resize((size, size)).save(Path(folder) / label / f"face_{i:03d}.png")
    return sum(n for _, n in counts.values())


def _scene(face, kind, sizes, rng):
    """A soft background with the face on it: grey uint8 (H, W)."""
    width, height = sizes[rng.integers(len(sizes))]
    corners = Image.fromarray(rng.integers(60, 200, (2, 3), dtype=np.uint8))
    canvas = corners.resize((width, height), Image.Resampling.BICUBIC)
    side = int(min(width, height) * rng.uniform(0.45, 0.65))
    if kind != "empty":
        left = int(rng.integers(0, width - side)) if kind != "several" else 0
        canvas.paste(Image.fromarray(face).resize((side, side)), (left, int(rng.integers(0, height - side))))
    if kind == "several":
        small = min(int(0.7 * side), width - side)
        canvas.paste(Image.fromarray(face).resize((small, small)), (width - small, height - small))
    return canvas


def _write(path, kind, grey):
    if kind == "sixteen":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path)
        return
    if kind in ("colour", "empty", "several"):
        grey = Image.merge("RGB", [grey.point(lambda v, k=k: int(v * k)) for k in (1.0, 0.88, 0.8)])
    if kind == "rgba":
        grey.putalpha(Image.new("L", grey.size, 255))
        grey = grey.convert("RGBA")
    grey.save(path, quality=92)
    if kind == "corrupt":
        path.write_bytes(path.read_bytes()[:600])
