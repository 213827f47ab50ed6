"""What the fuzz test feeds: for each kind of outside file small honest samples, words that could hurt, and a reader."""

import io
import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch
from guarded import shared_tuples
from PIL import Image
from trees import pickled_batch, write_affectnet, write_affectnet_lists, write_rafdb

from fer_openset import runs
from fer_openset.checkpoint import save_tensors
from fer_openset.closed_set import ClosedSetSettings, read_outputs
from fer_openset.datasets import affectnet, ferplus, rafdb
from fer_openset.datasets.cifar10_pickles import read_batch
from fer_openset.datasets.pictures import FORMATS, decode_picture
from fer_openset.labels import FERPLUS_COLUMNS
from fer_openset.settings import ROOT, load
from fer_openset.weight_files import read_weights
from workflow.grid import load_grid

TRACE = "trace-of-a-payload"  # a file that appears in the working folder if something from a file was run
PARAMS = ROOT / "params"
SHARED = shared_tuples()
PICKLE_WORDS = (
    f"cos\nsystem\n(S'touch {TRACE}'\ntR.".encode(),
    f"cbuiltins\nopen\n(S'{TRACE}'\nS'w'\ntR.".encode(),
    b"\x80\x02",
    b"c",
    b"cnumpy\ndtype\n",
    b"R",
    b"b",
    b".",
    b"r\xff\xff\xff\x7f",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x96\xff\xff\xff\xff\x00\x00\x00\x00",
    b"\x93",
    b"P0\n",
    b"0" * 9,
    SHARED,
    SHARED + b"}h\x00Ns",
    SHARED + b"cnumpy\ndtype\nh\x00\x85R",
)
TEXT_WORDS = (
    b"..",
    b"/etc/passwd",
    b"../../x.png",
    b"\x00",
    b'"',
    b"\n",
    b"\r",
    b",",
    b"\xff\xfe",
    b"1e999",
    b"nan",
    b"-1",
    b"9" * 400,
    b"\xef\xbb\xbf",
    "顔".encode(),
    b"=1+1",
)
YAML_WORDS = (
    f"!!python/object/apply:os.system ['touch {TRACE}']".encode(),
    b"&a [*a]",
    b"*a",
    b"!!python/name:os.system",
    b"[" * 3000,
    b"{" * 300,
    b"2024-13-45",
    b"0x",
    b"<<: *x",
    b"1:99999999",
    b"!!binary x",
    b"? {}",
    b"\t",
    b": ",
    b"- ",
    b".inf",
    b"0b1_",
    b"1e-4",
)
BINARY_WORDS = (
    b"\x00",
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\x7f",
    b"\xff\xd8",
    b"\xff\xda",
    b"IDAT",
    b"acTL",
    b"PK\x01\x02",
    b"{}",
    b"GIF89a",
)


def _encoded(form, array, **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, form, **options)
    return out.getvalue()


def pictures(form):
    """Grey, colour, and what this format has besides."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    found = [_encoded(form, noise[..., 0]), _encoded(form, noise)]
    if form in ("JPEG", "PNG", "WEBP"):
        found.append(_encoded(form, noise, exif=exif))
    if form == "JPEG":
        found += [_encoded(form, np.repeat(noise, 3, 0), progressive=True)]
    if form == "PNG":
        found += [_encoded(form, noise[..., 0].astype(np.uint16) * 200), _encoded(form, noise[..., 0] > 99)]
    if form in ("PNG", "GIF", "WEBP"):
        frames = [Image.fromarray(noise), Image.fromarray(noise[::-1].copy())]
        out = io.BytesIO()
        frames[0].save(out, form, save_all=True, append_images=frames[1:])
        found.append(out.getvalue())
    return found


def read_picture_of(data, folder):
    """A picture of the size asked for."""
    for channels, size in ((1, None), (3, 8)):
        pixels = decode_picture(data, "fuzz.png", channels, size)
        assert pixels.dtype == np.uint8 and pixels.shape[0] == channels
        assert pixels.ndim == 3 and (size is None or pixels.shape[1:] == (size, size))


def arrays():
    """A few named arrays, as small as files of weights can be."""
    rng = np.random.default_rng(0)
    return {"conv1.weight": rng.standard_normal((2, 3)).astype(np.float32), "fc.bias": np.arange(3.0)}


def torch_files(zipped):
    """The two forms that torch writes."""
    found = []
    for content in (tensors := {k: torch.from_numpy(v) for k, v in arrays().items()}, {"state_dict": tensors, "n": 1}):
        out = io.BytesIO()
        torch.save(content, out, _use_new_zipfile_serialization=zipped)
        found.append(out.getvalue())
    return found


def own_weights(folder=None):
    """A file of this workbook."""
    path = Path(folder or ".") / "own"
    save_tensors(path, {k: torch.from_numpy(v) for k, v in arrays().items()}, backbone="resnet18", images="known")
    return [path.read_bytes()]


def read_weights_of(data, folder):
    """Named tensors."""
    path = Path(folder) / "weights"
    path.write_bytes(data)
    tensors, header = read_weights(path)
    assert isinstance(header, dict) and tensors
    assert all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in tensors.items())


def outputs():
    """What f_close said of two images."""
    out = io.BytesIO()
    np.savez(
        out,
        sample_id=np.array(["a", "b"]),
        logits=np.ones((2, 3), np.float32),
        classes=np.array(["x", "y", "z"]),
        features=np.ones((2, 2), np.float16),
    )
    return [out.getvalue()]


def read_in(name, read, data, folder):
    """Put the bytes where a file of this name belongs and read its folder."""
    (Path(folder) / name).write_bytes(data)
    read(folder)


def tree(folder, kind, name):
    """The folder of a dataset in which the file `name` is fuzzed: made once."""
    root = Path(folder) / f"tree-{kind}-{Path(name).stem}"
    if not root.exists():
        made = root.with_name(root.name + ".part")
        MADE[kind](made)
        made.rename(root)
    return root


def write_ferplus(root, pixels=True):
    """FERPlus in its form of two CSV files."""
    root.mkdir(parents=True)
    votes = [",".join(["Usage", "Image name", *FERPLUS_COLUMNS])]
    faces = ["emotion,pixels,Usage"]
    for i, usage in enumerate(["Training", "Training", "PublicTest", "PrivateTest"]):
        votes.append(f"{usage},fer{i:07d}.png,{','.join('9' if k == i else '0' for k in range(10))}")
        faces.append(f"0,{' '.join(['7'] * 48 * 48)},{usage}")
    (root / "fer2013new.csv").write_text("\n".join([*votes, ""]))
    (root / "fer2013.csv").write_text("\n".join([*faces, ""]))


MADE = {
    "ferplus": write_ferplus,
    "rafdb": partial(write_rafdb, train=1, test=1, side=20),
    "affectnet": partial(write_affectnet_lists, train=1, test=1),
    "annotations": partial(write_affectnet, train=1, test=1),
}
READERS = {
    "ferplus": (ferplus, ferplus.FerplusSettings),
    "rafdb": (rafdb, rafdb.RafdbSettings),
    "affectnet": (affectnet, affectnet.AffectnetSettings),
    "annotations": (affectnet, affectnet.AffectnetSettings),
}


def sample_of(kind, name):
    """The honest bytes of one file of a dataset's folder."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return [(tree(folder, kind, name) / name).read_bytes()]


