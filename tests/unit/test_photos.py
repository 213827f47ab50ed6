"""Which files are photos, how large and which way up they are read, and what of them is a face."""

import os

import numpy as np
import pytest
from PIL import Image

from fer_openset.errors import UserError
from fer_openset.photos import as_face, find_photos, read_photo, readable

RAMP = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))  # (24, 32)
COLOUR = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=2)


def opened(image, path, **options):
    image.save(path, **options)
    return read_photo(path)[0]


def test_a_photo_taken_sideways_is_turned_upright_and_a_large_one_shrunk(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    turned = opened(Image.fromarray(RAMP), tmp_path / "a.png", exif=exif)
    assert turned.size == (24, 32)
    Image.fromarray(COLOUR).resize((640, 480)).save(tmp_path / "b.jpg")
    image, side = read_photo(tmp_path / "b.jpg", longest=100)
    assert image.size == (100, 75) and side == 640


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


def test_sixteen_bits_transparency_and_orientation_are_as_in_a_file(tmp_path):
    deep = Image.fromarray(np.full((8, 8), 30_000, np.uint16))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    turned = Image.fromarray(RAMP[:, :24].copy())
    turned.getexif()[0x0112] = 6
    for number, image in enumerate((deep, clear, turned)):
        image.save(tmp_path / f"{number}.png", exif=image.getexif())
        side = image.height
        expected = as_face(read_photo(tmp_path / f"{number}.png")[0], side, 1)
        assert np.array_equal(as_face(image, side, 1), expected)
    assert (as_face(deep, 8, 1) == 117).all() and (as_face(clear, 8, 3) == 255).all()
    with pytest.raises(ValueError, match="32 bits a pixel"):
        as_face(Image.new("F", (8, 8)), 8, 1)


def test_a_face_is_the_middle_square():
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 200
    assert (as_face(Image.fromarray(pixels), 10, 1) == 200).all()
    assert as_face(Image.fromarray(pixels), 8, 3).shape == (3, 8, 8)
    assert as_face(Image.new("RGB", (1, 400)), 8, 1).shape == (1, 8, 8)
