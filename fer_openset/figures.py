"""Ink only: arrays or tables in, a Figure out. Nothing is computed here but the bins of a histogram.

Colours, text size and saving are those of `style`.
"""

import itertools
import math
import textwrap

import numpy as np
from matplotlib.ticker import MaxNLocator

from fer_openset.errors import UserError
from fer_openset.style import (
    BLUE,
    GREEN,
    GREY,
    KNOWN,
    METHOD_COLOURS,
    OPEN,
    PART_COLOURS,
    POINTS,
    PURPLE,
    RED,
    SPLIT_COLOURS,
    colour,
    new_axes,
    styled,
)
from fer_openset.style import save_figure as save_figure


@styled
def face_grid(images, titles=None, columns=8):
    """Images side by side, each under its title. Shapes: images (n, 1 or 3, H, W) uint8; titles n strings."""
    images = np.asarray(images)
    if images.ndim != 4 or len(images) == 0 or images.shape[1] not in (1, 3):
        raise UserError(f"images have shape {images.shape}; expected (n, 1 or 3, height, width) with n of 1 or more.")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    titles = [""] * len(images) if titles is None else titles
    texts = [textwrap.fill(str(title).replace("_", " "), 13) for title in titles]
    lines = max(text.count("\n") + 1 if text else 0 for text in texts)
    height = 0.95 * images.shape[2] / images.shape[3] + 0.14 * lines
    figure, axes = new_axes(0.95 * columns, height * rows, rows, columns)
    for ax in axes.flat:
        ax.axis("off")
    for ax, image, text in zip(axes.flat, images, texts, strict=False):
        picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        ax.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(text, pad=2)
    return figure


@styled
def class_counts(counts):
    """Images of each class in each split, as horizontal bars. Shapes: counts, a table of splits by classes."""
    classes, splits = list(counts.columns), list(counts.index)
    figure, [[ax]] = new_axes(5.5, 0.6 + len(classes) * (0.13 * len(splits) + 0.12))
    _bars(ax, counts, SPLIT_COLOURS, horizontal=True)
    ax.set_yticks(range(len(classes)), [name.replace("_", " ") for name in classes])
    ax.invert_yaxis()
    ax.set_xlabel("images")
    ax.margins(x=0.12)
    figure.legend(loc="outside upper right", ncols=len(splits))
    return figure


@styled
def training_history(history):
    """Learning rate, loss and accuracy by epoch, a panel each; a panel whose columns are missing is left out.

    Shapes: history, a row an epoch (and `learner`, if there are several), columns among epoch, lr, loss,
    train_accuracy, valid_accuracy.
    """
    wanted = {"learning rate": ["lr"], "loss": ["loss"], "accuracy": ["train_accuracy", "valid_accuracy"]}
    panels = {title: [c for c in names if c in history and history[c].notna().any()] for title, names in wanted.items()}
    panels = {title: names for title, names in panels.items() if names}
    if "epoch" not in history or not panels:
        raise UserError("the history has no epoch with lr, loss or accuracy to draw; expected at least one of them.")
    figure, [axes] = new_axes(2.3 * len(panels), 2.1, 1, len(panels))
    learners = list(history.groupby("learner", sort=False)) if "learner" in history else [("", history)]
    for ax, (title, names) in zip(axes, panels.items(), strict=True):
        for (learner, part), tint in zip(learners, itertools.cycle((BLUE, RED, GREEN, PURPLE)), strict=False):
            for name, line in zip(names, ("-", "--"), strict=False):
                words = [learner if len(learners) > 1 else "", name.split("_")[0] if title == "accuracy" else ""]
                label = " ".join(word for word in words if word) or None
                ax.plot(part["epoch"], part[name], line, color=tint, marker="o", markersize=2.5, label=label)
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
        if ax.get_legend_handles_labels()[0]:
            ax.legend()
    return figure


@styled
def pseudo_label_counts(shares):
    """What f_close takes each part of the pool for. Shapes: shares, parts by known classes, rows sum to 1."""
    figure, [[ax]] = new_axes(max(4.0, 0.9 * shares.shape[1]), 2.4)
    _bars(ax, shares, PART_COLOURS)
    ax.set_xticks(range(shares.shape[1]), [_broken(name) for name in shares.columns])
    ax.set(xlabel="pseudo label", ylabel="share of the part's images")
    figure.legend(loc="outside upper center", ncols=len(shares))
    return figure


@styled
def score_histogram(scores, is_open, method, auroc):
    """Distribution of open scores, known beside open images, each of area 1. Shapes: scores (N,), is_open (N,) bool."""
    scores, is_open = np.asarray(scores, float), np.asarray(is_open, bool)
    figure, [[ax]] = new_axes(3.6, 2.3)
    edges = np.histogram_bin_edges(scores, bins=40)
    for side, name, tint, line in ((~is_open, "known", KNOWN, "-"), (is_open, "open", OPEN, "--")):
        label = f"{name} (n = {int(side.sum()):,})"
        ax.hist(scores[side], edges, density=True, histtype="stepfilled", color=tint, alpha=0.3)
        ax.hist(scores[side], edges, density=True, histtype="step", color=tint, linestyle=line, label=label)
    ax.set(xlabel="open score (larger = more open)", ylabel="density", title=f"{method}: AUROC {auroc:.3f}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def roc_curve(curves, positive="open"):
    """ROC curves on one square, in the order given. Shapes: curves {label: (fpr, tpr)}, a label begins with its method.

    `positive` is the class taken as positive when the curves were computed: "open" or "known".
    """
    figure, [[ax]] = new_axes(4.6, 3.0)
    for (label, (fpr, tpr)), line in zip(curves.items(), itertools.cycle(("-", "--", "-.", ":")), strict=False):
        ax.plot(fpr, tpr, line, color=colour(label.split(" ")[0].rstrip(",:"), METHOD_COLOURS), label=label)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle=":", label="chance")
    other = {"open": "known", "known": "open"}[positive]
    ax.set(xlabel=f"{other} images taken for {positive}", ylabel=f"{positive} images found", aspect="equal")
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=f"positive = {positive}")
    figure.legend(loc="outside right upper")
    return figure


def _bars(ax, table, palette, horizontal=False):
    """Grouped bars: a group for each column, a bar for each row; lengths are written at the ends of horizontal bars."""
    width = 0.8 / len(table)
    for i, (name, values) in enumerate(table.iterrows()):
        place = np.arange(table.shape[1]) + (i - (len(table) - 1) / 2) * width
        draw = ax.barh if horizontal else ax.bar
        drawn = draw(place, values.to_numpy(), width * 0.92, color=colour(name, palette), label=str(name))
        if horizontal:
            ax.bar_label(drawn, [f"{value:,.0f}" for value in values], padding=2, fontsize=POINTS)


def _broken(name):
    """A class name, or several joined by `+`, on short lines."""
    return "\n".join(textwrap.fill(part, 14) for part in name.replace("_", " ").replace("+", "+\n").split("\n"))
