"""What faces are drawn on and with: a grid in the face's own frame, soft-edged shapes, a canvas.

The frame: u to the right, v down, (0, 0) on the nose bridge, the eyes near v = -0.1, the mouth near v = 0.5, the chin
near v = 1. `x` is |u|, so that both halves are drawn at once; what differs between them is a per-side number.
"""

import numpy as np

from fer_openset.datasets.face_parameters import geometry


def cover(distance, pixel):
    """Share of a pixel inside an edge at signed `distance` (negative inside)."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def ellipse(x, y, rx, ry):
    return np.sqrt((x / rx) ** 2 + (y / ry) ** 2) - 1


def bump(x, y, rx, ry):
    """A soft spot: 1 in the middle, 0 outside the ellipse."""
    return np.maximum(1 - (x / rx) ** 2 - (y / ry) ** 2, 0) ** 2


def line(distance, half_width, pixel):
    """Share of a pixel under a line; lines thinner than a pixel grow faint, not away."""
    return np.clip(0.5 + (half_width - np.abs(distance)) / pixel, 0, 1) * np.minimum(1, 2 * half_width / pixel + 0.2)


def paint(canvas, tone, mask):
    canvas += mask * (tone - canvas)


class Sheet:
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
        self.sides = geometry({name: value[:, 0, 0] for name, value in f.items()}, units)
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
