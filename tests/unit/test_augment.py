"""Views: every image decides for itself, and the same seed gives the same batch."""

import numpy as np
import pytest
import torch

from fer_openset import augment
from fer_openset.augment import AugmentSettings, SizeSettings, clean_view, train_view

CPU = torch.device("cpu")


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def faces(n, channels=1, size=32, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8))


class Trained(SizeSettings):
    """As a network's settings have it: sizes and a number of epochs."""

    epochs: int


@pytest.mark.parametrize(("epochs", "small"), [(5, 2), (3, 2), (2, 1), (1, 0)])
def test_the_last_epoch_sees_the_full_size_however_few_there_are(epochs, small):
    settings = Trained(image_size=64, start_size=48, start_epochs=2, epochs=epochs)
    assert [settings.size_at(epoch) for epoch in range(epochs)] == [48] * small + [64] * (epochs - small)


def test_sizes_alone_follow_start_epochs():
    settings = SizeSettings(image_size=64, start_size=48, start_epochs=2)
    assert [settings.size_at(epoch) for epoch in range(3)] == [48, 48, 64]


ALL_ON = AugmentSettings(flip=0.5, noise=0.5, erase=0.5)
WARPED = AugmentSettings(flip=0.5, noise=0.5, erase=0.5, rotate=0.2, zoom=0.1, shift=0.1)
NOTHING = AugmentSettings(flip=0.0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("settings", [ALL_ON, WARPED])
def test_the_same_seed_gives_the_same_batch_and_another_seed_another(settings, channels):
    images = faces(8, channels)
    first = train_view(images, 24, settings, CPU, gen(1))
    assert first.shape == (8, channels, 24, 24) and first.dtype == torch.float32
    assert torch.equal(first, train_view(images, 24, settings, CPU, gen(1)))
    assert not torch.equal(first, train_view(images, 24, settings, CPU, gen(2)))


def test_nothing_random_draws_from_the_global_state():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    train_view(faces(4), 24, WARPED, CPU, gen())
    assert torch.equal(before, torch.random.get_rng_state())


def test_with_everything_off_the_training_view_is_the_clean_view():
    images = faces(5, 3)
    assert torch.equal(train_view(images, 24, NOTHING, CPU, gen()), clean_view(images, 24, CPU))
    x = images.float()
    assert augment.gaussian_noise(x, 0.0, 30.0, gen()) is x
    assert augment.random_flip(x, 0.0, gen()) is x
    assert augment.random_erase(x, 0.0, (0.02, 0.25), gen()) is x


def test_the_clean_view_is_deterministic_and_leaves_the_images_alone():
    images = faces(5)
    kept = images.clone()
    assert torch.equal(clean_view(images, 48, CPU), clean_view(images, 48, CPU))
    train_view(images, 32, ALL_ON, CPU, gen())
    assert torch.equal(images, kept)


def test_each_image_makes_its_own_decision_to_flip():
    one = faces(1)
    x = one.float().expand(400, -1, -1, -1)
    out = augment.random_flip(x, 0.5, gen())
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    plain = (out == x).flatten(1).all(1)
    assert (mirrored ^ plain).all() and 140 < mirrored.sum() < 260
    assert torch.equal(augment.random_flip(x, 1.0, gen()), x.flip(3))
    assert torch.equal(x.flip(3)[0, 0], torch.from_numpy(np.fliplr(one[0, 0].numpy()).copy()).float())


def test_each_image_draws_its_own_noise():
    x = torch.full((400, 1, 16, 16), 128.0)
    out = augment.gaussian_noise(x, 0.5, 30.0, gen())
    touched = (out != x).flatten(1).any(1)
    assert 140 < touched.sum() < 260
    noise = (out - x)[touched]
    assert abs(float(noise.var()) - 30) < 1 and abs(float(noise.mean())) < 0.1
    assert not torch.allclose(noise[0], noise[1])


def test_noise_stays_on_the_scale_of_pixels():
    x = torch.cat([torch.zeros(10, 1, 8, 8), torch.full((10, 1, 8, 8), 255.0)])
    out = augment.gaussian_noise(x, 1.0, 900.0, gen())
    assert out.min() == 0 and out.max() == 255 and not torch.equal(out, x)


def test_each_image_loses_its_own_rectangle():
    x = torch.ones(600, 1, 40, 40)
    out = augment.random_erase(x, 0.5, (0.02, 0.25), gen())
    holes = (out == 0)[:, 0]
    hit = holes.flatten(1).any(1)
    assert 230 < hit.sum() < 370 and set(out.unique().tolist()) == {0.0, 1.0}
    boxes = set()
    for hole in holes[hit]:
        rows, columns = hole.any(1).nonzero().ravel(), hole.any(0).nonzero().ravel()
        box = (int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))
        tall, wide = box[1] - box[0] + 1, box[3] - box[2] + 1
        assert hole.sum() == tall * wide  # one whole rectangle
        assert 0.012 < tall * wide / 1600 < 0.27  # rounding to whole pixels included
        assert 0.2 < tall / wide < 4.5
        boxes.add(box)
    assert len(boxes) > 200
    shares = holes[hit].float().mean((1, 2))
    assert abs(float(shares.mean()) - 0.135) < 0.015  # uniform between .02 and .25
    assert shares.min() < 0.04 and shares.max() > 0.22


