"""Whatever an image file holds: the right pixels or one sentence, and no path leads out of the data folder."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from fer_openset.datasets import pictures
from fer_openset.datasets.pictures import decode_picture, paths_inside, read_picture
from fer_openset.errors import UserError

ODD_NAMES = ("a b.png", "gesicht_ä_顔.png", "two\nlines.png", "tab\there.png", "-rf.png", 'it\'s "x".png', "a,b;c.png")


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def grey_steps():
    """4 x 6 with a value of its own in each corner."""
    return Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)


def png_with_header(width, height):
    """A PNG whose header promises this size and whose data are a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(bytes(999)), b"IEND": b""}
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def said(data, **options):
    with pytest.raises(UserError) as error:
        decode_picture(data, "faces/x.png", 1, **options)
    assert str(error.value).startswith("faces/x.png: ") and "\n" not in str(error.value)
    return str(error.value)


def test_grey_and_colour_keep_every_pixel():
    values = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert np.array_equal(decode_picture(encoded(grey_steps()), "x", 1)[0], np.asarray(grey_steps()))
    colour = decode_picture(encoded(Image.fromarray(values)), "x", 3)
    assert colour.shape == (3, 4, 6) and np.array_equal(colour.transpose(1, 2, 0), values)
    three = decode_picture(encoded(grey_steps()), "x", 3)
    assert (three == np.asarray(grey_steps())).all() and decode_picture(encoded(grey_steps()), "x", 3, 9).shape[1] == 9


