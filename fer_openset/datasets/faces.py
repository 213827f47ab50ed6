"""Draw a batch of grey faces from explicit numbers: identity, camera and action units in, uint8 pictures out.

Everything is an anti-aliased shape on a (B, H, W) grid. Per pixel only + - * / sqrt, minimum and maximum are used: IEEE
fixes their last bit, so that the same numbers give the same picture on every machine and in every batch.

The face's own frame: u to the right, v down, (0, 0) on the nose bridge, the eyes near v = -0.1, the mouth near v = 0.5, the
chin near v = 1. `x` is |u|, so that both halves are drawn at once; what differs between them is a per-side number.
"""

import numpy as np

from fer_openset.datasets.action_units import COLUMN

# Uniform ranges of what makes a person. Tones are 0 (black) .. 1 (white).
IDENTITY = {
    "face_width": (0.66, 0.84), "jaw": (-0.12, 0.34), "chin": (0.92, 1.06), "skin": (0.36, 0.88), "age": (0.0, 1.0),
    "hair_tone": (0.03, 0.75), "hairline": (-0.9, -0.58), "hair_arc": (0.1, 0.8), "hair_part": (-0.25, 0.25),
    "hair_volume": (0.02, 0.2), "hair_length": (-0.3, 1.5), "bald": (0.0, 1.0),
    "brow_y": (-0.43, -0.33), "brow_tilt": (-0.05, 0.05), "brow_arch": (0.0, 0.07), "brow_width": (0.028, 0.06),
    "brow_length": (0.17, 0.23), "brow_tone": (0.25, 0.75), "brow_gap": (0.1, 0.17),
    "eye_x": (0.29, 0.37), "eye_y": (-0.15, -0.07), "eye_width": (0.16, 0.21), "eye_height": (0.075, 0.115),
    "eye_tilt": (-0.03, 0.03), "iris": (0.05, 0.4), "socket": (0.0, 1.0),
    "nose_length": (0.2, 0.33), "nose_width": (0.09, 0.16), "nose_relief": (0.5, 1.3),
    "mouth_y": (0.49, 0.58), "mouth_width": (0.24, 0.34), "upper_lip": (0.03, 0.075), "lower_lip": (0.045, 0.1),
    "lip_tone": (0.5, 0.92), "mouth_curve": (-0.025, 0.03), "cheek": (0.0, 1.0),
    "glasses": (0.0, 1.0), "beard": (0.0, 1.0), "beard_tone": (0.1, 0.6),
}
# What the camera and the moment do: (value without nuisance, largest deviation at strength 1).
NUISANCE = {
    "roll": (0.0, 0.09), "scale": (1.06, 0.08), "shift_x": (0.0, 0.07), "shift_y": (-0.09, 0.07), "turn": (0.0, 0.1),
    "nod": (0.0, 0.06), "light_x": (0.0, 0.7), "light_y": (-0.25, 0.35), "ambient": (0.65, 0.2), "exposure": (1.0, 0.25),
    "contrast": (1.0, 0.25), "gradient": (0.0, 0.25), "back": (0.5, 0.45), "back_x": (0.0, 0.3), "back_y": (0.0, 0.3),
    "blob_x": (0.0, 1.2), "blob_y": (0.0, 1.2), "blob_tone": (0.0, 0.4), "cloth": (0.4, 0.35), "gaze_x": (0.0, 0.5),
    "gaze_y": (0.0, 0.3), "occluder_x": (0.0, 1.0), "occluder_y": (0.15, 1.0), "occluder_tilt": (0.0, 1.0),
    "occluder_tone": (0.45, 0.4),
}  # fmt: skip
# One-sided nuisances: 0 .. the largest value at strength 1. The occluder is there (1) or not (0).
DAMAGE = {"blur": 0.8, "noise": 0.06}
OCCLUDER = "occluder"