def test_erased_rectangles_reach_every_place():
    holes = (augment.random_erase(torch.ones(3000, 1, 16, 16), 1.0, (0.02, 0.25), gen()) == 0)[:, 0].float().mean(0)
    assert holes.min() > 0.005 and holes[7, 7] > holes[0, 0]
    np.testing.assert_allclose(holes, holes.flip(0), atol=0.05)
    np.testing.assert_allclose(holes, holes.T, atol=0.05)


def test_a_rectangle_never_leaves_the_image():
    out = augment.random_erase(torch.ones(200, 1, 6, 6), 1.0, (0.9, 1.0), gen(), ratio=(0.05, 20.0))
    assert (out == 0).flatten(1).any(1).all()


def test_erasing_covers_all_channels_with_the_mean_colour():
    view = train_view(faces(50, 3), 32, AugmentSettings(flip=0.0, erase=1.0), CPU, gen())
    hole = (view == 0).all(1)
    assert hole.flatten(1).any(1).all()
    assert torch.equal((view == 0).all(1), (view == 0).any(1) & hole)


def test_normalise_knows_grey_and_colour():
    x = torch.full((2, 3, 4, 4), 127.5)
    expected = [(0.5 - m) / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    np.testing.assert_allclose(augment.normalise(x)[0, :, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(augment.normalise(x[:, :1])[0, 0, 0, 0], (0.5 - 0.449) / 0.226, rtol=1e-5)


def test_resize_keeps_the_mean_and_the_same_size_untouched():
    x = faces(3, 1, 64).float()
    assert augment.resize(x, 64) is x
    for size in (32, 96):
        small = augment.resize(x, size)
        assert small.shape == (3, 1, size, size)
        np.testing.assert_allclose(small.mean((1, 2, 3)), x.mean((1, 2, 3)), rtol=0.02)
    # Antialiased: a pixel of the half-size image looks at all four it replaces, so fine noise averages out.
    assert augment.resize(x, 16).std() < 0.4 * x.std()


def test_affine_without_movement_is_the_resize_and_movement_differs_by_image():
    x = faces(6, 1, 32).float()
    still = augment.random_affine(x, 32, AugmentSettings(), gen())
    np.testing.assert_allclose(still, x, atol=1e-2)
    same = x[:1].expand(6, -1, -1, -1)
    moved = augment.random_affine(same, 32, AugmentSettings(rotate=0.3), gen())
    assert all(not torch.allclose(moved[0], other, atol=1.0) for other in moved[1:])


def test_a_shift_moves_by_that_share_of_the_image():
    x = torch.zeros(200, 1, 40, 40)
    x[:, :, 18:22, 18:22] = 100.0
    out = augment.random_affine(x, 40, AugmentSettings(shift=0.2), gen())
    where = torch.arange(40.0)
    centre = (out.sum(2)[:, 0] * where).sum(1) / out.sum((1, 2, 3))
    assert (centre - 19.5).abs().max() <= 8.05 and (centre - 19.5).abs().max() > 7


def test_zoom_changes_the_size_by_that_share():
    x = torch.zeros(300, 1, 64, 64)
    x[:, :, 22:42, 22:42] = 100.0
    area = augment.random_affine(x, 64, AugmentSettings(zoom=0.2), gen()).sum((1, 2, 3)) / x[0].sum()
    assert 0.66 < area.min() < 0.75 and 1.4 < area.max() < 1.6  # 1 / 1.2^2 and 1 / 0.8^2


def test_a_warp_shows_no_black_border():
    x = torch.full((20, 1, 32, 32), 200.0)
    out = augment.random_affine(x, 32, AugmentSettings(rotate=0.5, shift=0.3, zoom=0.3), gen())
    np.testing.assert_allclose(out, 200.0, atol=1e-2)