def read_dataset(kind, name, data, folder):
    """List the dataset and decode what it lists."""
    root, (module, settings) = tree(folder, kind, name), READERS[kind]
    (root / name).write_bytes(data)
    dataset = {"annotations": "affectnet"}.get(kind, kind)
    listing = module.read(load(settings, PARAMS / "datasets" / f"{dataset}.yaml", "smoke"), root)
    if len(listing.table):
        listing.decode(0, min(3, len(listing.table)))
    for path in listing.files or ():
        assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)), "a path leads out of the folder"


def from_dataset(kind, name, words=TEXT_WORDS):
    """A target: this file of this dataset."""
    return (partial(sample_of, kind, name), words, partial(read_dataset, kind, name))


def settings_file(data, folder):
    """Settings of f_close."""
    path = Path(folder) / "closed_set.yaml"
    path.write_bytes(data)
    load(ClosedSetSettings, path, "smoke")


def cleared(folder):
    """Remove what a case left, the datasets' folders excepted."""
    for path in Path(folder).iterdir():
        if not path.name.startswith("tree-"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _pickles(content):
    return [pickle.dumps(content, protocol=protocol) for protocol in (0, 2, 4, 5)]


# kind -> (makes the samples, words that are put in, reads the bytes in a folder or raises UserError)
TARGETS = {
    **{form.lower(): (partial(pictures, form), BINARY_WORDS, read_picture_of) for form in FORMATS},
    "ferplus votes": from_dataset("ferplus", "fer2013new.csv"),
    "ferplus pixels": from_dataset("ferplus", "fer2013.csv"),
    "rafdb list": from_dataset("rafdb", "EmoLabel/list_patition_label.txt"),
    "affectnet list": from_dataset("affectnet", "Manually_Annotated_file_lists/training.csv"),
    "affectnet annotation": from_dataset("annotations", "train_set/annotations/1_exp.npy", PICKLE_WORDS),
    "settings": (lambda: [(PARAMS / "closed_set.yaml").read_bytes()], YAML_WORDS, settings_file),
    "grid": (
        lambda: [(PARAMS / "grids" / "smoke.yaml").read_bytes()],
        YAML_WORDS,
        partial(read_in, "smoke.yaml", lambda folder: load_grid(Path(folder) / "smoke.yaml")),
    ),
    "torch file": (partial(torch_files, True), PICKLE_WORDS, read_weights_of),
    "old torch file": (partial(torch_files, False), PICKLE_WORDS, read_weights_of),
    "array pickle": (lambda: _pickles(arrays()), PICKLE_WORDS, read_weights_of),
    "own weights": (own_weights, BINARY_WORDS, read_weights_of),
    "outputs": (outputs, PICKLE_WORDS, partial(read_in, "outputs.npz", read_outputs)),
    "record": (
        lambda: [json.dumps({"row": {"auroc": 0.5}, "settings": {}}).encode()],
        TEXT_WORDS,
        partial(read_in, "run.json", runs.load_record),
    ),
    "cifar batch": (
        lambda: [pickled_batch("b", [1, 2], np.zeros((2, 3072), np.uint8), p) for p in (2, 4)],
        PICKLE_WORDS,
        lambda data, folder: read_in("batch", lambda f: read_batch(Path(f) / "batch"), data, folder),
    ),
}
