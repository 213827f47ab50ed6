"""Draw a batch of grey faces from explicit numbers: identity, camera and action units in, uint8 pictures out.

Everything is an anti-aliased shape on a (B, H, W) grid. Per pixel only + - * / sqrt, minimum and maximum are used: IEEE
fixes their last bit, so that the same numbers give the same picture on every machine and in every batch.
"""

import numpy as np

from fer_openset.datasets.face_parameters import OCCLUDER
from fer_openset.datasets.face_sheet import Sheet, bump, cover, ellipse, line, paint


def draw(face, units, size, noise):
    """Draw faces from explicit parameters.

    Shapes: face, a mapping of every name in IDENTITY, NUISANCE, DAMAGE and OCCLUDER to (B,) numbers; units (B, 18, 2)
    float32, the strength 0..1 of each action unit on the left and right half; noise (B, size, size) float32 in [-1, 1]
    -> (B, size, size) uint8.
    """
    sheet = Sheet(face, np.asarray(units, np.float32), size)
    for layer in (_backdrop, _head, _nose, _folds, _beard, _mouth, _eyes, _brows, _hair, _glasses, _occluder):
        layer(sheet, sheet.f)
    return _camera(sheet, sheet.f, noise)


def _backdrop(s, f):
    s.canvas[:] = f["back"] + f["back_x"] * s.across + f["back_y"] * s.down
    s.canvas += f["blob_tone"] * cover(ellipse(s.across - f["blob_x"], s.down - f["blob_y"], 0.7, 0.9), 0.3)
    lower = s.v > np.float32(0)
    # Hair behind the head, then neck and clothes.
    reach = np.where(lower, np.maximum(f["hair_length"], 0.05), 1.02 + f["hair_volume"])
    behind = cover(ellipse(s.u, s.v, f["face_width"] + 0.04 + f["hair_volume"], reach) * 0.8, s.pixel)
    paint(s.canvas, f["hair_tone"] * 0.8, behind * (f["bald"] < 0.88))
    paint(s.canvas, f["skin"] * 0.62, cover(np.abs(s.u) - 0.42, s.pixel) * lower)
    slope = 1.12 + 0.35 * np.maximum(np.abs(s.u) - 0.3, 0)
    paint(s.canvas, f["cloth"], cover(slope - s.v, s.pixel))


def _head(s, f):
    ears = cover(ellipse(np.abs(s.u) - f["face_width"], s.v - 0.03, 0.09, 0.18) * 0.1, s.pixel)
    paint(s.canvas, f["skin"] * 0.72, ears)
    down = np.maximum(s.v, 0)
    width = f["face_width"] * (1 - f["jaw"] * down * down)
    drop = s.sides["drop"][:, :1, None]
    height = np.where(s.v > 0, f["chin"] + 0.15 * drop, np.float32(1.03))
    x, y = s.u / width, s.v / height
    r2 = x * x + y * y
    depth = np.sqrt(np.maximum(1.05 - r2, 0.02))
    lit = np.clip(f["light_x"] * x + f["light_y"] * y + depth, 0, 1.3)
    skin = f["skin"] * (f["ambient"] + (1 - f["ambient"]) * lit)
    s.face = cover((np.sqrt(r2) - 1) * 0.8, s.pixel)
    paint(s.canvas, skin, s.face)
    s.darken((0.12 + 0.25 * f["socket"]) * bump(s.x - f["eye_x"], s.cv - f["eye_y"], 0.28, 0.2))
    s.relief(s.x - 0.42, s.cv - 0.24 + 0.05 * s.side("cheek"), 0.26, 0.2, 0.25 + 0.35 * s.side("cheek"))
    s.relief(s.cu, s.cv - f["chin"] + 0.13 - 0.15 * drop, 0.22, 0.14, 0.4 + 0.3 * s.side("boss"))


