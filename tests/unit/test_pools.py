"""Changed pools: who stays, who goes, and which images look different."""

from dataclasses import replace

import numpy as np
import pytest

from fer_openset.errors import UserError
from fer_openset.pools import PoolSettings, pool_names, pool_settings, reshaped, shifted
from fer_openset.protocol import make_protocol
from tests.tiny import shuffled, tiny_dataset

DATASET = tiny_dataset({"train": 20, "valid": 2, "test": 30})


def protocol_of(dataset=DATASET):
    return make_protocol(dataset.table, dataset.classes, "surprise")


def pool_of(dataset=DATASET, seed=0, **settings):
    return reshaped(protocol_of(dataset), PoolSettings(**settings), seed).pool


def test_the_papers_pool_is_left_alone():
    protocol = protocol_of()
    assert reshaped(protocol, pool_settings("full"), 0).pool.equals(protocol.pool)
    assert len(protocol.pool) == 7 * 30 + 20


@pytest.mark.parametrize("name", [name for name in pool_names() if name != "full"])
def test_every_pool_file_changes_something(name):
    assert pool_settings(name) != PoolSettings()


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.5, 0.9])
def test_share_of_open_images(share):
    pool, full = pool_of(open_share=share), protocol_of().pool
    assert pool["is_open"].mean() == pytest.approx(share, abs=0.01)
    kept = pool["is_open"].value_counts()
    assert kept[False] == 180 or kept[True] == 50  # no more is left out than needed
    assert pool.equals(full.loc[pool.index])


def test_size_keeps_the_share():
    pool = pool_of(size=46)
    assert len(pool) == 46 and pool["is_open"].sum() == 10


def test_test_only_and_mix():
    assert set(pool_of(test_only=True)["split"]) == {"test"}
    pool = pool_of(known_mix={"happiness": 0.5, "anger": 0.0})
    counts = pool["label"].value_counts()
    assert counts["happiness"] == 15 and "anger" not in counts and counts["fear"] == 30


def test_chosen_by_id_and_seed():
    chosen = pool_of(size=40).index
    assert set(chosen) == set(pool_of(shuffled(DATASET), size=40).index)
    assert set(chosen) != set(pool_of(seed=1, size=40).index)


def test_images_of_the_pool_alone_change():
    protocol = protocol_of()
    light = shifted(DATASET, protocol, PoolSettings(brightness=20.0))
    inside = DATASET.rows(protocol.pool.index)
    outside = np.setdiff1d(np.arange(len(DATASET.table)), inside)
    assert (light.images[outside] == DATASET.images[outside]).all()
    wanted = (DATASET.images[inside].astype(int) + 20).clip(0, 255)
    assert (light.images[inside] == wanted).all() and light.images.dtype == np.uint8
    soft = shifted(DATASET, protocol, PoolSettings(blur=1.0)).images[inside]
    sharpness = [np.abs(np.diff(images.astype(float), axis=2)).mean() for images in (soft, DATASET.images[inside])]
    assert sharpness[0] < 0.6 * sharpness[1]
    assert shifted(DATASET, protocol, PoolSettings()) is DATASET


def test_a_copy_of_a_training_image_is_one_after_the_pool_has_changed():
    images, protocol = np.array(DATASET.images), protocol_of()
    here, there = DATASET.rows([protocol.pool.index[0], protocol.train.index[0]])
    images[here] = images[there]
    light = shifted(replace(DATASET, images=images), protocol, PoolSettings(brightness=20.0))
    assert (light.images[here] != light.images[there]).any()
    assert light.first_copy[here] == light.first_copy[there]
    assert replace(light, name="again").first_copy[here] == light.first_copy[there]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 500}, "a pool of 500 was asked for, but there are 230 images"),
        ({"open_share": 0.001}, "would hold 0 open and 180 known images"),
        ({"known_mix": {"hapiness": 0.5}}, "did you mean 'happiness'"),
        ({"known_mix": {"surprise": 0.5}}, "unknown known class 'surprise'"),
    ],
)
def test_pools_that_cannot_be(settings, expected):
    with pytest.raises(UserError, match=expected):
        pool_of(**settings)


def test_an_unknown_pool_is_named():
    with pytest.raises(UserError, match="unknown pool 'test_onli'; did you mean 'test_only'"):
        pool_settings("test_onli")
