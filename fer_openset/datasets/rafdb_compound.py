"""RAF-DB's compound set beside its basic one: the paper's Table 3, closed = basic, open = every compound image.

Layout: the folders `basic` and `compound` side by side, each as in rafdb.py; the basic set may lie beside `compound`
without a folder of its own. The open set goes by one name, `compound`.
"""

from pathlib import Path

from fer_openset.datasets.rafdb import RafdbSettings, basic_folder, listing_of, read_set
from fer_openset.labels import BASIC, COMPOUND


class RafdbCompoundSettings(RafdbSettings):
    """Settings of params/datasets/rafdb_compound.yaml."""


def class_names(settings):
    """The seven basic and the eleven compound expressions."""
    return (*BASIC, *COMPOUND)


def read(settings, root):
    """List both sets under `root`: returns a `store.Listing` with C = 3, training rows first.

    Sample ids of the basic set are those of the dataset `rafdb`; compound ones begin with `compound_`.
    Raises: UserError naming the file, line or image that is missing or wrong.
    """
    root = Path(root)
    sets = [read_set(basic_folder(root), BASIC), read_set(root / "compound", COMPOUND, "compound_")]
    return listing_of("rafdb_compound", sets, class_names(settings), settings.image_size)
