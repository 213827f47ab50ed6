"""Attention maps lie where the network looked."""

import numpy as np
import torch
from tiny import CPU, small_net

from fer_openset.attention import class_attention, spread


def test_a_cell_lies_where_its_receptive_field_is_centred():
    """A bright spot moves the same cells of a real strided network as `spread` draws over it."""
    body = small_net("small", 2, 0).body.eval()
    for row, column in ((8, 20), (4, 4), (24, 12)):
        image = torch.zeros(1, 1, 32, 32)
        with torch.inference_mode():
            blank = body(image)
            image[0, 0, row, column] = 5
            change = (body(image) - blank).abs().sum(1)
        drawn = spread(change, 32, (32, 32))[0].numpy()
        weights = drawn / drawn.sum()
        centre = [(weights.sum(axis) * np.arange(32)).sum() for axis in (1, 0)]
        assert np.abs(np.array(centre) - (row, column)).max() < 1.6


def test_values_between_cells_are_linear_and_go_on_beyond_them():
    drawn = spread(torch.tensor([[[0.0, 1.0], [0.0, 1.0]]]), 64, (64, 64))[0]
    assert drawn[0, 0] == 0 and drawn[5, 16] == 0.5 and (drawn[:, 32:] == 1).all()
    assert (spread(torch.ones(1, 1, 1), 32, (48, 48)) == 1).all()


def test_maps_of_faces_and_their_mirror_images_are_mirrored():
    faces = np.random.default_rng(0).integers(0, 256, (5, 1, 32, 32), dtype=np.uint8)
    net = small_net("small", 3, 1, zero_head=False)
    maps = class_attention(net, faces, 32, CPU)
    assert maps.shape == (5, 32, 32) and maps.min() >= 0 and maps.max() == 1
    assert np.allclose(maps, class_attention(net, faces[..., ::-1].copy(), 32, CPU)[..., ::-1], atol=1e-5)
    assert class_attention(net, faces[:0], 32, CPU).shape == (0, 32, 32)
