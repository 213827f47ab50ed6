"""Ink only: faces side by side, each beside its attention map, as one picture, drawn with Pillow."""

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fer_openset.figures import KNOWN, OPEN

TILE, GAP, LINE, ACROSS = 84, 8, 13, 6
HEAT = 0.5  # share of the attention colours in the overlay


def contact_sheet(faces, maps, titles):
    """Shapes: faces (n, 1 or 3, H, W) uint8; maps (n, H, W) in 0..1; titles n of (file name, text, is open).

    Returns: an RGB picture, `ACROSS` pairs of face and overlay a row; the frame's colour is that of known or open.
    """
    cell_width, cell_height = 2 * TILE + 3 * GAP, TILE + 2 * LINE + 2 * GAP
    rows = -(-len(faces) // ACROSS)
    width, height = min(max(len(faces), 2), ACROSS) * cell_width + GAP, rows * cell_height + 2 * LINE
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    _legend(draw, font)
    for i, (face, heat, (name, text, is_open)) in enumerate(zip(faces, maps, titles, strict=True)):
        x, y = i % ACROSS * cell_width + GAP, i // ACROSS * cell_height + 2 * LINE
        colour = OPEN if is_open else KNOWN
        draw.rectangle((x, y, x + 2 * TILE + GAP, y + TILE + 3), fill=colour)
        for k, picture in enumerate((_rgb(face), _overlay(face, heat))):
            place = Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BILINEAR)
            sheet.paste(place, (x + 2 + k * (TILE + GAP - 4), y + 2))
        for line, words in enumerate((name, text)):
            draw.text((x, y + TILE + 5 + line * LINE), _cut(words, font, 2 * TILE + GAP), fill="black", font=font)
    return sheet


def _legend(draw, font):
    draw.text((GAP, 4), "most open first", fill="black", font=font)
    for x, word, colour in ((110, "taken for open", OPEN), (220, "taken for known", KNOWN)):
        draw.rectangle((x, 6, x + 10, 16), fill=colour)
        draw.text((x + 15, 4), word, fill="black", font=font)


def _rgb(face):
    return np.ascontiguousarray(np.broadcast_to(face, (3, *face.shape[1:])).transpose(1, 2, 0))


def _overlay(face, heat):
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    return ((1 - HEAT) * _rgb(face) + HEAT * colours).astype(np.uint8)


def _cut(text, font, width):
    """As much of the text as fits."""
    if font.getlength(text) <= width:
        return text
    return next(short for n in range(len(text), -1, -1) if font.getlength(short := text[:n] + "...") <= width)
