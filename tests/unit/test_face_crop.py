"""Faces in photos: the cascade finds drawn faces where they are; the crop is square, widened and never short."""

import sys

import numpy as np
import pytest
from PIL import Image

from fer_openset.datasets.synthetic import examples
from fer_openset.errors import UserError
from fer_openset.face_crop import crop_face, haar_faces, photo_settings

RAMP = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (80, 1)))  # 100 wide; a pixel's value is its column


def at(*boxes):
    return lambda grey: np.array(boxes, int).reshape(-1, 4)


def test_the_cascade_finds_drawn_faces_where_they_are():
    _, faces = examples(("happiness", "neutral", "anger"), per_class=4, image_size=120, seed=1)
    detect, near, side = haar_faces(photo_settings()), 0, 120
    for i, face in enumerate(faces[:, 0]):
        photo = np.tile(np.linspace(90, 160, 320).astype(np.uint8), (240, 1))
        left, top = 10 * i, 5 * i
        photo[top : top + side, left : left + side] = face
        boxes = detect(photo)
        middle = np.abs(boxes[:, :2] + boxes[:, 2:] / 2 - (left + side / 2, top + side / 2)).max(1)
        near += bool(((middle < 15) & (boxes[:, 2] > 0.7 * side) & (boxes[:, 2] < 1.3 * side)).any())
    assert near >= 11
    assert len(detect(np.tile(np.linspace(60, 200, 320).astype(np.uint8), (240, 1)))) == 0


def test_the_largest_face_is_cut_out_with_its_margin():
    cut = crop_face(RAMP, at((5, 5, 10, 10), (40, 20, 20, 20), (60, 60, 15, 15)), margin=0.5)
    assert cut.box == (35, 15, 65, 45) and cut.faces == 3 and cut.image.size == (30, 30)
    assert np.array_equal(np.asarray(cut.image)[0], np.arange(35, 65))


def test_beyond_the_edge_the_border_is_repeated():
    cut = crop_face(RAMP, at((90, 0, 10, 20)), margin=0.0)
    assert cut.box == (85, 0, 105, 20) and cut.image.size == (20, 20)  # a square of the longer side
    assert np.asarray(cut.image)[0].tolist() == [*range(85, 100), 99, 99, 99, 99, 99]


def test_without_a_face_there_is_no_crop():
    assert crop_face(RAMP, at(), margin=0.1) == (cut := crop_face(RAMP, at(), 0.2)) and cut.image is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2)])
def test_odd_shapes_hold_no_face(shape):
    assert len(haar_faces(photo_settings())(np.zeros(shape, np.uint8))) == 0


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(UserError, match="cascade = 'no_such': OpenCV .* has no such file"):
        haar_faces(photo_settings({"cascade": "no_such"}))
    with pytest.raises(UserError, match="unknown key 'margins'; did you mean 'margin'"):
        photo_settings({"margins": 0.1})
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="finding faces needs OpenCV: pip install"):
        haar_faces(photo_settings())
