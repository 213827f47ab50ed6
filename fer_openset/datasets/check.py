"""Is a dataset's folder what was published? Counts, picture sizes, files that cannot be read, copies across splits."""

import hashlib
import time
from collections import Counter

import numpy as np

from fer_openset.datasets import dataset_name, expected, list_dataset
from fer_openset.datasets.pictures import picture_size
from fer_openset.datasets.store import SPLITS
from fer_openset.errors import Unmatched, UserError
from fer_openset.labels import COMPOUND, SETS
from fer_openset.runs import is_trial

CHUNK = 64  # pictures decoded at once
NAMED = 10  # files named in a list; the rest is counted
LINE_SECONDS = 10.0


def check_data(name, root="", preset="paper"):
    """Read everything of a dataset and compare it with the `expected` block of its params file.

    Returns: (lines for the reader, problems): both lists of str; no problem means that the data is as published.
    Where a list and the pictures disagree, the problems name the pictures and nothing else is looked at.
    Raises: UserError when the folder cannot be listed (a missing list, a wrong line), and for a trial.
    """
    facts = expected(name)
    if is_trial(dataset_name(name)):
        raise UserError(f"{name} is made of another dataset's rows, nobody published it; check that dataset instead.")
    try:
        listing = list_dataset(name, preset, root)
    except Unmatched as error:
        head = f"{name}: {error.found:,} pictures in the folder, {error.listed:,} in its list"
        return [head], _named(str(error), error.names)[1]
    counts = listing.table.groupby(["split", "label"]).size()
    lines, problems = _counts(counts, listing.classes, facts)
    digests, unreadable = _read_all(listing)
    sizes = _sizes(listing.files, facts.get("size")) if listing.files else _stored_size(listing)
    # One fault of a file that holds all pictures is said once.
    found = [sizes, _named(f"{len(unreadable)} pictures cannot be read", list(dict.fromkeys(unreadable)))]
    found += [_copies(_sides(listing), digests, facts.get("copies", 0))]
    for said, wrong in found:
        lines += said
        problems += wrong
    return [f"{name}: {len(listing.table):,} images", *lines], problems


def _counts(counts, classes, facts):
    """The table of found / expected counts, and a line for each that differs."""
    lines, problems = [f"{'class':24}" + "".join(f"{split:>18}" for split in SPLITS)], []
    for label in classes:
        cells = []
        for split in SPLITS:
            found, right = int(counts.get((split, label), 0)), facts.get(split, {}).get(label)
            cells.append(f"{found:,}" + ("" if right is None else f" of {_either(right)}"))
            problems += _differs(f"{split}, {label}", found, right)
        lines.append(f"{label:24}" + "".join(f"{cell:>18}" for cell in cells))
    for label, right in facts.get("all", {}).items():
        found = sum(int(counts.get((split, member), 0)) for split in SPLITS for member in SETS.get(label, (label,)))
        lines.append(f"{label + ' (all splits)':24}{f'{found:,} of {_either(right)}':>18}")
        problems += _differs(f"all splits, {label}", found, right)
    return lines, problems


def _either(right):
    return " or ".join(f"{count:,}" for count in (right if isinstance(right, list) else [right]))


def _differs(what, found, right):
    if right is None or found in (right if isinstance(right, list) else [right]):
        return []
    return [f"{what}: {found:,} images, expected {_either(right)}"]


def _read_all(listing):
    """Digest of every picture's pixels as the store would hold them, "" where there is none; and what went wrong."""
    digests, unreadable, count = [], [], len(listing.table)
    shown = time.monotonic()
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        digests += _digests(listing, start, stop, unreadable)
        if time.monotonic() - shown > LINE_SECONDS:
            shown = time.monotonic()
            print(f"{listing.name}: {stop:,} of {count:,} images read", flush=True)
    return np.array(digests, object), unreadable


def _digests(listing, start, stop, unreadable):
    try:
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in listing.decode(start, stop)]
    except UserError as error:
        if stop - start == 1:
            unreadable.append(str(error))
            return [""]
    return [digest for row in range(start, stop) for digest in _digests(listing, row, row + 1, unreadable)]


def _sizes(files, right):
    """Pictures by size, the commonest first; a problem where one size was published and others are found."""
    sizes, wrong = Counter(), []
    for path in files:
        try:
            width, height = picture_size(path)
        except UserError:
            continue  # named among those that cannot be read
        sizes[width, height] += 1
        if right and [width, height] != list(right):
            wrong.append(f"{path}: {width} x {height} pixels")
    common = ", ".join(f"{w} x {h}: {count:,}" for (w, h), count in sizes.most_common(NAMED))
    more = f", and {len(sizes) - NAMED:,} other sizes" if len(sizes) > NAMED else ""
    what = f"{len(wrong)} pictures are not {right[0]} x {right[1]} pixels" if right else ""
    return [f"pixels: {common}{more}"], _named(what, wrong)[1]


def _stored_size(listing):
    """The line of `_sizes` for pictures that are rows of one file, all of one size."""
    _, height, width = listing.shape
    return [f"pixels: {width} x {height}: {len(listing.table):,}"], []


def _sides(listing):
    """The split of each picture, and for compound expressions, which are never known, a side of their own."""
    compound = np.where(listing.table["label"].isin(COMPOUND), " compound", "")
    return (listing.table["split"] + compound).rename("split")


def _copies(splits, digests, allowed):
    """Pictures whose pixels stand in more than one split: a model would be tested on what it was trained on."""
    frame = splits.to_frame().assign(digest=digests)
    frame = frame[frame["digest"] != ""]
    groups = [part for _, part in frame[frame["digest"].duplicated(keep=False)].groupby("digest", sort=False)]
    across = [part for part in groups if part["split"].nunique() > 1]
    within = sum(len(part) - 1 for part in groups) - sum(len(part) - 1 for part in across)
    published = f" (the published data has {allowed})" if allowed else ""
    lines = [f"the same pixels in two splits: {len(across)} pictures{published}; again within a split: {within}"]
    if len(across) == allowed:
        return lines, []
    names = [" = ".join(f"{row.split} {row.Index}" for row in part.itertuples()) for part in across]
    what = f"{len(across)} pictures stand in more than one split, expected {allowed}"
    return lines, _named(what, names)[1] or [what]


def _named(what, cases):
    """No line to read, and as problems `what` and the first cases."""
    if not cases:
        return [], []
    rest = [f"  and {len(cases) - NAMED} more"] if len(cases) > NAMED else []
    return [], [what + ":", *(f"  {case}" for case in cases[:NAMED]), *rest]
