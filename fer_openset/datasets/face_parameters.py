"""The numbers behind a face: what varies between people and pictures, and where the features then stand."""

import numpy as np

from fer_openset.datasets.action_units import COLUMN

# Uniform ranges of what makes a person. Tones are 0 (black) .. 1 (white).
IDENTITY = {
    "face_width": (0.66, 0.84), "jaw": (-0.12, 0.34), "chin": (0.92, 1.06), "skin": (0.36, 0.88), "age": (0.0, 1.0),
    "hair_tone": (0.03, 0.75), "hairline": (-0.9, -0.58), "hair_arc": (0.1, 0.8), "hair_part": (-0.25, 0.25),
    "hair_volume": (0.02, 0.2), "hair_length": (-0.3, 1.5), "bald": (0.0, 1.0),
    "brow_y": (-0.43, -0.33), "brow_tilt": (-0.035, 0.035), "brow_arch": (0.0, 0.07), "brow_width": (0.028, 0.06),
    "brow_length": (0.17, 0.23), "brow_tone": (0.25, 0.75), "brow_gap": (0.1, 0.17),
    "eye_x": (0.29, 0.37), "eye_y": (-0.15, -0.07), "eye_width": (0.16, 0.21), "eye_height": (0.075, 0.115),
    "eye_tilt": (-0.03, 0.03), "iris": (0.05, 0.4), "socket": (0.0, 1.0),
    "nose_length": (0.2, 0.33), "nose_width": (0.09, 0.16), "nose_relief": (0.5, 1.3),
    "mouth_y": (0.49, 0.58), "mouth_width": (0.24, 0.34), "upper_lip": (0.03, 0.075), "lower_lip": (0.045, 0.1),
    "lip_tone": (0.5, 0.92), "mouth_curve": (-0.02, 0.02), "cheek": (0.0, 1.0),
    "glasses": (0.0, 1.0), "beard": (0.0, 1.0), "beard_tone": (0.1, 0.6),
}  # fmt: skip
# What the camera and the moment do: (value without nuisance, largest deviation at strength 1).
NUISANCE = {
    "roll": (0.0, 0.09), "scale": (1.06, 0.08), "shift_x": (0.0, 0.07), "shift_y": (-0.09, 0.07), "turn": (0.0, 0.1),
    "nod": (0.0, 0.06), "light_x": (0.0, 0.7), "light_y": (-0.25, 0.35), "ambient": (0.65, 0.2),
    "exposure": (1.0, 0.25), "contrast": (1.0, 0.25), "gradient": (0.0, 0.25), "back": (0.5, 0.45),
    "back_x": (0.0, 0.3), "back_y": (0.0, 0.3), "blob_x": (0.0, 1.2), "blob_y": (0.0, 1.2), "blob_tone": (0.0, 0.4),
    "cloth": (0.4, 0.35), "gaze_x": (0.0, 0.5), "gaze_y": (0.0, 0.3), "occluder_x": (0.0, 1.0),
    "occluder_y": (0.15, 1.0), "occluder_tilt": (0.0, 1.0), "occluder_tone": (0.45, 0.4),
}  # fmt: skip
# One-sided nuisances: 0 .. the largest value at strength 1. The occluder is there (1) or not (0).
DAMAGE = {"blur": 0.8, "noise": 0.06}
OCCLUDER = "occluder"


def geometry(f, units):
    """Where brows, lids and lips stand, from identity and action units. Shapes: (B, 2) float32 each, left and right."""
    a = {unit: units[:, column] for unit, column in COLUMN.items()}
    both = {name: value[:, None] for name, value in f.items()}
    drop, part = a[26].mean(1, keepdims=True), a[25].mean(1, keepdims=True)
    thin = (1 - 0.45 * a[23]) * (1 - 0.8 * a[24]) * (1 - 0.3 * a[20])
    opening = 0.09 * part + 0.26 * drop
    fold = 0.5 * a[12] + 0.55 * a[10] + 0.65 * a[11] + 0.3 * a[9] + 0.2 * a[15]
    return {
        "brow_inner": both["brow_y"] - both["brow_tilt"] - 0.17 * a[1] + 0.17 * a[4] * (1 - 0.6 * a[1]) + 0.06 * a[9],
        "brow_outer": both["brow_y"] + both["brow_tilt"] - 0.16 * a[2] + 0.05 * a[4] + 0.02 * a[6],
        "brow_arch": both["brow_arch"] + 0.04 * a[2] - 0.03 * a[4],
        "brow_gap": both["brow_gap"] - 0.05 * a[4],
        "lid_up": both["eye_height"] * (1 + 0.6 * a[5] + 0.15 * a[1] - 0.5 * a[7] - 0.2 * a[6] - 0.25 * a[9]),
        "lid_low": both["eye_height"] * (0.65 + 0.2 * a[5] - 0.35 * a[7] - 0.35 * a[6] - 0.2 * a[9]),
        "corner": both["mouth_curve"] - 0.18 * a[12] + 0.16 * a[15] + 0.04 * a[20] + 0.03 * a[17] - 0.03 * a[14],
        "mouth_width": both["mouth_width"] + 0.09 * a[12] + 0.14 * a[20] - 0.08 * a[26] - 0.03 * a[23] + 0.03 * a[14],
        "mouth_y": both["mouth_y"] - 0.04 * a[17] + 0.02 * a[12] - 0.02 * a[10] + 0 * drop,
        "upper_lip": both["upper_lip"] * thin + 0.02 * a[10],
        "lower_lip": both["lower_lip"] * thin,
        "gap_up": 0.35 * opening + 0.07 * a[10] * (0.4 + part),
        "gap_low": 0.65 * opening + 0.02 * a[12] * part,
        "teeth": np.minimum(0.9 * a[12] + 0.7 * a[10] + 0.6 * a[20] + 0.25 * part, 1) * np.ones_like(a[12]),
        "fold": np.minimum(0.25 * both["age"] + fold, 0.9),
        "furrow": 0.15 * both["age"] + 0.85 * a[4],
        "forehead": 0.25 * both["age"] + 0.35 * (a[1] + a[2]),
        "cheek": 0.4 * both["cheek"] + 0.8 * a[6] + 0.4 * a[12],
        "crease": 0.3 * both["age"] + 0.7 * a[6] + 0.4 * a[7],
        "wrinkle": a[9], "dimple": a[14], "press": a[24], "boss": a[17], "drop": drop * np.ones_like(a[12]),
    }  # fmt: skip
