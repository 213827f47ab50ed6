"""Photos of every kind become grey or RGB faces; what is wrong with a file is said of that file."""

import os

import numpy as np
import pytest
from PIL import Image

from fer_openset.errors import UserError
from fer_openset.photos import TRANSPARENT, PhotoError, as_face, find_photos, read_photo, readable

RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))  # (24, 32)
COLOUR = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=2)


def opened(image, path, **options):
    image.save(path, **options)
    return read_photo(path)[0]


def test_grey_and_colour_stay_what_they_are(tmp_path):
    grey = opened(Image.fromarray(RAMP), tmp_path / "a.png")
    assert grey.mode == "L" and np.array_equal(np.asarray(grey), RAMP)
    colour = opened(Image.fromarray(COLOUR), tmp_path / "b.png")
    assert colour.mode == "RGB" and np.array_equal(np.asarray(colour), COLOUR)


def test_sixteen_bits_keep_their_upper_half(tmp_path):
    wide = opened(Image.fromarray(RAMP.astype(np.uint16) * 256 + 99), tmp_path / "a.png")
    assert wide.mode == "L" and np.array_equal(np.asarray(wide), RAMP)
    small = opened(Image.fromarray(RAMP.astype(np.int32)), tmp_path / "b.tif")  # wide pixels, small numbers
    assert np.array_equal(np.asarray(small), RAMP)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_transparent_pixels_become_middle_grey(tmp_path, mode):
    image = Image.fromarray(RAMP if mode == "LA" else COLOUR).convert("RGBA")
    alpha = np.full(RAMP.shape, 255, np.uint8)
    alpha[:, :16] = 0
    image.putalpha(Image.fromarray(alpha))
    image = image.convert("LA") if mode == "LA" else image.quantize(64) if mode == "PA" else image
    read = np.asarray(opened(image, tmp_path / "a.png"))
    assert (read[:, :16] == TRANSPARENT).all() and read.ndim == (2 if mode == "LA" else 3)
    assert np.abs(read[:, 20:].astype(int) - (RAMP if mode == "LA" else COLOUR)[:, 20:]).max() < 12


def test_a_photo_taken_sideways_is_turned_upright_and_a_large_one_shrunk(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    turned = opened(Image.fromarray(RAMP), tmp_path / "a.png", exif=exif)
    assert turned.size == (24, 32)
    Image.fromarray(COLOUR).resize((640, 480)).save(tmp_path / "b.jpg")
    image, side = read_photo(tmp_path / "b.jpg", longest=100)
    assert image.size == (100, 75) and side == 640


def test_files_that_give_no_picture(tmp_path, monkeypatch):
    Image.fromarray(RAMP).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "real.tif")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    words = {"cut.jpg": "cannot be decoded", "text.png": "no picture of a known kind", "empty.png": "no picture of",
             "gone.png": "no file that", "real.tif": "floating-point", "pipe.png": "no file"}  # fmt: skip
    for name, reason in words.items():
        with pytest.raises(PhotoError) as error:
            read_photo(tmp_path / name)
        assert reason in error.value.reason and str(error.value).startswith(f"{tmp_path / name}: ")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(PhotoError, match="more than 500 pixels"):
        read_photo(tmp_path / "whole.jpg")


def test_which_files_of_a_folder_are_photos(tmp_path):
    for name in ("b.JPG", "sub/a.png", ".hidden/c.png", "notes.txt", ".d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, others = find_photos([tmp_path, tmp_path / "notes.txt", tmp_path / "b.JPG"])
    assert found == [tmp_path / "b.JPG", tmp_path / "sub" / "a.png", tmp_path / "notes.txt"] and others == 1
    with pytest.raises(UserError, match="nowhere: there is no such file or folder"):
        find_photos([tmp_path / "nowhere"])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no photo there"):
        find_photos([tmp_path / "none"])


def test_a_name_that_is_no_text_can_be_written():
    assert readable(os.fsdecode(b"caf\xe9.png")) == "caf\ufffd.png"


def test_a_face_is_the_middle_square():
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 200
    assert (as_face(Image.fromarray(pixels), 10, 1) == 200).all()
    assert as_face(Image.fromarray(pixels), 8, 3).shape == (3, 8, 8)
    assert as_face(Image.new("RGB", (1, 400)), 8, 1).shape == (1, 8, 8)
