"""Copies of a picture are found by their pixels."""

import numpy as np
import pytest

from fer_openset.datasets.copies import LOOKED_AT, first_copies


@pytest.mark.parametrize("side", [8, 96])
def test_copies_are_told_by_every_pixel(side):
    images = np.random.default_rng(0).integers(0, 256, (40, 1, side, side), np.uint8)
    images[[7, 30, 31]] = images[3]
    images[31, 0, 0, 0] ^= 1  # beside the middle that is looked at first
    images[22] = images[21]
    expected = np.arange(40)
    expected[[7, 30, 22]] = 3, 3, 21
    assert (side**2 > LOOKED_AT) == (side == 96)
    assert first_copies(images).tolist() == expected.tolist()


def test_no_image_and_images_all_alike():
    assert len(first_copies(np.zeros((0, 1, 4, 4), np.uint8))) == 0
    assert first_copies(np.zeros((5, 3, 4, 4), np.uint8)).tolist() == [0] * 5