def _cover(distance, pixel):
    """Share of a pixel inside an edge at signed `distance` (negative inside)."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _ellipse(x, y, rx, ry):
    return np.sqrt((x / rx) ** 2 + (y / ry) ** 2) - 1


def _bump(x, y, rx, ry):
    """A soft spot: 1 in the middle, 0 outside the ellipse."""
    return np.maximum(1 - (x / rx) ** 2 - (y / ry) ** 2, 0) ** 2


def _line(distance, half_width, pixel):
    """Share of a pixel under a line; lines thinner than a pixel grow faint, not away."""
    return np.clip(0.5 + (half_width - np.abs(distance)) / pixel, 0, 1) * np.minimum(1, 2 * half_width / pixel + 0.2)


def _paint(canvas, tone, mask):
    canvas += mask * (tone - canvas)


def _geometry(f, units):
    """Where brows, lids and lips stand, from identity and action units. Shapes: (B, 2) float32 each, left and right."""
    a = {unit: units[:, column] for unit, column in COLUMN.items()}
    both = {name: value[:, None] for name, value in f.items()}
    drop, part = a[26].mean(1, keepdims=True), a[25].mean(1, keepdims=True)
    thin = (1 - 0.45 * a[23]) * (1 - 0.8 * a[24]) * (1 - 0.3 * a[20])
    opening = 0.09 * part + 0.26 * drop
    return {
        "brow_inner": both["brow_y"] - both["brow_tilt"] - 0.17 * a[1] + 0.15 * a[4] * (1 - 0.6 * a[1]) + 0.06 * a[9],
        "brow_outer": both["brow_y"] + both["brow_tilt"] - 0.16 * a[2] + 0.05 * a[4] + 0.02 * a[6],
        "brow_arch": both["brow_arch"] + 0.04 * a[2] - 0.03 * a[4],
        "brow_gap": both["brow_gap"] - 0.05 * a[4],
        "lid_up": both["eye_height"] * (1 + 0.6 * a[5] + 0.15 * a[1] - 0.4 * a[7] - 0.2 * a[6] - 0.25 * a[9]),
        "lid_low": both["eye_height"] * (0.65 + 0.2 * a[5] - 0.35 * a[7] - 0.35 * a[6] - 0.2 * a[9]),
        "corner": both["mouth_curve"] - 0.18 * a[12] + 0.16 * a[15] + 0.04 * a[20] + 0.03 * a[17] - 0.03 * a[14],
        "mouth_width": both["mouth_width"] + 0.09 * a[12] + 0.12 * a[20] - 0.04 * a[26] - 0.03 * a[23] + 0.03 * a[14],
        "mouth_y": both["mouth_y"] - 0.04 * a[17] + 0.02 * a[12] - 0.02 * a[10] + 0 * drop,
        "upper_lip": both["upper_lip"] * thin + 0.02 * a[10],
        "lower_lip": both["lower_lip"] * thin,
        "gap_up": 0.35 * opening + 0.07 * a[10] * (0.4 + part),
        "gap_low": 0.65 * opening + 0.02 * a[12] * part,
        "teeth": np.minimum(0.9 * a[12] + 0.7 * a[10] + 0.6 * a[20] + 0.25 * part, 1) * np.ones_like(a[12]),
        "fold": np.minimum(0.25 * both["age"] + 0.5 * a[12] + 0.55 * a[10] + 0.65 * a[11] + 0.3 * a[9] + 0.2 * a[15], 0.9),
        "furrow": 0.15 * both["age"] + 0.7 * a[4],
        "forehead": 0.25 * both["age"] + 0.35 * (a[1] + a[2]),
        "cheek": 0.4 * both["cheek"] + 0.8 * a[6] + 0.4 * a[12],
        "crease": 0.3 * both["age"] + 0.7 * a[6] + 0.4 * a[7],
        "wrinkle": a[9], "dimple": a[14], "press": a[24], "boss": a[17], "drop": drop * np.ones_like(a[12]),
    }  # fmt: skip


class _Sheet:
    """The grid in the face's frame, the numbers shaped to broadcast over it, and the canvas drawn on."""

    def __init__(self, face, units, size):
        self.f = {name: np.asarray(value, np.float32)[:, None, None] for name, value in face.items()}
        f, t = self.f, self.f["roll"]
        at = ((np.arange(size, dtype=np.float32) + 0.5) * np.float32(2 / size)) - 1
        self.across, self.down = at[None, None, :], at[None, :, None]
        cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        dx, dy = self.across - f["shift_x"], self.down - f["shift_y"]
        self.u, self.v = (dx * cos + dy * sin) / f["scale"], (dy * cos - dx * sin) / f["scale"]
        self.pixel = np.float32(2 / size) / f["scale"]
        # A turned or nodding head: the middle of the face slides over the silhouette.
        self.cu = self.u - f["turn"] * np.maximum(1 - (self.u / f["face_width"]) ** 2, 0)
        self.cv = self.v - f["nod"] * np.maximum(1 - self.v**2, 0)
        self.x = np.abs(self.cu)
        self.right = np.clip(0.5 + 4 * self.cu, 0, 1)
        self.sides = _geometry({name: value[:, 0] for name, value in _squeeze(self.f).items()}, units)
        self.canvas = np.empty((len(t), size, size), np.float32)

    def side(self, name):
        """A per-side number spread over the grid, blended across the nose. Shapes: (B, H, W) float32."""
        left, right = (self.sides[name][:, k, None, None] for k in (0, 1))
        return left + self.right * (right - left)

    def relief(self, x, y, rx, ry, height):
        """Shade a bump of the skin: its side towards the light is brighter, the other darker."""
        x, y = x / rx, y / ry
        lit = self.f["light_x"] * x + (self.f["light_y"] - 0.35) * y
        self.canvas += self.canvas * (height * lit * np.maximum(1 - x * x - y * y, 0))

    def darken(self, amount):
        self.canvas -= self.canvas * amount


