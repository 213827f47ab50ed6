"""Pools other than the paper's, for the stress study: rarer open images, fewer images, another mix, another camera.

Only who is in the pool and how its images look changes; f_close and the known training images stay. Labels are read to
build such a pool, as they are to build any test set; no method sees them.
"""

import zlib
from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy.ndimage import gaussian_filter

from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.settings import ROOT, Settings, read_yaml

PARAMS = ROOT / "params" / "pools"
FULL = "full"  # the paper's


class PoolSettings(Settings):
    """One way to change the pool; what is left out stays as in the paper's protocol.

    test_only: no open training images. open_share: share of open images (0..1), reached by leaving images out. size:
    number of images, at an unchanged share. known_mix: {known class: share of its pool images that is kept, 0..1}.
    blur: standard deviation of a Gaussian blur, pixels of the stored image. brightness: added to every pixel.
    """

    test_only: bool = False
    open_share: float | None = Field(None, gt=0, lt=1)
    size: int | None = Field(None, ge=10)
    known_mix: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    blur: float = Field(0.0, ge=0)
    brightness: float = Field(0.0, ge=-255, le=255)

    @property
    def changes_images(self):
        return self.blur > 0 or self.brightness != 0


def pool_names():
    """Names of all pools: the paper's, `full`, and one for each file in params/pools."""
    return (FULL, *sorted(path.stem for path in PARAMS.glob("*.yaml")))


def pool_settings(name):
    """Settings of a pool by name. Raises: UserError for an unknown name, key or value."""
    check_name(name, pool_names(), "pool")
    return PoolSettings() if name == FULL else PoolSettings.build(read_yaml(PARAMS / f"{name}.yaml"), f"{name}.yaml")


def reshaped(protocol, settings, seed):
    """The protocol with the changed pool. The same ids are kept whatever the order of the table.

    Raises: UserError when a class of `known_mix` is not known, or the pool has too few images of a side.
    """
    pool = protocol.pool
    if settings.test_only:
        pool = pool[pool["split"] == "test"]
    keep = np.ones(len(pool), bool)
    for name, share in settings.known_mix.items():
        check_name(name, protocol.known_classes, "known class")
        of_class = (pool["label"] == name).to_numpy()
        keep &= ~of_class | _first(pool.index, of_class, round(share * of_class.sum()), seed)
    pool = pool[keep]
    is_open = pool["is_open"].to_numpy()
    n_open, n_known = is_open.sum(), (~is_open).sum()
    if settings.open_share is not None:
        odds = settings.open_share / (1 - settings.open_share)
        n_open, n_known = min(n_open, round(odds * n_known)), min(n_known, round(n_open / odds))
    if settings.size is not None:
        if settings.size > n_open + n_known:
            raise UserError(f"a pool of {settings.size} was asked for, but there are {n_open + n_known} images.")
        n_open = round(settings.size * n_open / (n_open + n_known))
        n_known = settings.size - n_open
    if min(n_open, n_known) < 1:
        raise UserError(
            f"this pool would hold {n_open} open and {n_known} known images; expected at least one of each."
        )
    pool = pool[_first(pool.index, is_open, n_open, seed) | _first(pool.index, ~is_open, n_known, seed)]
    return replace(protocol, pool=pool)


def _first(ids, among, n, seed):
    """Mask of n of the images in `among`: those whose ids come first in a seeded order of their own."""
    marks = np.array([zlib.crc32(f"{seed}/pool/{i}".encode()) for i in ids], dtype=np.int64)
    chosen = np.flatnonzero(among)[np.argsort(marks[among], kind="stable")[:n]]
    return np.isin(np.arange(len(ids)), chosen)


def shifted(dataset, protocol, settings):
    """The dataset with blurred or brighter pool images: uint8 as before, in memory; all other images unchanged."""
    if not settings.changes_images:
        return dataset
    images = np.array(dataset.images)
    rows = dataset.rows(protocol.pool.index)
    sigma = (0, 0, settings.blur, settings.blur)
    soft = gaussian_filter(images[rows].astype(np.float32), sigma) + settings.brightness
    images[rows] = soft.round().clip(0, 255).astype(np.uint8)
    return replace(dataset, images=images, originals=dataset.images)
