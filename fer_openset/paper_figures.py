"""Figures 1 to 7 of the paper, ink only: arrays or tables in, a Figure out; nothing is computed but bins of histograms.

A panel without data says so in its place instead of vanishing.
"""

import math
import textwrap

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from fer_openset.style import (
    BLACK,
    CLASS_MARKERS,
    COLUMN,
    GREY,
    KNOWN,
    OPEN,
    PAGE,
    class_colours,
    look,
    new_axes,
    styled,
)


def _words(name, width=16):
    return textwrap.fill(str(name).replace("_", " ").replace("+", " + "), width)


@styled
def embedding_classes(panels):
    """Fig. 1: a t-SNE panel for each dataset, a colour and marker a class, the class distance ratio above it.

    Shapes: panels [(title, place (n, 2), label (n,), ratio, pixel_ratio)].
    """
    figure, [axes] = new_axes(PAGE, 3.7, 1, len(panels))
    for ax, (title, place, label, ratio, pixel_ratio) in zip(axes, panels, strict=True):
        for (name, tint), marker in zip(class_colours(sorted(set(label))).items(), CLASS_MARKERS, strict=False):
            ax.scatter(*place[label == name].T, s=6, color=tint, marker=marker, linewidths=0, alpha=0.8, label=name)
        ax.set_title(f"{title}\ninter/intra-class distance {ratio:.2f} (pixels {pixel_ratio:.2f})")
        _bare(ax)
        ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.02), handletextpad=0.1, columnspacing=0.8,
                  markerscale=1.8, borderaxespad=0.2)  # fmt: skip
    return figure


@styled
def embedding_open(panels):
    """Fig. 7: the same images in the features of several networks, open in red crosses over known in blue dots.

    Shapes: panels [(network, place (n, 2), is_open (n,) bool, note)].
    """
    figure, [axes] = new_axes(PAGE if len(panels) > 1 else COLUMN, 2.8, 1, len(panels))
    for ax, (title, place, is_open, note) in zip(axes, panels, strict=True):
        ax.scatter(*place[~is_open].T, s=4, color=KNOWN, linewidths=0, alpha=0.5, label="known")
        ax.scatter(*place[is_open].T, s=9, color=OPEN, marker="x", linewidths=0.7, label="open")
        ax.set_title(f"{title}\n{note}")
        _bare(ax)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=1.8)
    return figure


def _bare(ax):
    ax.set(xticks=[], yticks=[], ylabel="t-SNE plane (no unit)")


@styled
def pseudo_label_shares(panels):
    """Fig. 2: what a model that never saw the open class takes it for; shares with 95 % intervals, largest first.

    Shapes: panels [(title, table with columns label, share, lo, hi)].
    """
    figure, [axes] = new_axes(PAGE, 2.5, 1, len(panels))
    for ax, (title, table) in zip(axes, panels, strict=True):
        ax.set_title(title)
        ax.set(xlabel="share of open images", ylabel="pseudo label")
        place = np.arange(len(table))
        ax.barh(place, table["share"], 0.7, color=OPEN, alpha=0.85)
        whiskers = np.clip([table["share"] - table["lo"], table["hi"] - table["share"]], 0, None)
        ax.errorbar(table["share"], place, xerr=whiskers, fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2)
        ax.set_yticks(place, table["label"])
        ax.invert_yaxis()
    top = max([0.1, *(table["hi"].max() for _, table in panels)])
    for ax in axes:
        ax.set_xlim(0, 1.03 * top)
    return figure


# The boxes of Fig. 3: name -> (centre x, centre y, width, text), and the arrows between them.
_BOXES = {
    "train": (0.9, 3.1, 1.5, "known training\nimages, labels"),
    "pool": (0.9, 1.0, 1.5, "pool: known and\nopen, unlabelled"),
    "close": (2.9, 3.1, 1.5, "$f_{close}$: closed-set\nmodel, K classes"),
    "pseudo": (2.9, 1.75, 1.5, "pseudo labels ŷ of\nthe pool (argmax)"),
    "f1": (5.15, 2.35, 1.9, "network $f_1$: cross-entropy\n+ λ · map consistency"),
    "f2": (5.15, 0.75, 1.9, "network $f_2$: cross-entropy\n+ λ · map consistency"),
    "score": (7.5, 1.55, 1.5, "open score: cross-\nentropy left on ŷ"),
}
_ARROWS = ("train close", "close pseudo", "pool pseudo", "pseudo f1", "pseudo f2", "f1 score", "f2 score")


