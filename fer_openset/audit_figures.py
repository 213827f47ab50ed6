"""Ink of the audit, the sweeps and the online demonstration: tables in, a Figure out."""

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from fer_openset.errors import UserError
from fer_openset.style import BLACK, BLUE, GREY, PAGE, RED, look, new_axes, styled


@styled
def baselines_by_epoch(table):
    """AUROC of the baselines while f_close learns, one panel an alignment, and its accuracy on what it trains on.

    Shapes: rows of `audit_epochs` for one dataset, preset, open class and length; seeds are averaged.
    """
    _need(table)
    figure, [axes] = new_axes(PAGE, 2.5, 1, 2, sharey=True)
    for ax, alignment in zip(axes, ("aligned", "as_released"), strict=True):
        part = table[table["alignment"] == alignment]
        for method, rows in part.groupby("method", sort=False):
            mean = rows.groupby("epoch")["auroc"].mean()
            style = look(method)
            ax.plot(mean.index, mean, style.line, color=style.colour, marker=style.marker, markersize=3, label=method)
        accuracy = part.groupby("epoch")["train_accuracy"].mean()
        ax.plot(accuracy.index, accuracy, ":", color=BLACK, label="accuracy on training images")
        ax.axhline(0.5, color=GREY, linewidth=0.6)
        ax.set(title=alignment, xlabel="epoch of f_close", ylim=(0.3, 1.01))
        ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes[0].set_ylabel("AUROC (0.5: chance)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


@styled
def sweep_lines(sweep):
    """Fig. 5 in one: AUROC by epoch, a line for each consistency weight. Shapes: weights (rows) by epochs (columns)."""
    _need(sweep)
    figure, [[ax]] = new_axes(PAGE * 0.7, 2.6)
    tints = matplotlib.colormaps["cividis"](np.linspace(0, 0.95, len(sweep)))
    for (weight, values), tint in zip(sweep.iterrows(), tints, strict=True):
        ax.plot(values.index.astype(int), values, color=tint, label=f"{weight:g}")
    ax.axhline(0.5, color=GREY, linewidth=0.6, linestyle=":")
    ax.set(xlabel="epoch", ylabel="AUROC (0.5: chance)")
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    figure.legend(title="weight λ", loc="outside right upper")
    return figure


@styled
def stream_panels(scores, is_open, running):
    """A stream of images: each score as it came, and beside it the AUROC and the open share so far.

    Shapes: scores (n,), is_open (n,) bool, running as `online.running` gives it.
    """
    is_open = np.asarray(is_open, bool)
    figure, [[left, right]] = new_axes(PAGE, 2.4, 1, 2)
    place = np.arange(1, len(scores) + 1)
    for side, name, tint, marker in ((~is_open, "known", BLUE, "o"), (is_open, "open", RED, "^")):
        left.plot(place[side], np.asarray(scores)[side], marker, color=tint, markersize=2.5, label=name)
    left.set(xlabel="image", ylabel="open score")
    left.legend()
    right.plot(running["seen"], running["auroc"], color=BLACK, label="AUROC so far")
    right.plot(running["seen"], running["estimate"], "--", color=RED, label="estimated open share")
    right.plot(running["seen"], running["true_share"], ":", color=GREY, label="true open share")
    right.set(xlabel="images seen", ylim=(0, 1.02))
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3)
    return figure


def _need(table):
    if table.empty:
        raise UserError("the table holds no run to draw; run the batch first.")