def _nose(s, f):
    wrinkle = s.side("wrinkle")
    tip = f["nose_length"] - 0.04 * wrinkle
    wide = f["nose_width"] * (1 + 0.2 * wrinkle)
    ridge = bump(s.x - 0.07, s.cv - 0.5 * tip, 0.09, 0.3)
    s.canvas += s.canvas * f["nose_relief"] * 0.35 * f["light_x"] * np.clip(s.cu * 14, -1, 1) * ridge
    s.canvas += s.canvas * 0.07 * bump(s.cu, s.cv - tip + 0.06, 0.1, 0.1)
    s.relief(s.cu, s.cv - tip, wide * 1.3, 0.12, 0.35 * f["nose_relief"])
    s.darken(0.65 * bump(s.x - 0.6 * wide, s.cv - tip - 0.035, 0.06, 0.04))
    s.darken(0.35 * bump(s.x - wide, s.cv - tip + 0.005, 0.045, 0.08))
    for row in (-0.14, -0.06, 0.02):
        across = line(s.cv - row - 0.6 * s.x, 0.016, s.pixel) * cover(s.x - 0.13, 0.06)
        s.darken(0.4 * wrinkle * across)


def _folds(s, f):
    # From the wing of the nose round the corner of the mouth.
    top, bottom = f["nose_length"] - 0.04, s.side("mouth_y") + s.side("corner") + 0.06
    along = np.clip((s.cv - top) / (bottom - top), 0, 1)
    edge = f["nose_width"] + 0.05 + (s.side("mouth_width") + 0.06 - f["nose_width"]) * along + 0.1 * along * (1 - along)
    s.darken(0.75 * s.side("fold") * line((s.x - edge) * 0.75, 0.02, s.pixel) * np.minimum(1, 5 * along * (1 - along)))
    # Frown lines between the brows, lines across the forehead, under and beside the eyes.
    frown = line(s.x - 0.055 - 0.1 * (f["brow_y"] - s.cv), 0.016, s.pixel)
    s.darken(0.6 * s.side("furrow") * frown * cover(np.abs(s.cv - f["brow_y"] - 0.04) - 0.1, 0.08))
    lift = s.side("brow_inner") - 0.1
    for row in (0.0, 0.1, 0.2):
        rows = line(s.cv - lift + row + 0.1 * s.x * s.x, 0.014, s.pixel) * cover(s.x - 0.38, 0.2)
        s.darken(0.42 * s.side("forehead") * rows)
    under = f["eye_y"] + 0.15 - 0.03 * s.side("crease") - 0.8 * (s.x - f["eye_x"]) ** 2
    below = line(s.cv - under, 0.016, s.pixel) * cover(np.abs(s.x - f["eye_x"]) - 0.15, 0.1)
    s.darken(0.5 * s.side("crease") * below)
    for slope in (-0.35, 0.25):
        crow = line(s.cv - f["eye_y"] - slope * (s.x - f["eye_x"] - 0.12), 0.014, s.pixel)
        s.darken(0.35 * s.side("crease") * crow * cover(np.abs(s.x - f["eye_x"] - 0.25) - 0.06, 0.05))
    # The chin raiser puckers the chin under the lip.
    chin = s.side("mouth_y") + 0.19 + 0.9 * s.cu * s.cu
    s.darken(0.6 * s.side("boss") * line(s.cv - chin, 0.022, s.pixel) * cover(s.x - 0.16, 0.06))


def _beard(s, f):
    # Two people of three shave; of the rest some have stubble only.
    strength = np.clip((f["beard"] - 0.68) * 4, 0, 0.85)
    shaved = 0.66 - 0.9 * np.maximum(s.x - 0.28, 0)
    jaw = cover(shaved - s.cv, 0.12) * s.face
    lip = bump(s.cu, s.cv - f["mouth_y"] + 0.12, 0.3, 0.11)
    paint(s.canvas, f["beard_tone"], strength * np.minimum(1, jaw + 1.3 * lip * s.face))


