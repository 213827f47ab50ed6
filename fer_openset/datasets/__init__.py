"""Every dataset the same way: one table keyed by sample id, and its images as one memory-mapped array."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset.datasets.store import open_store
from fer_openset.errors import UserError
from fer_openset.labels import check_name, check_open
from fer_openset.settings import FACTS, ROOT, data_dir, load, read_yaml

# id -> module and its settings class. The module's `read(settings, root)` returns a store.Listing, its
# `class_names(settings)` the classes that such a listing has. A module whose dataset holds classes back until they are
# named as open lists them in ON_REQUEST, and its `with_classes(settings, names)` gives the settings that bring them in.
READERS = {
    "synthetic": "fer_openset.datasets.synthetic:SyntheticSettings",
    "ferplus": "fer_openset.datasets.ferplus:FerplusSettings",
    "rafdb": "fer_openset.datasets.rafdb:RafdbSettings",
    "rafdb_compound": "fer_openset.datasets.rafdb_compound:RafdbCompoundSettings",
    "affectnet": "fer_openset.datasets.affectnet:AffectnetSettings",
    "cifar10": "fer_openset.datasets.cifar10:Cifar10Settings",
}


@dataclass(frozen=True)
class Dataset:
    """A dataset ready for use: who is in it, what each face shows, and the pixels.

    Shapes: table: N rows indexed by `sample_id` (unique str), columns label, split; images: (N, C, H, W) uint8,
    read-only memory map, row i belongs to row i of the table, C is 1 or 3. `classes` are the names that may be known or
    open.
    """

    name: str
    classes: tuple[str, ...]
    table: pd.DataFrame
    images: np.memmap

    def rows(self, ids):
        """Positions of sample ids in the table and in `images`, in the order given.

        Shapes: (len(ids),) int64. Raises: UserError for an id that this dataset does not hold.
        """
        ids = list(ids)
        found = np.asarray(self.table.index.get_indexer(ids), dtype=np.int64)
        if (found < 0).any():
            missing = ids[int(np.argmax(found < 0))]
            raise UserError(f"{self.name}: no sample {missing!r} in this dataset; were these ids made with it?")
        return found


def load_dataset(name, preset, root="", overrides=None, open_classes=""):
    """Read the dataset `name` with its settings from params/datasets and open its image store.

    `root` "" takes the folder named in the settings; a relative folder lies under `settings.data_dir()`. Classes that
    the dataset holds back until asked for come in when `open_classes` names them.
    Raises: UserError for an unknown name or setting, a folder or file that is missing or unreadable, a full disk.
    """
    listing = list_dataset(name, preset, root, overrides, open_classes)
    return Dataset(listing.name, listing.classes, listing.table, open_store(listing))


def list_dataset(name, preset, root="", overrides=None, open_classes=""):
    """The dataset's `store.Listing`: its table and how to decode its images, none of which is decoded yet."""
    module, settings = _configure(name, preset, overrides, open_classes)
    return module.read(settings, _resolve(name, settings, root))


def expected(name):
    """What the published data holds, from params/datasets: {train, valid, test or all: {class: count}, size: [w, h]}.

    A count may be a list of those that are right. Empty for a dataset that nobody published.
    """
    return read_yaml(ROOT / "params" / "datasets" / f"{name}.yaml").get(FACTS, {})


def classes_of(name, preset, open_classes):
    """The dataset's classes when `open_classes` are open, known from its settings alone: no file of it is read.

    Raises: UserError for an unknown dataset, and for a name in `open_classes` that the dataset does not have.
    """
    module, settings = _configure(name, preset, None, open_classes)
    return module.class_names(settings)


def _configure(name, preset, overrides, open_classes):
    module_name, settings_name = READERS[check_name(name, tuple(READERS), "dataset")].split(":")
    module = import_module(module_name)
    cls, path = getattr(module, settings_name), ROOT / "params" / "datasets" / f"{name}.yaml"
    settings = load(cls, path, preset, overrides)
    if open_classes and hasattr(module, "ON_REQUEST"):
        classes = module.class_names(settings)
        names = check_open(open_classes, (*classes, *(c for c in module.ON_REQUEST if c not in classes)))
        settings = load(cls, path, preset, {**(overrides or {}), **module.with_classes(settings, names)})
    return module, settings


def _resolve(name, settings, root):
    """The dataset's folder, or None for one that is made, not read."""
    if not hasattr(settings, "root"):
        if root:
            raise UserError(f"the dataset {name} reads no folder, but data_root is {root!r}; leave data_root empty.")
        return None
    return data_dir() / Path(root or settings.root).expanduser()
