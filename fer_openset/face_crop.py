"""Where the face is: OpenCV's Haar cascade finds it, a square around it is cut out (Viola and Jones 2001).

The largest face counts. How wide to cut is set so that the crop looks like an aligned face set's; params/photos.yaml.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image
from pydantic import Field

from fer_openset.errors import UserError
from fer_openset.settings import ROOT, Settings, load

PARAMS = ROOT / "params" / "photos.yaml"


class PhotoSettings(Settings):
    """How faces are found and cut out; origins of the values stand in params/photos.yaml."""

    cascade: str
    longest_side: int = Field(ge=64)
    scale_step: float = Field(gt=1)
    neighbours: int = Field(ge=0)
    smallest_face: float = Field(gt=0, lt=1)
    margin: float = Field(ge=-0.5, le=3)


def photo_settings(overrides=None):
    """The settings of params/photos.yaml; they are the same in every preset."""
    return load(PhotoSettings, PARAMS, "paper", overrides)


@dataclass(frozen=True)
class Crop:
    """A face cut out of a photo: the picture, its square in the photo (left, top, right, bottom), how many there were.

    `image` is None where there was no face.
    """

    image: Image.Image | None
    box: tuple | None
    faces: int


def haar_faces(settings):
    """A detector of frontal faces: grey uint8 (H, W) -> boxes (n, 4) int, columns left, top, width, height.

    Raises: UserError when OpenCV or the cascade's file is missing.
    """
    try:
        import cv2  # slow to import, and not needed for faces that are cropped already
    except ImportError:
        raise UserError(
            "finding faces needs OpenCV: pip install 'opencv-python-headless<5', or give cropped faces with --no-crop."
        ) from None
    cascade = cv2.CascadeClassifier(f"{cv2.data.haarcascades}{settings.cascade}.xml")
    if cascade.empty():
        raise UserError(f"photos.yaml: cascade = {settings.cascade!r}: OpenCV {cv2.__version__} has no such file.")

    def detect(grey):
        least = max(24, round(settings.smallest_face * min(grey.shape)))
        found = cascade.detectMultiScale(grey, settings.scale_step, settings.neighbours, minSize=(least, least))
        return np.asarray(found, int).reshape(-1, 4)

    return detect


def crop_face(image, detect, margin):
    """Cut the largest face out of a picture.

    detect: see `haar_faces`. margin: share of the box's side that is added to it; beyond the picture's edge its border
    is repeated. Returns: Crop; of equally large faces the first counts.
    """
    boxes = detect(np.asarray(image.convert("L")))
    if not len(boxes):
        return Crop(None, None, 0)
    left, top, width, height = boxes[np.argmax(boxes[:, 2] * boxes[:, 3])]
    side = max(1, round(max(width, height) * (1 + margin)))
    x, y = round(left + width / 2 - side / 2), round(top + height / 2 - side / 2)
    return Crop(_square(image, x, y, side), (x, y, x + side, y + side), len(boxes))


def _square(image, x, y, side):
    pixels = np.asarray(image)
    rows = np.arange(y, y + side).clip(0, pixels.shape[0] - 1)
    columns = np.arange(x, x + side).clip(0, pixels.shape[1] - 1)
    return Image.fromarray(np.ascontiguousarray(pixels[rows][:, columns]))
