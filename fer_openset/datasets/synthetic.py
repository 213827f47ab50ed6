"""The embedded default dataset: procedural faces, made from a seed, with a table like a real dataset's.

A sample = a person x an expression's action units at some intensity x what the camera does. Persons and camera vary far
more than expressions do, the classes are as unequal as RAF-DB's, and some labels are wrong the way people's are.
"""

from collections import Counter
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from fer_openset.datasets.action_units import UNITS, shown
from fer_openset.datasets.face_parameters import DAMAGE, IDENTITY, NUISANCE, OCCLUDER
from fer_openset.datasets.faces import draw
from fer_openset.datasets.store import Listing
from fer_openset.labels import BASIC, COMPOUND, CONTEMPT, EXPRESSIONS, check_name
from fer_openset.settings import Settings

VERSION = 1  # raise it when the same settings would give other pictures or another table
CLASS_SETS = {
    "basic": BASIC,
    "basic+contempt": (*BASIC, CONTEMPT),
    "basic+compound": (*BASIC, *COMPOUND),
    "all": EXPRESSIONS,
}
ON_REQUEST = (CONTEMPT, *COMPOUND)
# Images per class: RAF-DB's training split; RAF-DB's 3,954 compound images spread evenly; contempt as rare as fear.
RAFDB = dict(zip(BASIC, (1290, 281, 717, 4772, 1982, 705, 2524), strict=True))
WEIGHTS = RAFDB | {CONTEMPT: 281} | dict.fromkeys(COMPOUND, 359)
# What a hurried person writes instead (ours); a compound expression is taken for one of its two parts.
MISTAKES = {
    "surprise": ("fear", "happiness"),
    "fear": ("surprise", "sadness"),
    "disgust": ("anger", "sadness"),
    "happiness": ("neutral", "surprise"),
    "sadness": ("neutral", "fear", "anger"),
    "anger": ("disgust", "neutral", "sadness"),
    "neutral": ("sadness", "happiness", "anger"),
    "contempt": ("neutral", "happiness"),
}
PARTS = {"happily": "happiness", "sadly": "sadness", "fearfully": "fear", "angrily": "anger", "disgustedly": "disgust",
         "surprised": "surprise", "fearful": "fear", "angry": "anger", "disgusted": "disgust"}  # fmt: skip
SPLITS = ("train", "valid", "test")
OCCLUDED = 0.15  # share of pictures with something in front of the face, at nuisance 1
CHUNK = 64  # faces drawn at once: their planes stay in the processor's cache


class SyntheticSettings(Settings):
    """Settings of the procedural faces; see params/datasets/synthetic.yaml for what each one means."""

    seed: int = Field(ge=0, lt=2**63)
    image_size: int = Field(ge=24, le=512)
    classes: Literal[tuple(CLASS_SETS)]  # before the counts, whose check needs it
    n_train: int = Field(le=10**6)
    n_valid: int = Field(le=10**6)
    n_test: int = Field(le=10**6)
    min_share: float = Field(ge=0, le=0.5)
    label_noise: float = Field(ge=0, le=0.5)
    images_per_person: int = Field(ge=1)
    intensity_low: float = Field(ge=0, le=1)
    intensity_high: float = Field(gt=0, le=1)
    unit_noise: float = Field(ge=0, le=1)
    nuisance: float = Field(ge=0, le=2)

    @field_validator("n_train", "n_valid", "n_test")
    @classmethod
    def _two_of_each(cls, value, info):
        least = 2 * len(CLASS_SETS.get(info.data.get("classes"), ()))
        if value < least:
            raise ValueError(f"expected at least {least}, two images of each class")
        return value

    @field_validator("intensity_high")
    @classmethod
    def _above_low(cls, value, info):
        if value < info.data.get("intensity_low", 0):
            raise ValueError(f"expected no less than intensity_low, {info.data['intensity_low']}")
        return value


def _stream(seed, purpose, split, number=0):
    """The random numbers of one thing: they depend on nothing else, so any order and any batch gives the same."""
    key = np.array([seed, 16 * purpose + split], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, number, 0, 0], np.uint64)))