@styled
def pipeline_diagram():
    """Fig. 3: from training images and pool to the open score, as this workbook computes it."""
    figure, [[ax]] = new_axes(PAGE, 2.9)
    ax.set(xlim=(0, 8.4), ylim=(0.35, 3.65))
    ax.axis("off")
    boxes = {}
    for name, (x, y, width, text) in _BOXES.items():
        tint = {"train": KNOWN, "pool": GREY, "score": OPEN}.get(name, BLACK)
        shape = FancyBboxPatch((x - width / 2, y - 0.28), width, 0.56, boxstyle="round,pad=0.03", facecolor="white",
                               edgecolor=tint, linewidth=1.0)  # fmt: skip
        boxes[name] = ax.add_patch(shape)
        ax.text(x, y, text, ha="center", va="center")
    for start, end in map(str.split, _ARROWS):
        ends = _BOXES[start][:2], _BOXES[end][:2]
        ax.add_patch(FancyArrowPatch(*ends, patchA=boxes[start], patchB=boxes[end], arrowstyle="-|>",
                                     mutation_scale=8, linewidth=0.9, shrinkA=1, shrinkB=1, color=BLACK))  # fmt: skip
    swap = FancyArrowPatch((5.15, 2.35), (5.15, 0.75), patchA=boxes["f1"], patchB=boxes["f2"], arrowstyle="<|-|>",
                           mutation_scale=8, linewidth=0.9, shrinkA=1, shrinkB=1, linestyle="--",
                           color=GREY)  # fmt: skip
    ax.add_patch(swap)
    ax.text(5.22, 1.55, "each picks the clean\nimages of the other", va="center")
    ax.text(6.0, 3.2, "learning rate returns to its start each cycle;\neach image beside its mirror image", ha="center")
    return figure


@styled
def confidence_histograms(items):
    """Fig. 4: densities of the open score, known (filled blue) beside open (red line), a panel a method.

    Shapes: items [(title, scores (M,), is_open (M,) bool)]; 99 % of the scores are in view.
    """
    columns = min(4, len(items))
    rows = math.ceil(len(items) / columns)
    figure, axes = new_axes(PAGE, 0.55 + 1.25 * rows, rows, columns)
    for ax, (title, scores, is_open) in zip(axes.flat, items, strict=False):
        low, high = np.quantile(scores, [0.005, 0.995])
        edges = np.linspace(low, high if high > low else low + 1, 41)
        ax.hist(scores[~is_open], edges, density=True, color=KNOWN, alpha=0.4, label="known")
        ax.hist(scores[is_open], edges, density=True, histtype="step", color=OPEN, linewidth=1.2, label="open")
        ax.set_title(title)
        ax.set_yticks([])
        ax.xaxis.set_major_locator(MaxNLocator(nbins=3))
    for ax in axes.flat[len(items) :]:
        ax.axis("off")
    figure.supxlabel("open score (each method's own unit; larger = more open)")
    figure.supylabel("density")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


@styled
def sweep_panels(panels):
    """Fig. 5: AUROC against one setting, a line a network, with intervals; the paper's value as a dotted line.

    Shapes: panels [(x label, table with columns group, x, mean, lo, hi; published float or None)].
    """
    figure, [axes] = new_axes(PAGE, 2.4, 1, len(panels))
    for ax, (label, table, published) in zip(axes, panels, strict=True):
        ax.set(xlabel=label, ylabel="AUROC")
        for (name, part), line, marker in zip(table.groupby("group"), ("-", "--", ":"), "os^", strict=False):
            part = part.sort_values("x")
            whiskers = np.clip([part["mean"] - part["lo"], part["hi"] - part["mean"]], 0, None)
            tint = look("noisy_label").colour
            ax.errorbar(part["x"], part["mean"], whiskers, color=tint, linestyle=line, marker=marker, markersize=3,
                        elinewidth=0.8, capsize=2, label=name)  # fmt: skip
        if published is not None:
            ax.axhline(published, color=BLACK, linewidth=0.8, linestyle=":", label="published, default")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.legend()
    return figure


@styled
def comparison_group(table):
    """Fig. 6: what is left of the method when all open images get one pseudo label; black marks: published.

    Shapes: table with columns name, method, mean, lo, hi, published (NaN where there is none).
    """
    figure, [[ax]] = new_axes(COLUMN, 0.75 + 0.36 * len(table))
    place = np.arange(len(table))
    ax.barh(place, table["mean"], 0.6, color=[look(m).colour for m in table["method"]])
    whiskers = np.clip([table["mean"] - table["lo"], table["hi"] - table["mean"]], 0, None)
    ax.errorbar(table["mean"], place, xerr=whiskers, fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2)
    ax.vlines(table["published"], place - 0.38, place + 0.38, color=BLACK, linewidth=1.8)
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    ax.set_yticks(place, [_words(name, 20) for name in table["name"]])
    ax.invert_yaxis()
    ax.set(xlabel="AUROC (0.5: chance)", xlim=(0, 1))
    figure.legend([Line2D([], [], color=BLACK, linewidth=1.8)], ["published"], loc="outside upper right")
    return figure
