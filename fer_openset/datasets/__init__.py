"""Every dataset the same way: one table keyed by sample id, and its images as one memory-mapped array."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module

import numpy as np
import pandas as pd

from fer_openset.datasets.copies import first_copies
from fer_openset.datasets.store import open_store
from fer_openset.datasets.trial import KEY, classes_left, restricted, trial_settings
from fer_openset.errors import UserError
from fer_openset.labels import check_name, check_open, split_names
from fer_openset.runs import is_trial
from fer_openset.settings import FACTS, ROOT, data_dir, path_fault, read_yaml, values_of

# id -> module and its settings class. The module's `read(settings, root)` returns a store.Listing, its
# `class_names(settings)` the classes that such a listing has. A module whose dataset holds classes back until they are
# named as open lists them in ON_REQUEST, and its `with_classes(settings, names)` gives the settings that bring them in.
# Where the classes are what the user's folder holds, `class_names_in(settings, root)` looks there.
READERS = {
    "synthetic": "fer_openset.datasets.synthetic:SyntheticSettings",
    "ferplus": "fer_openset.datasets.ferplus:FerplusSettings",
    "rafdb": "fer_openset.datasets.rafdb:RafdbSettings",
    "rafdb_compound": "fer_openset.datasets.rafdb_compound:RafdbCompoundSettings",
    "affectnet": "fer_openset.datasets.affectnet:AffectnetSettings",
    "cifar10": "fer_openset.datasets.cifar10:Cifar10Settings",
    "folder": "fer_openset.datasets.labelled:FolderSettings",
}
PARAMS = ROOT / "params" / "datasets"
READER_KEY = "reader"


@dataclass(frozen=True)
class Dataset:
    """A dataset ready for use: who is in it, what each face shows, and the pixels.

    Shapes: table: N rows indexed by `sample_id` (unique str), columns label, split; images: (N, C, H, W) uint8,
    read-only memory map, row i belongs to row i of the table, C is 1 or 3. `classes` are the names that may be known or
    open; `source` is what its reader calls its images; `left_out` are classes that a trial has taken out. `originals`:
    the images as they were, where some were changed (`pools.shifted`): copies are told by them.
    """

    name: str
    classes: tuple[str, ...]
    table: pd.DataFrame
    images: np.memmap
    source: str = ""
    left_out: tuple[str, ...] = ()
    originals: np.ndarray | None = None

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

    @cached_property
    def first_copy(self):
        """For each position the first one that holds the very same pixels: (N,) int64."""
        return first_copies(self.images if self.originals is None else self.originals)


def load_dataset(name, preset, root="", overrides=None, open_classes=""):
    """Read the dataset `name` and open its image store.

    name: a file of params/datasets without its ending, or the path of a YAML file (a relative one from the clone's
    root). root: "" takes the folder named in the settings; a relative folder lies under `settings.data_dir()`. Classes
    that the dataset holds back until asked for come in when `open_classes` names them.
    Raises: UserError for an unknown name or setting, a folder or file that is missing or unreadable, a full disk.
    """
    listing = list_dataset(name, preset, root, overrides, open_classes)
    images = open_store(listing)
    return Dataset(dataset_name(name), listing.classes, listing.table, images, listing.name, listing.left_out)


def list_dataset(name, preset, root="", overrides=None, open_classes=""):
    """The dataset's `store.Listing`: its table and how to decode its images, none of which is decoded yet."""
    module, settings, trial = _configure(name, preset, overrides, open_classes)
    with _readable():
        listing = module.read(settings, _resolve(name, settings, root))
    return restricted(listing, trial) if trial else listing


def expected(name):
    """What the published data holds, from params/datasets: {train, valid, test or all: {class: count}, size: [w, h]}.

    A count may be a list of those that are right. Empty for a dataset that nobody published.
    """
    return read_yaml(dataset_file(name)).get(FACTS, {})


def classes_of(name, preset, open_classes, root=""):
    """The dataset's classes when `open_classes` are open, without opening an image: known from its settings alone, but
    for a dataset of one's own, whose folder is looked at.

    Raises: UserError for an unknown dataset, and for a name in `open_classes` that the dataset does not have.
    """
    module, settings, trial = _configure(name, preset, None, open_classes)
    if hasattr(module, "class_names_in"):
        with _readable():
            classes = module.class_names_in(settings, _resolve(name, settings, root))
    else:
        classes = module.class_names(settings)
    return classes_left(classes, trial) if trial else classes


def dataset_name(name):
    """What the results of a dataset are called: the name of its settings file."""
    return dataset_file(name).stem


def dataset_file(name):
    """The YAML file with a dataset's settings. Raises: UserError for a name that params/datasets does not have, a file
    that is not there, or one whose name could not be a folder's."""
    if not name.endswith((".yaml", ".yml")):
        return PARAMS / f"{check_name(name, tuple(sorted(p.stem for p in PARAMS.glob('*.yaml'))), 'dataset')}.yaml"
    path = ROOT / os.path.expanduser(name)
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file; expected the settings of a dataset.")
    if fault := path_fault(path.stem):
        raise UserError(f"{path}: its name {fault}.")
    if path.parent != PARAMS and (PARAMS / f"{path.stem}.yaml").exists():
        raise UserError(f"{path}: results of {path.stem!r} are those of params/datasets; give the file another name.")
    return path


def dataset_values(name, preset):
    """(reader, values): a file that names a `reader` starts from the values of params/datasets/READER.yaml, and its own
    keys win, whatever the preset; a trial has the values of the dataset it is of, and `trial`: its TrialSettings."""
    file = dataset_file(name)
    values = values_of(file, preset)
    trial = trial_settings(values, file)
    if trial:
        if is_trial(dataset_name(trial.of)):
            raise UserError(f"{file}: {trial.of} is a trial itself; name the dataset that it is of.")
        reader, of = dataset_values(trial.of, preset)
        return reader, {**of, KEY: trial}
    reader = check_name(values.pop(READER_KEY, file.stem), tuple(READERS), f"reader in {file.name}")
    return reader, values if reader == file.stem else {**values_of(PARAMS / f"{reader}.yaml", preset), **values}


def _configure(name, preset, overrides, open_classes):
    reader, values = dataset_values(name, preset)
    trial = values.pop(KEY, None)
    module_name, settings_name = READERS[reader].split(":")
    module = import_module(module_name)
    cls, where = getattr(module, settings_name), dataset_file(name).name + (" with overrides" if overrides else "")
    values |= overrides or {}
    settings = cls.build(values, where)
    asked = [*split_names(open_classes), *(trial.without if trial else ())]
    if asked and hasattr(module, "ON_REQUEST"):
        classes = module.class_names(settings)
        names = check_open(asked, (*classes, *(c for c in module.ON_REQUEST if c not in classes)))
        settings = cls.build({**values, **module.with_classes(settings, names)}, where)
    return module, settings, trial


def _resolve(name, settings, root):
    """The dataset's folder, or None for one that is made, not read."""
    if not hasattr(settings, "root"):
        if root:
            raise UserError(f"the dataset {name} reads no folder, but data_root is {root!r}; leave data_root empty.")
        return None
    if not (root or settings.root):
        raise UserError(f"the dataset {name} names no folder; write it as root in its settings, or give data_root.")
    return data_dir() / os.path.expanduser(root or settings.root)


@contextmanager
def _readable():
    """A folder without permission, a name that is too long: what a reader does not say itself is said here."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}); check its name and permissions."
        ) from None
