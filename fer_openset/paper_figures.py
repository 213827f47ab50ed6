"""Figures 1 to 7 of the paper, ink only: arrays or tables in, a Figure out; nothing is computed but bins of histograms.

A panel without data says so in its place instead of vanishing.
"""

import math
import textwrap

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

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
    "f1": (5.15, 2.3, 1.9, "network $f_1$: cross-entropy\n+ λ · map consistency"),
    "f2": (5.15, 0.75, 1.9, "network $f_2$: cross-entropy\n+ λ · map consistency"),
    "score": (7.58, 1.55, 1.5, "open score: cross-\nentropy left on ŷ"),
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
    swap = FancyArrowPatch((5.15, 2.3), (5.15, 0.75), patchA=boxes["f1"], patchB=boxes["f2"], arrowstyle="<|-|>",
                           mutation_scale=8, linewidth=0.9, shrinkA=1, shrinkB=1, linestyle="--",
                           color=GREY)  # fmt: skip
    ax.add_patch(swap)
    ax.text(5.22, 1.52, "each picks the clean\nimages of the other", va="center")
    frame = FancyBboxPatch((4.1, 0.42), 2.54, 3.1, boxstyle="round,pad=0.03", facecolor="none", edgecolor=GREY,
                           linewidth=0.8, linestyle=":")  # fmt: skip
    ax.add_patch(frame)  # what stands at its top holds for both networks
    ax.text(5.37, 3.1, "both: learning rate returns to\nits start each cycle; each image\nbeside its mirror image",
            ha="center", va="center")  # fmt: skip
    return figure


@styled
def confidence_histograms(items):
    """Fig. 4: the open score, known (filled blue) beside open (red line), a panel a method.

    Shapes: items [(title, scores (M,), is_open (M,) bool, whether its axis is logarithmic)].
    """
    columns = min(4, len(items))
    rows = math.ceil(len(items) / columns)
    figure, axes = new_axes(PAGE, 0.55 + 1.25 * rows, rows, columns)
    for ax, (title, scores, is_open, log) in zip(axes.flat, items, strict=False):
        _two_histograms(ax, scores, is_open, log)
        ax.set_title(title)
    for ax in axes.flat[len(items) :]:
        ax.axis("off")
    figure.supxlabel("open score (each method's own unit; larger = more open)")
    figure.supylabel("share in a bin")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _two_histograms(ax, scores, is_open, log):
    """40 bins over 99 % of the scores, equal in width on the axis drawn; each side's shares sum to 1."""
    low, high = np.quantile(scores, [0.005, 0.995])
    edges = (np.geomspace if log else np.linspace)(low, high if high > low else low + 1, 41)
    known, open_ = scores[~is_open], scores[is_open]
    drawn = {"bins": edges, "weights": np.full(len(known), 1 / max(1, len(known)))}
    ax.hist(known, color=KNOWN, alpha=0.4, label="known", **drawn)
    drawn["weights"] = np.full(len(open_), 1 / max(1, len(open_)))
    ax.hist(open_, histtype="step", color=OPEN, linewidth=1.2, label="open", **drawn)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=2))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(numticks=4))
        ax.xaxis.set_minor_locator(NullLocator())
    else:  # two numbers of many digits fill a panel
        long = high - low < 0.01 * max(1, abs(low), abs(high))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=2 if long else 3))


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
            drawn = {"color": look("noisy_label").colour, "linestyle": line, "marker": marker, "markersize": 3}
            if part["lo"].isna().all():  # an error bar without length would still stand in the legend
                ax.plot(part["x"], part["mean"], label=name, **drawn)
                continue
            whiskers = np.clip([part["mean"] - part["lo"], part["hi"] - part["mean"]], 0, None)
            ax.errorbar(part["x"], part["mean"], whiskers, elinewidth=0.8, capsize=2, label=name, **drawn)
        if published is not None:
            ax.axhline(published, color=BLACK, linewidth=0.8, linestyle="-.", label="published, default")
        low, high = ax.get_ylim()
        if low <= 0.5 <= high:
            ax.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":", label="chance")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        ax.legend()
    return figure


@styled
def comparison_group(table, labels, one_label, histograms):
    """Fig. 6: what is left of the method when all open images get one pseudo label; black marks: published.

    Shapes: table with columns name, method, mean, lo, hi (NaN: not run), published (NaN: none); labels, the table of
    `paper_data.label_shares`, or None; one_label, the label of the comparison group; histograms [(title, scores (M,),
    is_open (M,) bool, whether its axis is logarithmic)], two or none.
    """
    height = 1.1 + 0.4 * max(len(table), 4)
    figure, axes = new_axes(PAGE, height + 1.7 * bool(histograms), 1 + bool(histograms), 2)
    _auroc_bars(axes[0, 0], table)
    if labels is None:
        axes[0, 1].axis("off")
    else:
        _label_bars(axes[0, 1], labels, one_label)
    for ax, (title, *drawn) in zip(axes[1:].flat, histograms, strict=False):
        _two_histograms(ax, *drawn)
        ax.set(title=title, xlabel="open score (larger = more open)", ylabel="share of its images")
        ax.legend()
    return figure


def _auroc_bars(ax, table):
    place = np.arange(len(table))
    ax.barh(place, table["mean"], 0.6, color=[look(m).colour for m in table["method"]])
    whiskers = np.clip([table["mean"] - table["lo"], table["hi"] - table["mean"]], 0, None)
    ax.errorbar(table["mean"], place, xerr=whiskers, fmt="none", ecolor=BLACK, elinewidth=0.8, capsize=2)
    for y in place[table["mean"].isna()]:
        ax.text(0.02, y, "no run yet", va="center")
    if table["published"].notna().any():
        ax.vlines(table["published"], place - 0.38, place + 0.38, color=BLACK, linewidth=1.8)
        mark = Line2D([], [], color=BLACK, linewidth=1.8)
        ax.legend([mark], ["published (RAF-DB)"], loc="lower right", bbox_to_anchor=(1.0, 1.0))
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
    ax.set_yticks(place, [_words(name, 20) for name in table["name"]])
    ax.invert_yaxis()
    ax.set(xlabel="AUROC (0.5: chance)", xlim=(0, 1))


def _label_bars(ax, labels, one_label):
    place = np.arange(len(labels))
    ax.barh(place - 0.2, labels["share"], 0.38, color=look("noisy_label").colour, label="as it is")
    alone = (labels["label"] == one_label).to_numpy(float)
    ax.barh(place + 0.2, alone, 0.38, color=GREY, hatch="////", edgecolor="white", label="comparison group")
    ax.set_yticks(place, labels["label"])
    ax.invert_yaxis()
    ax.set(xlabel="share of open images", ylabel="pseudo label", xlim=(0, 1.03))
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
