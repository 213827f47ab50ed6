"""A dataset to choose settings on: known images of another one, without its test split and the class to be tested.

Some of the training images of each class are held out as the test split. One of the remaining classes is then named as
open, a make-believe open class, and everything runs as usual. By sample id, what a method gets from such trials has
seen no image of the class left out and no test image of the dataset that it is compared on. Two ids may stand for one
picture: in FER2013, 248 of the trial's images have the pixels of a test image (none of surprise).
"""

import zlib
from dataclasses import replace

import numpy as np
from pydantic import Field

from fer_openset.errors import UserError
from fer_openset.labels import check_open
from fer_openset.runs import TRIALS, is_trial
from fer_openset.settings import Settings

KEY = "trial"


class TrialSettings(Settings):
    """of: the dataset, as everywhere. without: its classes that are left out. test_share: how many of a class's
    training images become the test split (about: whole persons go there, where the dataset tells who is who)."""

    of: str
    without: list[str] = Field(min_length=1)
    test_share: float = Field(0.25, gt=0, lt=1)


def trial_settings(values, file):
    """The trial that a settings file describes, or None. values: what the file holds.

    Raises: UserError when its name and its keys say different things, or a key or value is wrong.
    """
    if KEY not in values:
        if is_trial(file.stem):
            raise UserError(f"{file}: its name ends in {TRIALS}, which is for datasets with the key {KEY!r}; "
                            "rename the file or add the key.")  # fmt: skip
        return None
    if not is_trial(file.stem):
        raise UserError(f"{file}: it has the key {KEY!r}, but its name does not end in {TRIALS}; rename the file.")
    others = sorted(map(str, set(values) - {KEY}))
    if others:
        raise UserError(f"{file}: {', '.join(others)} beside {KEY!r}: all else is as in the settings of the dataset "
                        "that `of` names; take it out.")  # fmt: skip
    if not isinstance(values[KEY], dict):
        raise UserError(f"{file}: {KEY} must hold lines of `key: value`, found {type(values[KEY]).__name__}.")
    return TrialSettings.build(values[KEY], f"{file.name}: {KEY}")


def classes_left(classes, settings):
    """The classes without those left out. Raises: UserError for one that the dataset does not have."""
    left_out = check_open(settings.without, tuple(classes))
    return tuple(name for name in classes if name not in left_out)


def restricted(listing, settings):
    """The `store.Listing` of the trial: fewer rows, of other splits; its pictures are decoded as the whole one's."""
    classes = classes_left(listing.classes, settings)
    rows = np.flatnonzero(listing.table["label"].isin(classes) & (listing.table["split"] != "test"))
    table = listing.table.iloc[rows].copy()
    who = table.index if listing.people is None else [listing.people[row] for row in rows]
    # By a mark of one's own: who is held out does not change when another class comes or goes.
    marks = np.array([zlib.crc32(f"trial/{one}".encode()) / 2**32 for one in who])
    table.loc[(table["split"] == "train") & (marks < settings.test_share), "split"] = "test"
    files, people = (part and [part[row] for row in rows] for part in (listing.files, listing.people))
    return replace(
        listing, table=table, classes=classes, decode=_decode_of(listing, rows), files=files, people=people,
        left_out=tuple(name for name in listing.classes if name not in classes),
    )  # fmt: skip


def _decode_of(listing, rows):
    """decode(start, stop) for these rows of the listing, stretch by stretch of neighbours."""

    def decode(start, stop):
        chosen = rows[start:stop]
        stretches = np.split(chosen, np.flatnonzero(np.diff(chosen) > 1) + 1)
        return np.concatenate([listing.decode(int(part[0]), int(part[-1]) + 1) for part in stretches])

    return decode