def _mouth(s, f):
    x = s.cu / s.side("mouth_width")
    x2 = x * x
    inside = np.maximum(1 - x2, 0)
    arch = np.sqrt(inside)
    middle = s.side("mouth_y") + s.side("corner") * np.minimum(x2, 1.6)
    y = s.cv - middle
    up, low = s.side("gap_up") * arch, s.side("gap_low") * arch
    bow = inside * (1 - 0.25 * np.maximum(1 - 12 * x2, 0))
    lips = cover(np.maximum(-y - up - s.side("upper_lip") * bow, y - low - s.side("lower_lip") * arch), s.pixel)
    tone = f["skin"] * f["lip_tone"]
    paint(s.canvas, tone * (0.82 + 0.22 * np.clip(y * 12, -1, 1)), lips * cover((np.abs(x) - 1) * 0.3, s.pixel))
    s.darken(0.3 * bump(s.cu, y - low - s.side("lower_lip") - 0.045, 0.16, 0.05))
    opened = cover(np.maximum(-y - up, y - low), s.pixel) * np.minimum((up + low) / s.pixel, 1)
    paint(s.canvas, 0.07 + 0.12 * f["skin"], opened)
    tongue = bump(s.cu, y - low, 0.16, 0.1) * opened
    paint(s.canvas, 0.3 * f["skin"] + 0.1, 0.8 * tongue)
    teeth = cover(y + up - 0.085, s.pixel) * opened * cover((np.abs(x) - 0.85) * 0.3, s.pixel)
    paint(s.canvas, 0.55 + 0.4 * f["skin"], s.side("teeth") * teeth)
    closed = 1 - np.minimum((up + low) / s.pixel, 1)
    press = s.side("press")
    s.darken(
        (0.5 + 0.4 * press)
        * closed
        * line(y, 0.016 + 0.012 * press, s.pixel)
        * cover((np.abs(x) - 1.02) * 0.3, s.pixel)
    )
    s.relief(s.cu, y, s.side("mouth_width"), 0.13, 0.5 * press)
    corner = s.x - s.side("mouth_width")
    s.darken(0.4 * bump(corner, s.cv - s.side("mouth_y") - s.side("corner"), 0.05, 0.05))
    s.darken(0.75 * s.side("dimple") * bump(corner - 0.06, s.cv - s.side("mouth_y") - s.side("corner"), 0.06, 0.13))


def _eyes(s, f):
    x = (s.x - f["eye_x"]) / f["eye_width"]
    inside = np.maximum(1 - x * x, 0)
    y = s.cv - f["eye_y"] + f["eye_tilt"] * x
    up, low = s.side("lid_up") * inside, s.side("lid_low") * inside
    white = cover(np.maximum(-y - up, y - low), s.pixel) * cover((np.abs(x) - 1) * 0.15, s.pixel)
    paint(s.canvas, 0.45 + 0.45 * f["skin"], white)
    # The gaze moves both irises the same way, so it needs the signed side.
    gaze = 0.06 * f["gaze_x"] * np.where(s.cu < 0, np.float32(-1), np.float32(1))
    ix, iy = s.x - f["eye_x"] - gaze, s.cv - f["eye_y"] + 0.01 - 0.03 * f["gaze_y"]
    iris = cover(np.sqrt(ix * ix + iy * iy) - 0.088, s.pixel) * white
    paint(s.canvas, f["iris"], iris)
    paint(s.canvas, np.float32(0.02), cover(np.sqrt(ix * ix + iy * iy) - 0.04, s.pixel) * white)
    paint(s.canvas, np.float32(0.95), 0.7 * bump(ix + 0.03, iy + 0.035, 0.04, 0.04) * white)
    span = cover((np.abs(x) - 1.08) * 0.15, s.pixel)
    s.darken(0.75 * span * line(y + up, 0.024, s.pixel))
    s.darken(0.3 * span * line(y - low, 0.014, s.pixel))
    s.darken(0.3 * span * line(y + up + 0.055, 0.014, s.pixel))


