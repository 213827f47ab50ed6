"""python -m benchmarks.scale [--images 290000]: a dataset of AffectNet's size, from JPEG files to batches.

Writes that many JPEG files of made-up faces, builds the store from them in a process of its own (with --kill in two:
the first is killed half-way), then streams batches in random order from it, first with an empty page cache.
"""

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from fer_openset import atomic, runs
from fer_openset.errors import UserError

DISTINCT = 512  # faces drawn; files repeat them, each a file of its own
IN_FOLDER = 1000  # files a folder
SAMPLE_SECONDS = 0.02
BATCH = 128
SPEEDS = ("from_disk", "from_page_cache", "as_clean_view")


def parse(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=290_000, help="how many; default: 290,000, as AffectNet")
    parser.add_argument("--side", type=int, default=64, help="pixels a side; default: 64")
    parser.add_argument("--kill", action="store_true", help="kill the build half-way and go on")
    parser.add_argument("--folder", type=Path, help="where the files go; default: a temporary folder")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--part", choices=("build", "stream"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.images < 1 or options.side < 24:
        parser.error("expected at least one image and 24 pixels a side")
    return options


def write_files(folder, count, side):
    """Write `count` JPEG files, colour, quality 90, with a number of its own in each file's comment."""
    from fer_openset.datasets.synthetic import SyntheticSettings, render
    from fer_openset.settings import ROOT, load

    few = {"n_train": DISTINCT, "n_valid": 14, "n_test": 14, "image_size": side}
    settings = load(SyntheticSettings, ROOT / "params" / "datasets" / "synthetic.yaml", "demo", few)
    faces = [Image.fromarray(face[0]).convert("RGB") for face in render(settings, range(min(DISTINCT, count)))]
    encoded = []
    for face in faces:
        out = io.BytesIO()
        face.save(out, "JPEG", quality=90)
        encoded.append(out.getvalue())
    for i in range(count):
        path = image_path(folder, i)
        if i % IN_FOLDER == 0:
            path.parent.mkdir(parents=True)
        comment = f"{i:08d}".encode()
        data = encoded[i % len(encoded)]
        path.write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])


def image_path(folder, i):
    """Where file number i lies."""
    return Path(folder) / "images" / f"{i // IN_FOLDER:04d}" / f"{i:06d}.jpg"


def listing(folder, count, side):
    """The files as a reader lists them."""
    from fer_openset.datasets.pictures import read_picture
    from fer_openset.datasets.store import Listing

    def decode(start, stop):
        return np.stack([read_picture(image_path(folder, i), 3, side) for i in range(start, stop)])

    index = pd.Index([f"{i:06d}" for i in range(count)], name="sample_id")
    table = pd.DataFrame({"label": "happiness", "split": "train"}, index=index)
    return Listing("scale", table, ("happiness", "neutral"), {"benchmark": count}, (3, side, side), decode)


class Memory(threading.Thread):
    """Watches this process: `peak` is the most memory of its own (MiB), `resident` includes mapped files."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = self.resident = 0.0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(SAMPLE_SECONDS):
            self.look()

    def look(self):
        """Read the kernel's count once."""
        with open("/proc/self/status") as status:
            found = dict(line.split(":", 1) for line in status)
        own, all_of_it = (int(found[key].split()[0]) / 1024 for key in ("RssAnon", "VmRSS"))
        self.peak, self.resident = max(self.peak, own), max(self.resident, all_of_it)

    def __enter__(self):
        self.look()
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.look()


def build(options):
    """Build the store in this process; prints one JSON line at the end."""
    from fer_openset.datasets.store import open_store

    began = time.perf_counter()
    with Memory() as memory:
        images = open_store(listing(options.folder, options.images, options.side), options.folder / "cache")
    size = images.nbytes / 2**20
    return {
        "seconds": time.perf_counter() - began,
        "store_mib": size,
        "own_mib": memory.peak,
        "rss_mib": memory.resident,
    }