def _counts(total, names, min_share):
    """Images per class: RAF-DB's shares, no class below `min_share` or two images, adding up to `total`."""
    share = np.array([WEIGHTS[name] for name in names], float)
    share = np.maximum(share / share.sum(), min(min_share, 1 / len(names)))
    least = max(2, int(min(min_share, 1 / len(names)) * total))
    counts = np.maximum(np.floor(share / share.sum() * total).astype(int), least)
    while counts.sum() != total:
        step = 1 if counts.sum() < total else -1
        counts[np.argmax(counts)] += step
    return counts


def samples(settings):
    """Everything known of each sample: also the expression really shown and the person, which `read` keeps to itself.

    Shapes: one row a sample indexed by `sample_id`, train rows first; columns label, split, expression, and person and
    number, which count within the split: nobody is in two splits.
    """
    names = CLASS_SETS[settings.classes]
    return pd.concat([_split_table(settings, names, code, split) for code, split in enumerate(SPLITS)])


def _split_table(settings, names, code, split):
    total = getattr(settings, f"n_{split}")
    rng = _stream(settings.seed, 0, code)
    shown_names = np.repeat(np.array(names), _counts(total, names, settings.min_share))
    shown_names = shown_names[np.argsort(rng.random(total), kind="stable")]
    return pd.DataFrame(
        {
            "label": _mistaken(shown_names, settings.label_noise, rng),
            "split": split,
            "expression": shown_names,
            "person": np.arange(total) // settings.images_per_person,
            "number": np.arange(total),
        },
        index=pd.Index([f"{split}_{n:06d}" for n in range(total)], name="sample_id"),
    )


def _mistaken(expressions, rate, rng):
    """Labels with mistakes towards look-alikes; two samples of each class keep theirs, so that none vanishes."""
    seen, labels = Counter(), []
    coins, choices = rng.random((2, len(expressions)))
    for name, coin, choice in zip(expressions, coins, choices, strict=True):
        seen[name] += 1
        alike = MISTAKES.get(name) or tuple(PARTS[part] for part in name.split("_"))
        wrong = coin < rate and seen[name] > 2
        labels.append(alike[int(choice * len(alike))] if wrong else str(name))
    return labels


def _spread(ranges, draws):
    low, high = np.array(list(ranges.values()), float).T
    return dict(zip(ranges, (low + (high - low) * draws).T, strict=True))


def _people(settings, keys):
    """Identity, taste in optional units and expressiveness of each (split code, person)."""
    width = len(IDENTITY) + len(UNITS) + 1
    draws = np.stack([_stream(settings.seed, 1, *key).random(width) for key in keys])
    face = _spread(IDENTITY, draws[:, : len(IDENTITY)])
    face["beard"] = face["beard"] * (face["hair_length"] < 0.5)  # long hair and a beard seldom meet
    return face, draws[:, len(IDENTITY) : -1], draws[:, -1]


def _moments(settings, keys, size):
    """Camera, strength of the units and pixel noise of each (split code, number)."""
    width = len(NUISANCE) + len(DAMAGE) + 2 + 3 * len(UNITS)  # 2: an occluder or not, the mood
    streams = [_stream(settings.seed, 2, *key) for key in keys]
    draws = np.stack([stream.random(width) for stream in streams])
    camera, damage, occluder, mood, units = np.split(draws, np.cumsum([len(NUISANCE), len(DAMAGE), 1, 1]), axis=1)
    middle, reach = np.array(list(NUISANCE.values()), float).T
    face = dict(zip(NUISANCE, (middle + settings.nuisance * reach * (2 * camera - 1)).T, strict=True))
    worst = settings.nuisance * np.array(list(DAMAGE.values()))
    face |= dict(zip(DAMAGE, (worst * damage * damage).T, strict=True))  # squared: most pictures are fairly good
    face[OCCLUDER] = occluder[:, 0] < OCCLUDED * settings.nuisance
    planes = np.stack([stream.random((2, size, size), np.float32) for stream in streams])
    return face, mood[:, 0], units.reshape(len(keys), 3, len(UNITS)), planes[:, 0] - planes[:, 1]


