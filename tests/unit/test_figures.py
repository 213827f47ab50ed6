"""Figures: something is drawn, all text is on the canvas and apart, directions and colours are as promised."""

import io
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from ink import overlap, texts_of
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from fer_openset import figures, metrics, style
from fer_openset.errors import UserError
from fer_openset.labels import BASIC, COMPOUND, EXPRESSIONS

RNG = np.random.default_rng(0)
EPOCHS = pd.DataFrame({"epoch": [1, 2, 3], "lr": [3e-4, 2e-4, 1e-4], "loss": [2.0, 1.0, 0.5]})
BOTH = EPOCHS.assign(train_accuracy=[0.5, 0.7, 0.8], valid_accuracy=[0.4, 0.6, 0.65])
SHARES = pd.DataFrame(RNG.dirichlet(np.ones(6), 3), ["closed test", "open test", "open train"], BASIC[1:])
COUNTS = pd.DataFrame(RNG.integers(5, 5000, (3, 19)), ["train", "valid", "test"], EXPRESSIONS)
TRUTH = np.arange(500) < 200
SCORES = RNG.gamma(2.0, size=500) + 2 * TRUTH
FACES = RNG.integers(0, 256, (9, 3, 16, 16), dtype=np.uint8)
CURVE = metrics.roc_curve(SCORES, TRUTH)
DRAW = {
    "faces": lambda: figures.face_grid(FACES, COMPOUND[:9], columns=4),
    "grey faces": lambda: figures.face_grid(FACES[:2, :1]),
    "counts": lambda: figures.class_counts(COUNTS),
    "history": lambda: figures.training_history(BOTH),
    "short history": lambda: figures.training_history(EPOCHS[:1]),
    "two nets": lambda: figures.training_history(pd.concat([EPOCHS.assign(learner=name) for name in ("f1", "f2")])),
    "pseudo labels": lambda: figures.pseudo_label_counts(SHARES),
    "scores": lambda: figures.score_histogram(SCORES, TRUTH, "noisy_label, as_released", 0.8123),
    "roc": lambda: figures.roc_curve({"msp, aligned": CURVE, "noisy_label, as_released": CURVE[::-1]}),
}


@pytest.mark.parametrize("name", DRAW)
def test_something_is_drawn_and_no_text_is_cut_or_covered(name):
    figure = DRAW[name]()
    image = np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))
    assert 0.005 < np.mean((image < 250).any(axis=-1)) < 1
    found = texts_of(figure)
    width, height = figure.canvas.get_width_height()
    for text, box in found:
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text.get_text()
        assert text.get_fontsize() == style.POINTS, text.get_text()
    for i, (text, box) in enumerate(found):
        for other, other_box in found[i + 1 :]:
            assert overlap(box, other_box) < 2, f"{text.get_text()} lies on {other.get_text()}"


def test_the_check_above_sees_cut_and_overlapping_text():
    figure = Figure(figsize=(2, 2))
    figure.text(0.95, 0.5, "far too long for this place")
    figure.text(0.5, 0.2, "one")
    figure.text(0.52, 0.2, "two")
    (_, cut), (_, one), (_, two) = texts_of(figure)
    assert cut.x1 > figure.canvas.get_width_height()[0] and overlap(one, two) > 2


def test_faces_are_shown_as_they_are():
    images = np.zeros((2, 3, 4, 4), np.uint8)
    images[0, 0, 0, 3] = 255  # red, top right
    red, black = (ax.images[0].get_array() for ax in figures.face_grid(images).axes)
    assert tuple(red[0, 3]) == (255, 0, 0) and red.sum() == 255 and black.sum() == 0
    grey = figures.face_grid(np.full((1, 1, 4, 4), 100, np.uint8)).axes[0].images[0]
    assert grey.get_clim() == (0, 255)  # not stretched to the image's own range
    for shape in ((0, 3, 4, 4), (4, 4), (1, 2, 4, 4)):
        with pytest.raises(UserError, match="images have shape"):
            figures.face_grid(np.zeros(shape, np.uint8))