def _squeeze(f):
    return {name: value[:, :, 0] for name, value in f.items()}


def draw(face, units, size, noise):
    """Draw faces from explicit parameters.

    Shapes: face, a mapping of every name in IDENTITY, NUISANCE, DAMAGE and OCCLUDER to (B,) numbers; units (B, 18, 2) float32, the
    strength 0..1 of each action unit on the left and right half; noise (B, size, size) float32 in [-1, 1] -> (B, size,
    size) uint8.
    """
    sheet = _Sheet(face, np.asarray(units, np.float32), size)
    for layer in (_backdrop, _head, _nose, _folds, _beard, _mouth, _eyes, _brows, _hair, _glasses, _occluder):
        layer(sheet, sheet.f)
    return _camera(sheet, sheet.f, noise)


def _backdrop(s, f):
    s.canvas[:] = f["back"] + f["back_x"] * s.across + f["back_y"] * s.down
    s.canvas += f["blob_tone"] * _cover(_ellipse(s.across - f["blob_x"], s.down - f["blob_y"], 0.7, 0.9), 0.3)
    lower = s.v > np.float32(0)
    # Hair behind the head, then neck and clothes.
    reach = np.where(lower, np.maximum(f["hair_length"], 0.05), 1.02 + f["hair_volume"])
    behind = _cover(_ellipse(s.u, s.v, f["face_width"] + 0.04 + f["hair_volume"], reach) * 0.8, s.pixel)
    _paint(s.canvas, f["hair_tone"] * 0.8, behind * (f["bald"] < 0.88))
    _paint(s.canvas, f["skin"] * 0.62, _cover(np.abs(s.u) - 0.42, s.pixel) * lower)
    slope = 1.12 + 0.35 * np.maximum(np.abs(s.u) - 0.3, 0)
    _paint(s.canvas, f["cloth"], _cover(slope - s.v, s.pixel))


def _head(s, f):
    ears = _cover(_ellipse(np.abs(s.u) - f["face_width"], s.v - 0.03, 0.09, 0.18) * 0.1, s.pixel)
    _paint(s.canvas, f["skin"] * 0.72, ears)
    down = np.maximum(s.v, 0)
    width = f["face_width"] * (1 - f["jaw"] * down * down)
    drop = s.sides["drop"][:, :1, None]
    height = np.where(s.v > 0, f["chin"] + 0.15 * drop, np.float32(1.03))
    x, y = s.u / width, s.v / height
    r2 = x * x + y * y
    depth = np.sqrt(np.maximum(1.05 - r2, 0.02))
    lit = np.clip(f["light_x"] * x + f["light_y"] * y + depth, 0, 1.3)
    skin = f["skin"] * (f["ambient"] + (1 - f["ambient"]) * lit)
    s.face = _cover((np.sqrt(r2) - 1) * 0.8, s.pixel)
    _paint(s.canvas, skin, s.face)
    s.darken((0.12 + 0.25 * f["socket"]) * _bump(s.x - f["eye_x"], s.cv - f["eye_y"], 0.28, 0.2))
    s.relief(s.x - 0.42, s.cv - 0.24 + 0.05 * s.side("cheek"), 0.26, 0.2, 0.25 + 0.35 * s.side("cheek"))
    s.relief(s.cu, s.cv - f["chin"] + 0.13 - 0.15 * drop, 0.22, 0.14, 0.4 + 0.3 * s.side("boss"))


