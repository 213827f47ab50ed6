"""A dataset to choose settings on: only known training images of another one, some of them held out as its test split.

The class that will be open later is left out altogether, and so is the test split. One of the remaining classes is then
named as open, a make-believe open class, and everything runs as usual. What a method gets from such trials has seen no
open image and no test image of the dataset that it is compared on.
"""

import zlib
from dataclasses import replace

import numpy as np
from pydantic import Field

from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.settings import Settings

SUFFIX = "_trials"  # of the name of a settings file that holds KEY: runs on it stay out of the tables of results
KEY = "trial"


class TrialSettings(Settings):
    """without: classes that are left out. test_share: share of each class's training images held out as test split."""

    without: list[str] = Field(min_length=1)
    test_share: float = Field(0.25, gt=0, lt=1)


def is_trial(dataset):
    """Whether a dataset's name is that of a dataset to choose settings on."""
    return dataset.endswith(SUFFIX)


def trial_settings(values, file):
    """Take the key `trial` out of a settings file's values. Returns: its settings, or None without one.

    Raises: UserError when the file's name does not say what it is, or says so and lacks the key.
    """
    given = values.pop(KEY, None)
    if (given is not None) != is_trial(file.stem):
        raise UserError(f"{file}: a file with the key {KEY!r}, and no other, has a name that ends in {SUFFIX}; "
                        "rename it or mend the key.")  # fmt: skip
    if given is not None and not isinstance(given, dict):
        raise UserError(f"{file}: {KEY} must hold lines of `key: value`, found {type(given).__name__}.")
    return None if given is None else TrialSettings.build(given, f"{file.name}: {KEY}")


def classes_left(classes, settings):
    """The classes without those left out. Raises: UserError for one that the dataset does not have."""
    for name in settings.without:
        check_name(name, tuple(classes), f"class to leave out ({KEY})")
    return tuple(name for name in classes if name not in settings.without)


def restricted(listing, settings):
    """The `store.Listing` of the trial: fewer rows, of other splits; its pictures are decoded as the whole one's."""
    classes = classes_left(listing.classes, settings)
    rows = np.flatnonzero(listing.table["label"].isin(classes) & (listing.table["split"] != "test"))
    table = listing.table.iloc[rows].copy()
    train = table[table["split"] == "train"]
    for _, ids in train.groupby("label").groups.items():
        # By a mark of the id's own: who is held out does not change when another class comes or goes.
        marks = np.array([zlib.crc32(f"trial/{sample}".encode()) for sample in ids])
        held_out = ids[np.argsort(marks, kind="stable")[: round(settings.test_share * len(ids))]]
        table.loc[held_out, "split"] = "test"
    files = None if listing.files is None else [listing.files[row] for row in rows]
    return replace(listing, table=table, classes=classes, decode=_decode_of(listing, rows), files=files)


def _decode_of(listing, rows):
    """decode(start, stop) for these rows of the listing, stretch by stretch of neighbours."""

    def decode(start, stop):
        chosen = rows[start:stop]
        stretches = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
        return np.concatenate([listing.decode(int(part[0]), int(part[-1]) + 1) for part in stretches])

    return decode