def test_the_name_decides_nothing(tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes(encoded(Image.new("L", (8, 8), 90), "JPEG"))
    assert (read_picture(path, 1) == 90).all()


def test_sixteen_bits_keep_their_upper_half():
    deep = np.array([[0, 255, 256, 30_000, 65_535]], np.uint16)
    assert decode_picture(encoded(Image.fromarray(deep)), "x", 1)[0, 0].tolist() == [0, 0, 1, 117, 255]


@pytest.mark.parametrize(
    ("image", "form"),
    [
        (Image.new("CMYK", (8, 8), (0, 0, 0, 155)), "JPEG"),
        (Image.new("RGB", (8, 8), (100, 100, 100)).convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        (Image.new("L", (8, 8), 100).convert("P"), "GIF"),
        (Image.new("RGB", (8, 8), (100, 100, 100)), "BMP"),
        (Image.new("RGB", (8, 8), (100, 100, 100)), "WEBP"),
        (Image.new("LA", (8, 8), (100, 255)), "PNG"),
        (Image.new("RGB", (8, 8), (100, 100, 100)), "TIFF"),
    ],
)
def test_every_mode_and_format_gives_the_same_grey(image, form):
    for channels in (1, 3):
        assert np.abs(decode_picture(encoded(image, form), "x", channels).astype(int) - 100).max() <= 1


def test_black_and_white_is_0_and_255():
    assert decode_picture(encoded(Image.fromarray(np.array([[False, True]]))), "x", 1)[0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white_whatever_hides_there(mode):
    hidden, seen = ((9, 9, 9, 0), (50, 50, 50, 255)) if mode == "RGBA" else ((9, 0), (50, 255))
    image = Image.new(mode, (2, 1), hidden)
    image.putpixel((1, 0), seen)
    assert decode_picture(encoded(image), "x", 1)[0, 0].tolist() == [255, 50]


def test_a_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([9, 9, 9, 50, 50, 50])
    image.putpixel((1, 0), 1)
    assert decode_picture(encoded(image, transparency=0), "x", 1)[0, 0].tolist() == [255, 50]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_its_camera_says(form):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown correctly after a quarter turn to the right
    upright = np.full((16, 32), 40, np.uint8)
    upright[:, :16] = 200  # left half bright: after the turn the upper half
    turned = decode_picture(encoded(Image.fromarray(upright), form, exif=exif), "x", 1)[0]
    assert turned.shape == (32, 16)
    assert turned[2:14].min() > 180 and turned[18:30].max() < 60


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_picture_is_taken(form):
    first, others = Image.new("L", (8, 8), 100), [Image.new("L", (8, 8), 200), Image.new("L", (8, 8), 250)]
    data = encoded(first, form, save_all=True, append_images=others, duration=50)
    assert np.abs(decode_picture(data, "x", 1).astype(int) - 100).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_a_truncated_file_is_refused_at_any_length(form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8))
    data = encoded(noise, form)
    for keep in range(0, len(data) * 3 // 4, 7):
        assert "not readable as an image (" in said(data[:keep])


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (1, 2**30), (0, 5)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_pixel_bomb_is_refused_before_it_is_unpacked(size):
    assert "not readable as an image (" in said(png_with_header(*size))


def test_the_limit_on_pixels_is_where_it_says(monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 24)
    assert decode_picture(encoded(grey_steps()), "x", 1).shape == (1, 4, 6)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 23)
    assert "(6 x 4 pixels; expected at most 23)" in said(encoded(grey_steps()))


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(Image.effect_noise((64, 64), 50), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    assert decode_picture(data, "x", 1).shape == (1, 64, 64)
    assert "more than 100 scans" in said(data[:-2] + data[scan:-2] * 200 + data[-2:])


def test_a_file_that_is_too_large_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 2**20)
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**40)  # a hole, not data
    with pytest.raises(UserError, match="huge.png: larger than 1 MiB"):
        read_picture(tmp_path / "huge.png", 1)


@pytest.mark.parametrize("data", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_said(data):
    assert "none of JPEG, PNG, BMP, WEBP, GIF, TIFF" in said(data)


def test_other_formats_stay_closed():
    assert "none of JPEG" in said(encoded(grey_steps(), "PPM"))


def test_32_bits_a_pixel_have_no_scale():
    for mode in ("F", "I"):
        assert "32 bits a pixel; expected 8 or 16" in said(encoded(Image.new(mode, (4, 4), 7), "TIFF"))


def test_a_box_is_cut_out_before_resizing():
    data = encoded(grey_steps())
    assert np.array_equal(decode_picture(data, "x", 1, box=(1, 1, 4, 3))[0], np.asarray(grey_steps())[1:3, 1:4])
    assert np.array_equal(decode_picture(data, "x", 1, box=(4, 2, 99, 99))[0], np.asarray(grey_steps())[2:, 4:])
    assert decode_picture(data, "x", 3, 8, box=(0, 0, 3, 3)).shape == (3, 8, 8)
    for box in ((6, 0, 9, 4), (-5, 0, 0, 4), (3, 3, 3, 4)):
        assert "its face box lies outside the picture of 6 x 4 pixels" in said(data, box=box)


def test_what_is_no_file_is_said_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png", "missing.png"):
        with pytest.raises(UserError, match=f"{name}: (not a file|cannot be read)"):
            read_picture(tmp_path / name, 1)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names_are_files_like_any_other(tmp_path, name):
    path = paths_inside(tmp_path, [name])[0]
    assert path == tmp_path / name
    path.write_bytes(encoded(grey_steps()))
    assert read_picture(path, 1).shape == (1, 4, 6)
    path.write_bytes(b"x")
    with pytest.raises(UserError) as error:
        read_picture(path, 1)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "a/../x.png", "/etc/passwd", "//x", "..", ".", "", "a\0b", "C:/x.png"]
)
def test_a_list_cannot_name_a_file_outside(tmp_path, name):
    with pytest.raises(UserError, match="is no path under this folder"):
        paths_inside(tmp_path, ["fine.png", name])


def test_a_link_cannot_lead_outside(tmp_path):
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.png").write_bytes(b"")
    (root / "folder").symlink_to(tmp_path / "secret")
    (root / "images" / "x.png").symlink_to("../../secret/x.png")
    (root / "images" / "ok.png").symlink_to("../images/real.png")
    (tmp_path / "door").symlink_to(root)
    (tmp_path / "root2").mkdir()  # begins with the root's name but is not in it
    (root / "near").symlink_to(tmp_path / "root2")
    for name in ("folder/x.png", "images/x.png", "near/x.png"):
        with pytest.raises(UserError, match="a symbolic link leads out"):
            paths_inside(root, [name])
    assert paths_inside(root, ["images/ok.png"]) == [root / "images" / "ok.png"]
    assert paths_inside(tmp_path / "door", ["images/a.png"]) == [tmp_path / "door" / "images" / "a.png"]