def _nose(s, f):
    wrinkle = s.side("wrinkle")
    tip = f["nose_length"] - 0.04 * wrinkle
    wide = f["nose_width"] * (1 + 0.2 * wrinkle)
    ridge = _bump(s.x - 0.07, s.cv - 0.5 * tip, 0.09, 0.3)
    s.canvas += s.canvas * f["nose_relief"] * 0.35 * f["light_x"] * np.clip(s.cu * 14, -1, 1) * ridge
    s.canvas += s.canvas * 0.07 * _bump(s.cu, s.cv - tip + 0.06, 0.1, 0.1)
    s.relief(s.cu, s.cv - tip, wide * 1.3, 0.12, 0.35 * f["nose_relief"])
    s.darken(0.65 * _bump(s.x - 0.6 * wide, s.cv - tip - 0.035, 0.06, 0.04))
    s.darken(0.35 * _bump(s.x - wide, s.cv - tip + 0.005, 0.045, 0.08))
    for row in (-0.14, -0.06, 0.02):
        across = _line(s.cv - row - 0.6 * s.x, 0.016, s.pixel) * _cover(s.x - 0.13, 0.06)
        s.darken(0.4 * wrinkle * across)


def _folds(s, f):
    # From the wing of the nose round the corner of the mouth.
    top, bottom = f["nose_length"] - 0.04, s.side("mouth_y") + s.side("corner") + 0.06
    along = np.clip((s.cv - top) / (bottom - top), 0, 1)
    edge = f["nose_width"] + 0.05 + (s.side("mouth_width") + 0.06 - f["nose_width"]) * along + 0.1 * along * (1 - along)
    s.darken(0.75 * s.side("fold") * _line((s.x - edge) * 0.75, 0.02, s.pixel) * np.minimum(1, 5 * along * (1 - along)))
    # Frown lines between the brows, lines across the forehead, under and beside the eyes.
    frown = _line(s.x - 0.055 - 0.1 * (f["brow_y"] - s.cv), 0.016, s.pixel)
    s.darken(0.6 * s.side("furrow") * frown * _cover(np.abs(s.cv - f["brow_y"] - 0.04) - 0.1, 0.08))
    lift = s.side("brow_inner") - 0.1
    for row in (0.0, 0.1, 0.2):
        rows = _line(s.cv - lift + row + 0.1 * s.x * s.x, 0.014, s.pixel) * _cover(s.x - 0.38, 0.2)
        s.darken(0.42 * s.side("forehead") * rows)
    under = f["eye_y"] + 0.15 - 0.03 * s.side("crease") - 0.8 * (s.x - f["eye_x"]) ** 2
    s.darken(0.5 * s.side("crease") * _line(s.cv - under, 0.016, s.pixel) * _cover(np.abs(s.x - f["eye_x"]) - 0.15, 0.1))
    for slope in (-0.35, 0.25):
        crow = _line(s.cv - f["eye_y"] - slope * (s.x - f["eye_x"] - 0.12), 0.014, s.pixel)
        s.darken(0.35 * s.side("crease") * crow * _cover(np.abs(s.x - f["eye_x"] - 0.25) - 0.06, 0.05))
    # The chin raiser puckers the chin under the lip.
    chin = s.side("mouth_y") + 0.19 + 0.9 * s.cu * s.cu
    s.darken(0.6 * s.side("boss") * _line(s.cv - chin, 0.022, s.pixel) * _cover(s.x - 0.16, 0.06))