def test_open_scores_grow_to_the_right():
    figure = figures.score_histogram([0.0, 0.1, 0.2, 5.0, 5.1], [False, False, False, True, True], "msp", 1.0)
    ax = figure.axes[0]
    assert not ax.xaxis_inverted() and "larger = more open" in ax.get_xlabel() and "1.000" in ax.get_title()
    outlines = {p.get_label(): p.get_xy() for p in ax.patches if "n =" in str(p.get_label())}
    places = {label: xy[xy[:, 1] > 0, 0] for label, xy in outlines.items()}
    assert places["known (n = 3)"].max() < 1 < 4 < places["open (n = 2)"].min()
    hues = {p.get_label().split()[0]: to_hex(p.get_edgecolor()) for p in ax.patches if "n =" in str(p.get_label())}
    assert hues == {"known": style.KNOWN.lower(), "open": style.OPEN.lower()}


def test_equal_scores_can_be_drawn():
    assert figures.score_histogram([1.0, 1.0], [False, True], "msp", 0.5).axes[0].patches


def test_history_leaves_out_what_is_missing():
    titles = [ax.get_title() for ax in figures.training_history(BOTH.drop(columns="lr")).axes]
    assert titles == ["loss", "accuracy"]
    untested = BOTH.assign(valid_accuracy=np.nan)
    assert len(figures.training_history(untested).axes[-1].lines) == 1
    for empty in (EPOCHS[["epoch"]], EPOCHS.drop(columns="epoch")):
        with pytest.raises(UserError, match="the history has no epoch"):
            figures.training_history(empty)


def test_history_draws_each_learner():
    both = pd.concat([EPOCHS.assign(learner="f1"), EPOCHS.assign(learner="f2", loss=[3, 2, 1])])
    loss = figures.training_history(both).axes[1]
    assert [list(line.get_ydata()) for line in loss.lines] == [[2, 1, 0.5], [3, 2, 1]]
    assert [line.get_label() for line in loss.lines] == ["f1", "f2"]


def test_bars_are_as_long_as_the_numbers():
    ax = figures.class_counts(COUNTS).axes[0]
    assert [bar.get_width() for bar in ax.patches] == COUNTS.to_numpy().ravel().tolist()
    assert ax.yaxis_inverted()  # first class on top
    ax = figures.pseudo_label_counts(SHARES).axes[0]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], SHARES.to_numpy().ravel())


def test_colours_are_fixed_and_distinct():
    assert style.METHOD_COLOURS["noisy_label"] == "#D55E00" and style.CLASS_COLOURS["surprise"] == "#E69F00"
    for palette in (style.METHOD_COLOURS, style.CLASS_COLOURS, style.SPLIT_COLOURS, style.PART_COLOURS):
        assert len({to_rgb(value) for value in palette.values()}) == len(palette)
    assert set(style.CLASS_COLOURS) == {*BASIC, "contempt"}
    assert style.colour("happily_surprised", style.CLASS_COLOURS) == "#E69F00"  # the same on every machine
    lines = figures.roc_curve({"msp, aligned": CURVE, "noisy_label, as_released": CURVE}).axes[0].lines
    shown = {line.get_label(): to_hex(line.get_color()).upper() for line in lines}
    assert shown["msp, aligned"] == style.METHOD_COLOURS["msp"]
    assert shown["noisy_label, as_released"] == style.METHOD_COLOURS["noisy_label"]


def test_roc_names_the_positive_class():
    for positive, other in (("open", "known"), ("known", "open")):
        ax = figures.roc_curve({"msp": metrics.roc_curve(SCORES, TRUTH, positive)}, positive).axes[0]
        assert ax.get_ylabel() == f"{positive} images found"
        assert ax.get_xlabel() == f"{other} images taken for {positive}"


def test_nothing_leaks():
    size = matplotlib.rcParams["font.size"]
    figures.pseudo_label_counts(SHARES)
    assert matplotlib.rcParams["font.size"] == size != style.POINTS
    assert Gcf.get_all_fig_managers() == []  # made without pyplot: no figure stays open


def test_saved_whole_and_the_same_each_time(tmp_path):
    loss = EPOCHS[["epoch", "loss"]]
    first = figures.save_figure(figures.training_history(loss), tmp_path / "deep" / "a.b")
    assert [p.rsplit("/", 1)[1] for p in first] == ["a.b.pdf", "a.b.png"]
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["a.b.pdf", "a.b.png"]
    again = figures.save_figure(figures.training_history(loss), tmp_path / "again")
    for one, other in zip(first, again, strict=True):
        assert Path(one).read_bytes() == Path(other).read_bytes()
    with Image.open(first[1]) as image:
        assert round(image.info["dpi"][0]) == 200
