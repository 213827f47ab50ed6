"""One look for every figure: text size, colours, markers and lines, and how a figure is saved.

Colours are those of Okabe and Ito (2008), told apart in every common form of colour blindness, and fixed for each
method and class through the whole workbook. There are more methods than such colours: a family of methods shares a hue
and a line, its members differ in lightness and marker.
"""

import functools
import io
import zlib
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from fer_openset.atomic import atomic_path

POINTS = 8  # size of all text
COLUMN, PAGE = 3.4, 7.0  # inches: one column and the whole width of a two-column page
STYLE = {
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize", "figure.titlesize"), POINTS),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "figure.labelsize"), POINTS),
    **{"font.family": "DejaVu Sans", "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6},
    **{"axes.axisbelow": True, "legend.frameon": False, "lines.linewidth": 1.3, "hatch.linewidth": 0.5},
    **{"pdf.fonttype": 42},  # text stays text
}
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE, GREY = (
    *("#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
    "#666666",  # darker than the usual grey, which red-green blind eyes take for the purple
)
KNOWN, OPEN = BLUE, RED

# family -> (line, {method: colour}); the order within a family gives the markers.
FAMILIES = {
    "logits": ("-", {
        "msp": GREY, "maxlogit": SKY, "energy": BLUE, "entropy": "#A6C8DD", "gen": "#08519C", "odin": "#4A90C2",
        "openmax": "#08306B", "klmatching": "#7FA6BC",
    }),
    "features": ("--", {
        "mahalanobis": "#54278F", "rmd": "#8A7FC0", "knn": "#6A51A3", "vim": "#A79BD0", "nnguide": "#3F007D",
        "she": "#C4BCE0", "fdbd": "#7D62B5",
    }),
    "activations": (":", {"dice": "#6B4A1E", "react": "#9C7A3C", "ash": "#C7A76C", "scale": "#47300F"}),
    "trained": ("-", {"eow": ORANGE, "proser": PURPLE, "dias": YELLOW}),
    "label noise": ("-.", {
        "pseudo_label_ce": "#7A3E5F", "self_confidence": "#A8647F", "disagreement": "#4E2440",
        "loss_average": "#C79AAE",
    }),
    "the paper's": ("-", {"noisy_label": RED, "noisy_label_online": "#8C3D00"}),
    "ours": ("-", {"pool_novelty": GREEN, "pool_novelty_online": "#005C43"}),
    "upper bound": ("--", {"oracle": BLACK}),
}  # fmt: skip
MARKERS = "os^Dv<>P"
METHOD_COLOURS = {method: tint for _, members in FAMILIES.values() for method, tint in members.items()}
CLASS_COLOURS = {
    **{"surprise": ORANGE, "fear": PURPLE, "disgust": GREEN, "happiness": YELLOW, "sadness": BLUE, "anger": RED},
    **{"neutral": GREY, "contempt": SKY},
}
# For classes that are no expressions: eight of Okabe and Ito, then two that differ from them in lightness.
CLASS_MARKERS = "os^Dv<>PX*"
SPLIT_COLOURS = {"train": BLUE, "valid": SKY, "test": ORANGE}
PART_COLOURS = {"closed test": KNOWN, "open test": OPEN, "open train": ORANGE}


@dataclass(frozen=True)
class Look:
    """How one method is drawn: colour, marker and line."""

    colour: str
    marker: str
    line: str


def look(method):
    """The look fixed for a method; one that the table lacks gets the same spare look on every machine."""
    for line, members in FAMILIES.values():
        if method in members:
            return Look(members[method], MARKERS[list(members).index(method)], line)
    return Look(colour(method, METHOD_COLOURS), "X", (0, (4, 1, 1, 1, 1, 1)))


def colour(name, palette):
    """The colour fixed for `name`; one that the palette lacks gets the same spare colour on every machine."""
    spare = (SKY, PURPLE, GREEN, ORANGE, BLUE, YELLOW)
    return palette.get(name) or spare[zlib.crc32(str(name).encode()) % len(spare)]


def class_colours(names):
    """Colours of these classes: the fixed ones of the expressions, else one after the other (at most ten)."""
    if all(name in CLASS_COLOURS for name in names):
        return {name: CLASS_COLOURS[name] for name in names}
    row = (ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PURPLE, BLACK, GREY, "#5A3A1E")
    return {name: row[i % len(row)] for i, name in enumerate(names)}


class InkFigure(Figure):
    """A figure made without pyplot, so that none stays open; a notebook shows the one that ends a cell."""

    def _repr_png_(self):  # without pyplot nothing else tells a notebook how to show it
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def styled(draw):
    """Let a drawing function run under STYLE and leave matplotlib's own settings as they were."""

    @functools.wraps(draw)
    def inside(*arguments, **options):
        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return inside


def new_axes(width, height, rows=1, columns=1, **grid):
    """A figure of width x height inches and its (rows, columns) array of axes."""
    figure = InkFigure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **grid)
    for ax in axes.flat:
        ax.tick_params(labelsize=POINTS, width=0.6)  # ticks made later, outside STYLE, must look the same
    return figure, axes


def save_figure(figure, path):
    """Write the figure as PATH.pdf and PATH.png (200 dpi), each whole or not at all; returns the two paths."""
    saved = []
    for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {"Software": None})):  # same ink, same bytes
        with matplotlib.rc_context(STYLE), atomic_path(f"{path}.{suffix}") as target:
            figure.savefig(target, dpi=200, metadata=metadata)
        saved.append(f"{path}.{suffix}")
    return tuple(saved)