def _beard(s, f):
    # Two people of three shave; of the rest some have stubble only.
    strength = np.clip((f["beard"] - 0.68) * 4, 0, 0.85)
    line = 0.66 - 0.9 * np.maximum(s.x - 0.28, 0)
    jaw = _cover(line - s.cv, 0.12) * s.face
    lip = _bump(s.cu, s.cv - f["mouth_y"] + 0.12, 0.3, 0.11)
    _paint(s.canvas, f["beard_tone"], strength * np.minimum(1, jaw + 1.3 * lip * s.face))


def _mouth(s, f):
    x = s.cu / s.side("mouth_width")
    x2 = x * x
    inside = np.maximum(1 - x2, 0)
    arch = np.sqrt(inside)
    middle = s.side("mouth_y") + s.side("corner") * np.minimum(x2, 1.6)
    y = s.cv - middle
    up, low = s.side("gap_up") * arch, s.side("gap_low") * arch
    bow = inside * (1 - 0.25 * np.maximum(1 - 12 * x2, 0))
    lips = _cover(np.maximum(-y - up - s.side("upper_lip") * bow, y - low - s.side("lower_lip") * arch), s.pixel)
    tone = f["skin"] * f["lip_tone"]
    _paint(s.canvas, tone * (0.82 + 0.22 * np.clip(y * 12, -1, 1)), lips * _cover((np.abs(x) - 1) * 0.3, s.pixel))
    s.darken(0.3 * _bump(s.cu, y - low - s.side("lower_lip") - 0.045, 0.16, 0.05))
    opened = _cover(np.maximum(-y - up, y - low), s.pixel) * np.minimum((up + low) / s.pixel, 1)
    _paint(s.canvas, 0.07 + 0.12 * f["skin"], opened)
    tongue = _bump(s.cu, y - low, 0.16, 0.1) * opened
    _paint(s.canvas, 0.3 * f["skin"] + 0.1, 0.8 * tongue)
    teeth = _cover(y + up - 0.085, s.pixel) * opened * _cover((np.abs(x) - 0.85) * 0.3, s.pixel)
    _paint(s.canvas, 0.55 + 0.4 * f["skin"], s.side("teeth") * teeth)
    closed = 1 - np.minimum((up + low) / s.pixel, 1)
    press = s.side("press")
    s.darken((0.55 + 0.25 * press) * closed * _line(y, 0.018, s.pixel) * _cover((np.abs(x) - 1.02) * 0.3, s.pixel))
    s.relief(s.cu, y, s.side("mouth_width"), 0.13, 0.5 * press)
    corner = s.x - s.side("mouth_width")
    s.darken(0.4 * _bump(corner, s.cv - s.side("mouth_y") - s.side("corner"), 0.05, 0.05))
    s.darken(0.75 * s.side("dimple") * _bump(corner - 0.06, s.cv - s.side("mouth_y") - s.side("corner"), 0.06, 0.13))


def _eyes(s, f):
    x = (s.x - f["eye_x"]) / f["eye_width"]
    inside = np.maximum(1 - x * x, 0)
    y = s.cv - f["eye_y"] + f["eye_tilt"] * x
    up, low = s.side("lid_up") * inside, s.side("lid_low") * inside
    white = _cover(np.maximum(-y - up, y - low), s.pixel) * _cover((np.abs(x) - 1) * 0.15, s.pixel)
    _paint(s.canvas, 0.45 + 0.45 * f["skin"], white)
    # The gaze moves both irises the same way, so it needs the signed side.
    gaze = 0.06 * f["gaze_x"] * np.where(s.cu < 0, np.float32(-1), np.float32(1))
    ix, iy = s.x - f["eye_x"] - gaze, s.cv - f["eye_y"] + 0.01 - 0.03 * f["gaze_y"]
    iris = _cover(np.sqrt(ix * ix + iy * iy) - 0.088, s.pixel) * white
    _paint(s.canvas, f["iris"], iris)
    _paint(s.canvas, np.float32(0.02), _cover(np.sqrt(ix * ix + iy * iy) - 0.04, s.pixel) * white)
    _paint(s.canvas, np.float32(0.95), 0.7 * _bump(ix + 0.03, iy + 0.035, 0.04, 0.04) * white)
    span = _cover((np.abs(x) - 1.08) * 0.15, s.pixel)
    s.darken(0.75 * span * _line(y + up, 0.024, s.pixel))
    s.darken(0.3 * span * _line(y - low, 0.014, s.pixel))
    s.darken(0.3 * span * _line(y + up + 0.055, 0.014, s.pixel))


