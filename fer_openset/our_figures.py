"""Figures that the paper lacks, ink only: ROC curves with bands, rare open images, the oracle as yardstick, attention
maps under mirroring, and whether the estimated share of open images can be relied on.
"""

import math
import textwrap

import numpy as np
from matplotlib.ticker import NullLocator

from fer_openset.style import (
    BLACK,
    COLUMN,
    GREY,
    KNOWN,
    METHOD_COLOURS,
    OPEN,
    PAGE,
    POINTS,
    colour,
    look,
    new_axes,
    styled,
)

SHARE_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5)


@styled
def roc_bands(curves):
    """ROC curves with bands, open positive. Shapes: curves [(method, label, fpr (g,), tpr, lo, hi)]."""
    figure, [[ax]] = new_axes(PAGE * 0.8, 3.0)
    for method, label, fpr, tpr, lo, hi in curves:
        drawn = look(method)
        ax.fill_between(fpr, lo, hi, color=drawn.colour, alpha=0.25, linewidth=0)
        ax.plot(fpr, tpr, color=drawn.colour, linestyle=drawn.line, marker=drawn.marker, markevery=25, markersize=3.5,
                label=label)  # fmt: skip
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.6, linestyle=":", label="chance")
    ax.set(xlabel="known images taken for open", ylabel="open images found", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.set_aspect("equal")
    figure.legend(loc="outside right upper")
    return figure


@styled
def auroc_panels(summary, methods):
    """AUROC with intervals, a panel an open class, a row a method; hollow and below it: on scrambled labels.

    Shapes: summary, the rows of `report.summarise` for one dataset and preset; methods, the rows from top to bottom.
    """
    classes = list(dict.fromkeys(summary["open_classes"]))
    columns = min(4, len(classes))
    rows = math.ceil(len(classes) / columns)
    height = 0.75 + rows * (0.35 + 0.25 * len(methods))
    figure, axes = new_axes(min(PAGE, 1.8 + 1.5 * columns), height, rows, columns, sharex=True, sharey=True)
    low = min(0.45, summary[["mean", "lo"]].min(axis=None)) - 0.03
    for ax, name in zip(axes.flat, classes, strict=False):
        for row in summary[summary["open_classes"] == name].itertuples():
            scrambled, drawn = row.alignment != "aligned", look(row.method)
            place, fill = methods.index(row.method) + 0.35 * scrambled, "white" if scrambled else drawn.colour
            whiskers = np.clip([[row.mean - row.lo], [row.hi - row.mean]], 0, None)
            ax.errorbar(row.mean, place, xerr=whiskers, fmt=drawn.marker, color=drawn.colour, markerfacecolor=fill,
                        markersize=4, elinewidth=0.8, capsize=2)  # fmt: skip
        ax.axvline(0.5, color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        ax.set_title(textwrap.fill(name.replace("_", " ").replace("+", " + "), 18))
        ax.set(xlim=(low, 1.02), xticks=[x for x in (0.25, 0.5, 0.75, 1.0) if x > low])
        ax.set_yticks(range(len(methods)), methods)
    for ax in axes.flat[len(classes) :]:
        ax.axis("off")
    for column in axes.T:  # where the last row is not full, the panel above has to carry the numbers
        [ax for ax in column if ax.axison][-1].tick_params(labelbottom=True)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    figure.supxlabel("AUROC (dotted: chance)")
    return figure


@styled
def auroc_by_share(table):
    """AUROC against the share of open images in the pool, a line a method, with intervals; x is logarithmic.

    Shapes: table with columns method, share (0..1), mean, lo, hi. Methods are moved apart by 3 % of the share.
    """
    figure, [[ax]] = new_axes(PAGE * 0.8, 2.7)
    ax.set(xlabel="open images in the pool", ylabel="AUROC")
    methods = list(table.groupby("method", sort=False))
    for i, (method, part) in enumerate(methods):
        part, drawn = part.sort_values("share"), look(method)
        whiskers = np.clip([part["mean"] - part["lo"], part["hi"] - part["mean"]], 0, None)
        apart = 1.03 ** (i - (len(methods) - 1) / 2)
        ax.errorbar(part["share"] * apart, part["mean"], whiskers, color=drawn.colour, marker=drawn.marker,
                    markersize=3.5, linestyle=drawn.line, elinewidth=0.8, capsize=2, label=method)  # fmt: skip
    ax.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":", label="chance")
    low, high = table["share"].min() * 0.85, table["share"].max() * 1.18
    ticks = [x for x in SHARE_TICKS if low <= x <= high] or [table["share"].max()]
    ax.set(xscale="log", xlim=(low, high))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(ticks, [f"{x:.3g} %" for x in np.array(ticks) * 100])
    figure.legend(loc="outside right upper")
    return figure


@styled
def oracle_heatmap(auroc, reached):
    """AUROC of each method (rows) and open class (columns); the colour is how much of the oracle's lead is reached.

    Shapes: auroc and reached, two tables of the same rows and columns; reached = (AUROC - 0.5) / (oracle's - 0.5), NaN
    (white) where the oracle did not run.
    """
    rows, columns = auroc.shape
    width = 2.6 + 0.75 * columns
    figure, [[ax]] = new_axes(min(PAGE, width), 1.0 + 0.21 * rows)
    shown = ax.imshow(np.ma.masked_invalid(reached.to_numpy(float)), cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(auroc.to_numpy(float)):
        share = reached.iat[row, column]
        text = "" if np.isnan(value) else f"{value:.3f}"
        ax.text(column, row, text, ha="center", va="center", color="white" if share < 0.5 else "black")
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if width > PAGE else {}  # or names collide
    ax.set_xticks(range(columns), [name.replace("+", "+\n") for name in auroc.columns], **slanted)
    ax.set_yticks(range(rows), list(auroc.index))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("open class")
    bar = figure.colorbar(shown, ax=ax, label="share of the\noracle's lead", pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.tick_params(labelsize=POINTS)
    return figure


@styled
def attention_overlays(images, titles, rows):
    """Faces with the attention map of the class that the network chose; beside each face its mirror image's map.

    Shapes: images (m, C, H, W) uint8, titles m strings, rows [(network, map (m, h, w), mirrored (m, h, w))]: the
    mirror image's map, turned back, so that a consistent network shows the same picture twice.
    """
    m = len(images)
    cell = (PAGE - 0.4) / m  # inches, with the gap beside it
    figure, axes = new_axes(PAGE, 0.3 + 1.02 * cell * (1 + 2 * len(rows)), 1 + 2 * len(rows), m)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    height, width = images.shape[2:]
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        picture = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        axes[0, column].set_title(title)
        axes[0, column].imshow(picture, cmap="gray", vmin=0, vmax=255)
        for i, (_, *maps) in enumerate(rows):
            limit = max(np.abs([m[column] for m in maps]).max(), 1e-9)
            for j, values in enumerate(maps):
                ax = axes[1 + 2 * i + j, column]
                ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
                ax.imshow(values[column], cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=0.55, interpolation="bilinear",
                          extent=(-0.5, width - 0.5, height - 0.5, -0.5))  # fmt: skip
    axes[0, 0].set_ylabel("face")
    for i, (name, *_) in enumerate(rows):
        axes[1 + 2 * i, 0].set_ylabel(f"{name}:\nmap")
        axes[2 + 2 * i, 0].set_ylabel(f"{name}:\nmirrored")
    return figure


@styled
def inconsistency_histograms(panels):
    """How much mirroring changes attention maps, known beside open. Shapes: panels [(network, value (n,), is_open)]."""
    figure, [axes] = new_axes(PAGE * 0.72, 2.1, 1, len(panels))
    for ax, (name, values, is_open) in zip(axes, panels, strict=True):
        edges = np.linspace(0, np.quantile(values, 0.99), 31)
        for side, label, tint in ((~is_open, "known", KNOWN), (is_open, "open", OPEN)):
            ax.hist(values[side], edges, density=True, histtype="step", color=tint, linewidth=1.2, label=label)
        ax.set(xlabel="squared change / squared map", title=name)
        ax.set_yticks([])
    axes[0].set_ylabel("density")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def share_reliability(table):
    """Estimated against true share of open images, a point a run with its 95 % interval; on the line is right.

    Shapes: table with columns method, true_share, estimate, lo, hi.
    """
    figure, [[ax]] = new_axes(COLUMN, 3.0)
    ax.set(xlabel="true share of open images", ylabel="estimated share")
    ax.plot([0, 1], [0, 1], color=BLACK, linewidth=0.6, linestyle=":", label="estimate = truth")
    for method, part in table.groupby("method"):
        whiskers = np.clip([part["estimate"] - part["lo"], part["hi"] - part["estimate"]], 0, None)
        ax.errorbar(part["true_share"], part["estimate"], whiskers, fmt=look(method).marker, markersize=4,
                    color=colour(method, METHOD_COLOURS), elinewidth=0.8, capsize=2, label=method)  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.legend(loc="outside upper left", ncols=2)
    return figure
