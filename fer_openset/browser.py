"""Browse the runs in JupyterLab: pick dataset, preset, open class and method; see curve, histogram and row.

Runs are those at hand (results/runs) and those of which a clone holds the committed table and scores (results/arrays).
Where nobody can click (a batch, a test, a page made from the notebook) the same call gives the committed tables.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from fer_openset import figures, metrics, report
from fer_openset.arrays import arrays_path, read_arrays
from fer_openset.errors import UserError
from fer_openset.progress import somebody_is_there
from fer_openset.runs import RunFolder
from fer_openset.settings import results_dir

LEVELS = ("dataset", "preset", "open class", "method")


@dataclass(frozen=True)
class Choice:
    """One finished run of a method: its four names, its folder (None: only committed), its row of the table of runs."""

    dataset: str
    preset: str
    open_classes: str
    method: str
    folder: Path | None
    row: dict

    @property
    def names(self):
        return self.dataset, self.preset, self.open_classes, self.method


def choices(runs_dir=None):
    """The finished runs at hand, smoke runs too, and the committed ones, sorted by name; what is no whole run is left
    out. A run at hand stands for the committed one of the same key."""
    runs_dir = Path(runs_dir or results_dir() / "runs")
    found = {}
    for path in sorted(runs_dir.glob("*/*/*/*/methods/*/*/*/run.json")):
        try:
            choice = _choice(json.loads(path.read_text(encoding="utf-8"))["row"], path.parent)
            found[choice.names] = choice
        except (ValueError, KeyError, TypeError):
            continue  # half written or of an older form: nothing to show
    for row in _committed():
        choice = _choice(row, None)
        found.setdefault(choice.names, choice)
    return sorted(found.values(), key=lambda choice: choice.names)


def _choice(row, folder):
    special = [row["alignment"].replace("_", " ") if row["alignment"] != "aligned" else "",
               row["variant"] if row["variant"] != "default" else "", f"seed {row['seed']}"]  # fmt: skip
    method = ", ".join([row["method"], *filter(None, special)])
    return Choice(row["dataset"], row["preset"], row["open_classes"], method, folder, row)


def _committed():
    """Rows of the committed table of runs whose scores are committed too."""
    rows = report.read_runs()
    rows = rows[rows["variant"] == "default"]
    for key, group in rows.groupby(["dataset", "preset", "open_classes", "seed"]):
        arrays = _scores(RunFolder(*key))
        names = set() if arrays is None else set(arrays["run"].tolist())
        yield from (row for row in group.to_dict("records") if f"{row['method']}/{row['alignment']}" in names)


def _scores(where):
    """The committed scores of a folder of runs, None where there are none or the file is damaged."""
    try:
        return read_arrays("scores", where)
    except UserError:
        return None


def outcome(choice):
    """Open scores of a run and the truth, by sample id. Returns: DataFrame, columns open_score, is_open.

    Raises: UserError when the scores or the list of the pool are not there any more.
    """
    if choice.folder is None:
        return _committed_outcome(choice)
    pool = choice.folder.parents[3] / "pseudo_labels" / "pseudo_labels.csv"
    try:
        scores = pd.read_csv(choice.folder / "scores.csv", dtype={"sample_id": str}).set_index("sample_id")
        parts = pd.read_csv(pool, dtype={"sample_id": str}).set_index("sample_id")["part"].loc[scores.index]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{choice.folder}: scores or pool are not readable ({error}); run it again.") from None
    return scores.assign(is_open=parts.str.startswith("open"))


def _committed_outcome(choice):
    row = choice.row
    where = RunFolder(choice.dataset, choice.preset, choice.open_classes, row["seed"])
    arrays = _scores(where)
    names = [] if arrays is None else arrays["run"].tolist()
    name = f"{row['method']}/{row['alignment']}"
    if name not in names:
        raise UserError(f"{arrays_path('scores', where)}: no scores of {name}; restore the file from the repository.")
    index = pd.Index(arrays["sample_id"], name="sample_id")
    values = {"open_score": arrays["score"][names.index(name)].astype(float), "is_open": arrays["is_open"]}
    return pd.DataFrame(values, index=index)


def pictures(choice):
    """ROC curve and score histogram of a run, two figures."""
    found = outcome(choice)
    scores, is_open = found["open_score"].to_numpy(), found["is_open"].to_numpy()
    curve = figures.roc_curve({choice.row["method"]: metrics.roc_curve(scores, is_open)})
    return curve, figures.score_histogram(scores, is_open, choice.row["method"], choice.row["auroc"])


def row_html(choice):
    """The run's row of the table as HTML."""
    columns = dict.fromkeys((*report.KEY, "n_known", "n_open", "auroc", "auroc_lo", "auroc_hi", *report.METRICS))
    shown = {name: choice.row[name] for name in columns if name in choice.row}
    return report.as_html(pd.DataFrame([shown]))


def static_table(table=None):
    """The committed table of runs as HTML: AUROC by method and open class, for each dataset and preset by itself."""
    table = report.read_runs() if table is None else table
    if table.empty:
        return HTML(report.as_html(table))
    parts = []
    for (dataset, preset), rows in table.groupby(["dataset", "preset"]):
        parts.append(f"<h4>{dataset}, preset {preset}: AUROC</h4>")
        parts.append(report.as_html(report.summary_table(rows, dataset, preset), best="max"))
    return HTML("\n".join(parts))


def browse(interactive=None):
    """The results browser: ends a cell. interactive: None finds out whether somebody is there to click.

    Returns: a widget, or the committed tables where nobody is there or no run is at hand.
    """
    found = choices()
    interactive = somebody_is_there() if interactive is None else interactive
    return _Browser(found).box if interactive and found else static_table()


class _Browser:
    """Four menus, each narrowing the next, over the pictures of the run they name."""

    def __init__(self, found):
        import ipywidgets as widgets

        self.found = found
        self.menus = [widgets.Dropdown(description=level) for level in LEVELS]
        self.row = widgets.HTML()
        self.images = [widgets.Image(format="png", layout={"object_fit": "contain"}) for _ in range(2)]
        self.filling = False
        for depth, menu in enumerate(self.menus):
            menu.observe(lambda change, depth=depth: self._chosen(depth + 1), names="value")
        menus, images = (widgets.HBox(row, layout={"flex_flow": "row wrap"}) for row in (self.menus, self.images))
        self.box = widgets.VBox([menus, self.row, images])
        self._chosen(0)

    def _chosen(self, first):
        """Menus before `first` stand; fill the others, keeping what they said where it is still there, and show."""
        if self.filling:
            return
        self.filling = True
        for depth, menu in enumerate(self.menus[first:], first):
            before, was = tuple(menu.value for menu in self.menus[:depth]), menu.value
            menu.options = list(dict.fromkeys(c.names[depth] for c in self.found if c.names[:depth] == before))
            menu.value = was if was in menu.options else menu.options[0]
        self.filling = False
        self._show()

    def _show(self):
        names = tuple(menu.value for menu in self.menus)
        choice = next(c for c in self.found if c.names == names)
        try:
            drawn = [figure._repr_png_() for figure in pictures(choice)]
            self.row.value = row_html(choice)
        except UserError as error:
            drawn, self.row.value = [b"", b""], str(error)
        for image, png in zip(self.images, drawn, strict=True):
            image.value = png