def _brows(s, f):
    length = f["brow_length"]
    t = (s.x - s.side("brow_gap") - length) / length
    inner, outer = s.side("brow_inner"), s.side("brow_outer")
    height = 0.5 * (inner + outer) + 0.5 * t * (outer - inner) - s.side("brow_arch") * (1 - t * t)
    half = f["brow_width"] * (1 - 0.35 * np.clip(t, -1, 1))
    mask = _line(s.cv - height, half, s.pixel) * _cover((np.abs(t) - 1) * 0.2, s.pixel)
    _paint(s.canvas, np.minimum(f["hair_tone"], f["skin"]) * f["brow_tone"], 0.9 * mask)


def _hair(s, f):
    line = f["hairline"] + f["hair_arc"] * (s.u - f["hair_part"]) ** 2
    top = _cover(s.v - line, s.pixel * 1.5)
    edge = f["face_width"] * 0.93 - 0.3 * np.minimum(s.v, 0) ** 2
    sides = _cover(edge - np.abs(s.u), 2 * s.pixel) * _cover(s.v - f["hair_length"], 0.2)
    head = _cover(_ellipse(s.u, s.v, f["face_width"] + 0.04 + f["hair_volume"], 1.03 + f["hair_volume"]) * 0.8, s.pixel)
    strand = (s.u - f["hair_part"]) * (4 - 2 * s.v)
    strand = np.abs(strand - np.floor(strand) - 0.5)
    tone = f["hair_tone"] * (0.9 + 0.3 * strand) * (1 + 0.4 * f["light_x"] * s.u - 0.2 * s.v)
    _paint(s.canvas, tone, np.maximum(top, sides) * head * (f["bald"] < 0.88))


def _glasses(s, f):
    worn = f["glasses"] > 0.78
    if not worn.any():
        return
    x, y = s.x - f["eye_x"], s.cv - f["eye_y"]
    ring = _ellipse(x, y, 0.225, 0.18) * 0.2
    dark = f["glasses"] > 0.985
    _paint(s.canvas, np.where(dark, np.float32(0.08), np.float32(0.9)), worn * np.where(dark, 0.75, 0.06) * _cover(ring, s.pixel))
    arms = _line(y + 0.03, 0.02, s.pixel) * (_cover(s.x - f["eye_x"] + 0.22, s.pixel) + _cover(f["eye_x"] + 0.22 - s.x, s.pixel))
    _paint(s.canvas, np.float32(0.1), worn * 0.85 * np.maximum(_line(ring, 0.022, s.pixel), arms * s.face))


def _occluder(s, f):
    # A hand, a scarf, a microphone: something long somewhere over the picture.
    there = f[OCCLUDER] > 0
    if not there.any():
        return
    x, y = s.across - f["occluder_x"], s.down - f["occluder_y"]
    along = _cover(_ellipse(x + f["occluder_tilt"] * y, y - f["occluder_tilt"] * x, 0.3, 0.75) * 0.3, 2 * s.pixel)
    _paint(s.canvas, f["occluder_tone"] * (1 + 0.3 * y), there * along)


def _smooth(image, weight, axis):
    """One pass of the three-tap filter (w, 1 - 2w, w) with the edge repeated."""
    before, after = (np.concatenate(parts, axis) for parts in _neighbours(image, axis))
    return image + weight * (before + after - 2 * image)


def _neighbours(image, axis):
    first, last = (np.take(image, [k], axis) for k in (0, -1))
    head, tail = (np.take(image, range(*r), axis) for r in ((0, image.shape[axis] - 1), (1, image.shape[axis])))
    return (first, head), (tail, last)


def _camera(s, f, noise):
    image = s.canvas * (1 + f["gradient"] * (s.across + 0.5 * s.down))
    image = ((image - 0.5) * f["contrast"] + 0.5) * f["exposure"]
    # Blur grows with the picture, so that a larger size shows the same softness: 1 pass per 24 pixels.
    for _ in range(max(1, round(s.canvas.shape[-1] / 24))):
        for axis in (1, 2):
            image = _smooth(image, 0.25 * f["blur"], axis)
    image = image + f["noise"] * noise
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
