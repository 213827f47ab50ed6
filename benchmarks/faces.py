"""The same made-up faces for both sides: one array on disk for the engine, PNG files for the reference."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from fer_openset.datasets import Dataset
from fer_openset.datasets.synthetic import SyntheticSettings, render
from fer_openset.labels import BASIC
from fer_openset.settings import ROOT, load

DISTINCT = 1024  # faces drawn; more images repeat them, which costs a training step the same


def prepare(folder, images, files):
    """Write `images` faces as `folder`/faces.npy and `files` of them as `folder`/png/NUMBER.png (48 x 48, grey)."""
    folder, began = Path(folder), time.monotonic()
    count = max(14, min(DISTINCT, max(images, files)))  # 14: the least that the drawer takes
    print(f"drawing {count:,} faces, for {images:,} images and {files:,} PNG files", flush=True)
    few = {"n_train": count, "n_valid": 14, "n_test": 14}
    settings = load(SyntheticSettings, ROOT / "params" / "datasets" / "synthetic.yaml", "demo", few)
    drawn = render(settings, range(count))
    np.save(folder / "faces.npy", np.resize(drawn, (images, *drawn.shape[1:])))
    (folder / "png").mkdir()
    for i in range(files):
        Image.fromarray(drawn[i % count, 0]).save(folder / "png" / f"{i:06d}.png")
    print(f"drawn and written in {time.monotonic() - began:.0f} s", flush=True)


def labels(count):
    """Class numbers 0..6 in turn: int64 (count,)."""
    return np.arange(count) % len(BASIC)


def dataset(folder, count):
    """The first `count` faces as the package holds any dataset: a table, and a read-only memory map of bytes."""
    ids = pd.Index([f"train_{i:06d}" for i in range(count)], name="sample_id")
    table = pd.DataFrame({"label": np.array(BASIC)[labels(count)], "split": "train"}, index=ids)
    return Dataset("benchmark", BASIC, table, np.load(Path(folder) / "faces.npy", mmap_mode="r")[:count])


def files(folder, count):
    """Paths of the first `count` PNG files."""
    return [Path(folder) / "png" / f"{i:06d}.png" for i in range(count)]
