"""A folder of photos through a detector: a row for each with a status, and a contact sheet sorted by open score."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import PngImagePlugin

from fer_openset import atomic, progress
from fer_openset.contact_sheet import contact_sheet
from fer_openset.errors import UserError
from fer_openset.face_crop import Crop, crop_face, haar_faces, photo_settings
from fer_openset.photos import SHEET, find_photos, read_photo, readable

OK, NO_FACE, UNREADABLE, SEVERAL = "ok", "no face", "unreadable", "several faces: largest taken"
BOX = ("left", "top", "right", "bottom")
COLUMNS = ("photo", "status", "expression", "open_score", "is_open", "faces", *BOX)
SHOWN = 200  # pictures on the contact sheet, the most open ones


@dataclass(frozen=True)
class Found:
    """One photo: what to say of it, its face's square in it (() without one), how many faces there were."""

    status: str
    box: tuple = ()
    faces: int | None = None


def need_targets(paths, csv, sheet):
    """Find out, before any photo is scored, that rows and contact sheet can be written and no photo lies there.

    paths: as for `score_photos`. Raises: UserError that says which of the two cannot be written, or is a photo.
    """
    photos, _ = find_photos(paths)
    for target, what in ((csv, "the rows"), (sheet, "the contact sheet")):
        if any(os.path.exists(target) and os.path.exists(p) and os.path.samefile(p, target) for p in photos):
            raise UserError(f"{readable(target)}: {what} would be written over one of the photos; give another name.")
        atomic.need_writable(target)


def score_photos(detector, paths, crop=True, detect=None, settings=None):
    """Find the face in every photo and score it.

    paths: files and folders. crop: False takes each photo as a cropped face. detect: a face detector, grey uint8
    (H, W) -> boxes (n, 4) left, top, width, height; None is OpenCV's cascade. settings: `face_crop.PhotoSettings`.
    Returns: (table, faces, others). table: a row a photo in the order found, columns `COLUMNS`; status is `ok`,
    `several faces: largest taken`, `no face`, or `unreadable: ` and why, the latter two without a score; box in pixels
    of the photo. faces: (n, C, H, W) uint8 of the scored photos, in the table's order. others: how many files were no
    photo. Raises: UserError when there is no photo at all. No photo stops the others.
    """
    settings = settings or photo_settings()
    photos, others = find_photos(paths)
    if crop:
        detect = detect or haar_faces(settings)
    found, faces = [], []
    with progress.bar("photos", len(photos), "photos") as advance:
        for path in photos:
            one, image = look_at(path, settings, detect if crop else None)
            found.append(one)
            if image is not None:  # the small face is kept, the photo is not
                faces.append(detector.faces([image])[0])
            advance()
    faces = np.stack(faces) if faces else detector.faces([])
    return _table(photos, found, detector.predict(faces)), faces, others


def look_at(path, settings, detect=None):
    """Read one photo and, with `detect`, cut out its largest face.

    Returns: (Found, PIL image of the face or None); raises nothing for a bad photo.
    """
    try:
        image, side = read_photo(path, settings.longest_side)
    except UserError as error:
        return Found(f"{UNREADABLE}: {readable(str(error).removeprefix(f'{path}: '))}"), None
    scale = side / max(image.size)  # the photo's pixels to one of the picture's
    cut = crop_face(image, detect, settings.margin) if detect else Crop(image, (0, 0, *image.size), 1)
    if cut.image is None:
        return Found(NO_FACE, faces=0), None
    box = tuple(round(edge * scale) for edge in cut.box)
    return Found(OK if cut.faces == 1 else SEVERAL, box, cut.faces), cut.image


def _table(photos, found, predicted):
    table = pd.DataFrame({"photo": [readable(path) for path in photos], "status": [one.status for one in found]})
    table["faces"] = pd.array([one.faces for one in found], dtype="Int64")
    scored = [i for i, one in enumerate(found) if one.box]
    for column, kind in (("expression", "object"), ("open_score", "Float64"), ("is_open", "boolean")):
        table[column] = pd.Series(predicted[column].to_numpy(), index=scored, dtype=kind).reindex(range(len(found)))
    for i, edge in enumerate(BOX):
        table[edge] = pd.array([one.box[i] if one.box else None for one in found], dtype="Int64")
    return table[list(COLUMNS)]


def write_sheet(detector, table, faces, path):
    """The contact sheet of what `score_photos` found, the most open first, as a PNG file. Returns: photos shown."""
    scored = table[table["open_score"].notna()].reset_index(drop=True)
    order = scored["open_score"].astype(float).sort_values(ascending=False, kind="stable").index[:SHOWN]
    rows, shown = scored.loc[order], faces[order]
    titles = [
        (Path(row.photo).name, f"{row.expression} {row.open_score:.2f}", bool(row.is_open)) for row in rows.itertuples()
    ]
    sheet = contact_sheet(shown, detector.attention(shown), titles)
    what = PngImagePlugin.PngInfo()
    what.add_text("Software", SHEET)
    with atomic.atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=what)
    return len(shown)


def summary(detector, table, others):
    """What happened, in one or two lines for the terminal."""
    kinds = table["status"].str.split(":").str[0].value_counts()
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    scored = table["open_score"].notna()
    lines = [f"{len(table)} photos: {counts}" + (f"; {others} other files left out" if others else "")]
    use = detector.use
    origin = f"{use.rule}; {use.run['dataset']}, open = {use.run['open_classes']}"
    opened = f"{int(table['is_open'].sum())} of {int(scored.sum())} look open"
    limit = f"{use.threshold:.4g} or more"
    if np.isinf(use.threshold):
        limit = "no value, as the run estimates that its pool holds no open image; the rule known_95 has a threshold"
    lines.append(f"{opened}: {use.method} of {limit} ({origin})")
    return "\n".join(lines)