def _strength(settings, expressions, coins, expressiveness, mood, units):
    """How strongly each unit moves on each side: person's expressiveness x moment x unit, and stray movements."""
    low, high = settings.intensity_low, settings.intensity_high
    overall = low + (high - low) * (0.5 * expressiveness + 0.5 * mood)
    own = overall[:, None] * (0.4 + 1.0 * units[:, 0])
    active = shown(expressions, coins) * own[:, :, None]
    # Talking, squinting, a habit: one unit in six moves a little whatever the expression.
    stray = settings.unit_noise * (units[:, 1] > 0.84) * units[:, 0]
    lean = 0.3 * (2 * units[:, 2] - 1)
    sides = np.stack([1 - lean, 1 + lean], axis=2)
    return np.minimum(np.maximum(active, stray[:, :, None]) * sides, 1.2).astype(np.float32)


def _render(settings, table):
    """Draw the rows of a table of `samples`, a chunk at a time."""
    size = settings.image_size
    images = np.empty((len(table), 1, size, size), np.uint8)
    for start in range(0, len(table), CHUNK):
        rows = table.iloc[start : start + CHUNK]
        codes = [SPLITS.index(split) for split in rows["split"]]
        face, coins, expressiveness = _people(settings, list(zip(codes, rows["person"], strict=True)))
        camera, mood, draws, noise = _moments(settings, list(zip(codes, rows["number"], strict=True)), size)
        units = _strength(settings, list(rows["expression"]), coins, expressiveness, mood, draws)
        images[start : start + CHUNK, 0] = draw(face | camera, units, size, noise)
    return images


def render(settings, indices):
    """Draw the samples at `indices` (positions in the dataset's table): the same picture in any batch and any order.

    Shapes: (len(indices), 1, image_size, image_size) uint8.
    """
    return _render(settings, samples(settings).iloc[list(indices)])


def class_names(settings):
    """The expressions that these settings draw."""
    return CLASS_SETS[settings.classes]


def with_classes(settings, names):
    """The change of settings that also draws the expressions `names`: the smallest class set that holds them all."""
    wanted = {*class_names(settings), *names}
    return {"classes": next(key for key, group in CLASS_SETS.items() if wanted <= set(group))}


def read(settings, root=None):
    """List the dataset for the store; `root` is not used, the pictures are made. Shapes: see `store.Listing`."""
    table = samples(settings)
    return Listing(
        name="synthetic",
        table=table[["label", "split"]],
        classes=class_names(settings),
        key_material={"reader": VERSION, **settings.model_dump()},
        shape=(1, settings.image_size, settings.image_size),
        decode=lambda start, stop: _render(settings, table.iloc[start:stop]),
        people=(table["split"] + "/" + table["person"].astype(str)).to_list(),
    )


def examples(expressions, per_class=6, image_size=96, seed=0, intensity=0.9, nuisance=0.25):
    """Clear pictures for illustration: one row of people an expression, the same people in every row.

    Shapes: names (len(expressions) * per_class,) str, images (the same, 1, image_size, image_size) uint8.
    Raises: UserError for an unknown expression, a size below 24, a number out of its range.
    """
    names = [check_name(name, EXPRESSIONS, "expression") for name in expressions]
    least = 2 * len(EXPRESSIONS)  # the counts are not used: no split is drawn here
    values = {"seed": seed, "image_size": image_size, "classes": "all", "n_train": least, "n_valid": least,
              "n_test": least, "min_share": 0.0, "label_noise": 0.0, "images_per_person": 1, "intensity_low": intensity,
              "intensity_high": intensity, "unit_noise": 0.0, "nuisance": nuisance}  # fmt: skip
    settings = SyntheticSettings.build(values, "examples")
    table = pd.DataFrame(
        [(name, "train", k, k) for name in names for k in range(per_class)],
        columns=["expression", "split", "person", "number"],
    )
    return table["expression"].to_numpy(), _render(settings, table)
