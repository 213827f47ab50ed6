"""Every dataset the same way: one table keyed by sample id, and its images as one memory-mapped array."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset.datasets.store import open_store
from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.settings import ROOT, data_dir, load

# id -> module and its settings class; the module's `read(settings, root)` returns a store.Listing.
READERS = {
    "synthetic": "fer_openset.datasets.synthetic:SyntheticSettings",
    "ferplus": "fer_openset.datasets.ferplus:FerplusSettings",
}


@dataclass(frozen=True)
class Dataset:
    """A dataset ready for use: who is in it, what each face shows, and the pixels.

    Shapes: table: N rows indexed by `sample_id` (unique str), columns label, split; images: (N, C, H, W) uint8,
    read-only memory map, row i belongs to row i of the table, C is 1 or 3. `classes` are the expressions that may be
    known or open.
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


def load_dataset(name, preset, root="", overrides=None):
    """Read the dataset `name` with its settings from params/datasets and open its image store.

    `root` "" takes the folder named in the settings; a relative folder lies under `settings.data_dir()`.
    Raises: UserError for an unknown name or setting, a folder or file that is missing or unreadable, a full disk.
    """
    module_name, settings_name = READERS[check_name(name, tuple(READERS), "dataset")].split(":")
    module = import_module(module_name)
    settings = load(getattr(module, settings_name), ROOT / "params" / "datasets" / f"{name}.yaml", preset, overrides)
    listing = module.read(settings, _resolve(name, settings, root))
    return Dataset(listing.name, listing.classes, listing.table, open_store(listing))


def _resolve(name, settings, root):
    """The dataset's folder, or None for one that is made, not read."""
    if not hasattr(settings, "root"):
        if root:
            raise UserError(f"the dataset {name} reads no folder, but data_root is {root!r}; leave data_root empty.")
        return None
    return data_dir() / Path(root or settings.root).expanduser()