def stream(options):
    """Read one epoch of batches in random order, from the disk and again from the page cache."""
    import torch

    from fer_openset.augment import clean_view
    from fer_openset.closed_set import batch_of
    from fer_openset.datasets import Dataset
    from fer_openset.datasets.store import open_store

    made = listing(options.folder, options.images, options.side)
    images = open_store(made, options.folder / "cache")
    dataset, found = Dataset(made.name, made.classes, made.table, images), {}
    with Memory() as memory:
        for key in SPEEDS:
            if key == "from_disk":
                with open(images.filename, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            order = np.random.default_rng(0).permutation(options.images)
            began = time.perf_counter()
            for start in range(0, len(order), BATCH):
                batch = batch_of(dataset, order[start : start + BATCH])
                if key == "as_clean_view":
                    clean_view(batch, options.side, torch.device("cpu"))
            found[f"images_per_second_{key}"] = options.images / (time.perf_counter() - began)
    return {**found, "own_mib": memory.peak, "rss_mib": memory.resident}


def child(part, options, kill=False):
    """Run one part in a process of its own. Returns: its figures; with `kill`, which ends it once half the images are
    written, how many it left.

    Raises: UserError when the part fails, or is over before it can be killed."""
    command = [sys.executable, "-m", "benchmarks.scale", "--part", part, "--folder", str(options.folder),
               "--images", str(options.images), "--side", str(options.side)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if kill:
        half = options.images * 3 * options.side**2 // 2
        while process.poll() is None and _begun(options.folder) < half:
            time.sleep(SAMPLE_SECONDS)
        if process.poll() is not None:
            raise UserError("the build was over before half of it could be seen; give more --images.")
        process.send_signal(signal.SIGKILL)
    *said, last = process.communicate()[0].splitlines() or [""]
    print("\n".join(f"  {line}" for line in (said if not kill else [*said, last]) if line), flush=True)
    if kill:
        left = _begun(options.folder)
        print(f"  killed with {left / 2**20:.0f} MiB written", flush=True)
        return left // (3 * options.side**2)
    if process.returncode:
        raise UserError(f"the part {part} ended with exit code {process.returncode}; its message stands above.")
    return json.loads(last)


def _begun(folder):
    return max((path.stat().st_size for path in (folder / "cache").glob("*/.images.npy.partial")), default=0)


def measure(options):
    """Everything, with its printed lines. Returns: the figures."""
    began = time.perf_counter()
    write_files(options.folder, options.images, options.side)
    written = time.perf_counter() - began
    total = sum(image_path(options.folder, i).stat().st_size for i in range(options.images)) / 2**20
    print(
        f"{options.images:,} JPEG files of {options.side} px, {total:.0f} MiB, written in {written:.0f} s", flush=True
    )
    before = child("build", options, kill=True) if options.kill else 0
    built, streamed = child("build", options), child("stream", options)
    rest = "rest of the store" if options.kill else "store"
    print(f"{rest} built in {built['seconds']:.1f} s ({(options.images - before) / built['seconds']:,.0f} images/s), "
          f"{built['store_mib']:.0f} MiB on disk; memory of the process at most {built['own_mib']:.0f} MiB "
          f"(with mapped files {built['rss_mib']:.0f})")  # fmt: skip
    speeds = [f"{streamed[f'images_per_second_{key}']:,.0f}" for key in SPEEDS]
    print(f"streamed in batches of {BATCH}: {speeds[0]} images/s from the disk, {speeds[1]} from the page cache, "
          f"{speeds[2]} as clean views; memory of the process at most {streamed['own_mib']:.0f} MiB "
          f"(with mapped files {streamed['rss_mib']:.0f})")  # fmt: skip
    from benchmarks.hardware import describe  # here: it brings libraries that the measured parts do not need

    return {"images": options.images, "side": options.side, "files_mib": total, "killed": options.kill,
            "built_before_the_kill": before, "build": built, "stream": streamed, "machine": describe()["name"],
            "commit": runs.commit()}  # fmt: skip


def main(arguments=None):
    """Exit 0, or 2 with one sentence."""
    options = parse(arguments)
    try:
        if options.part:
            print(json.dumps({"build": build, "stream": stream}[options.part](options)))
            return 0
        with tempfile.TemporaryDirectory(prefix="scale-", dir=options.folder) as folder:
            out, options.folder = options.out, Path(folder)
            figures = measure(options)
        if out:
            atomic.write_json(out, figures)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