def _brows(s, f):
    length = f["brow_length"]
    t = (s.x - s.side("brow_gap") - length) / length
    inner, outer = s.side("brow_inner"), s.side("brow_outer")
    height = 0.5 * (inner + outer) + 0.5 * t * (outer - inner) - s.side("brow_arch") * (1 - t * t)
    half = f["brow_width"] * (1 - 0.35 * np.clip(t, -1, 1))
    mask = line(s.cv - height, half, s.pixel) * cover((np.abs(t) - 1) * 0.2, s.pixel)
    paint(s.canvas, np.minimum(f["hair_tone"], f["skin"]) * f["brow_tone"], 0.9 * mask)


def _hair(s, f):
    fringe = f["hairline"] + f["hair_arc"] * (s.u - f["hair_part"]) ** 2
    top = cover(s.v - fringe, s.pixel * 1.5)
    edge = f["face_width"] * 0.93 - 0.3 * np.minimum(s.v, 0) ** 2
    sides = cover(edge - np.abs(s.u), 2 * s.pixel) * cover(s.v - f["hair_length"], 0.2)
    head = cover(ellipse(s.u, s.v, f["face_width"] + 0.04 + f["hair_volume"], 1.03 + f["hair_volume"]) * 0.8, s.pixel)
    strand = (s.u - f["hair_part"]) * (4 - 2 * s.v)
    strand = np.abs(strand - np.floor(strand) - 0.5)
    tone = f["hair_tone"] * (0.9 + 0.3 * strand) * (1 + 0.4 * f["light_x"] * s.u - 0.2 * s.v)
    paint(s.canvas, tone, np.maximum(top, sides) * head * (f["bald"] < 0.88))


def _glasses(s, f):
    worn = f["glasses"] > 0.78
    if not worn.any():
        return
    x, y = s.x - f["eye_x"], s.cv - f["eye_y"]
    ring = ellipse(x, y, 0.225, 0.18) * 0.2
    dark = f["glasses"] > 0.985  # sunglasses
    glass = np.where(dark, np.float32(0.08), np.float32(0.9))
    weight = np.where(dark, np.float32(0.75), np.float32(0.06))
    paint(s.canvas, glass, worn * weight * cover(ring, s.pixel))
    bridge, temples = cover(s.x - f["eye_x"] + 0.22, s.pixel), cover(f["eye_x"] + 0.22 - s.x, s.pixel)
    arms = line(y + 0.03, 0.02, s.pixel) * (bridge + temples) * s.face
    paint(s.canvas, np.float32(0.1), worn * 0.85 * np.maximum(line(ring, 0.022, s.pixel), arms))


def _occluder(s, f):
    # A hand, a scarf, a microphone: something long somewhere over the picture.
    there = f[OCCLUDER] > 0
    if not there.any():
        return
    x, y = s.across - f["occluder_x"], s.down - f["occluder_y"]
    along = cover(ellipse(x + f["occluder_tilt"] * y, y - f["occluder_tilt"] * x, 0.3, 0.75) * 0.3, 2 * s.pixel)
    paint(s.canvas, f["occluder_tone"] * (1 + 0.3 * y), there * along)


def _smooth(image, weight, axis):
    """One pass of the three-tap filter (w, 1 - 2w, w) along an axis, the edge repeated."""
    padded = np.pad(image, [(0, 0)] + [(1, 1) if k == axis else (0, 0) for k in (1, 2)], mode="edge")
    before, after = (padded[:, :-2], padded[:, 2:]) if axis == 1 else (padded[:, :, :-2], padded[:, :, 2:])
    return image + weight * (before + after - 2 * image)


def _camera(s, f, noise):
    image = s.canvas * (1 + f["gradient"] * (s.across + 0.5 * s.down))
    image = ((image - 0.5) * f["contrast"] + 0.5) * f["exposure"]
    # Blur grows with the picture, so that a larger size shows the same softness: 1 pass per 24 pixels.
    for _ in range(max(1, round(s.canvas.shape[-1] / 24))):
        for axis in (1, 2):
            image = _smooth(image, 0.25 * f["blur"], axis)
    image = image + f["noise"] * noise
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
