"""A figure with its caption: what it shows, what agrees with the paper and what does not, and the runs behind it."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from fer_openset import style
from fer_openset.atomic import write_csv
from fer_openset.settings import ROOT, results_dir

NAMES = {"ferplus": "FERPlus", "rafdb": "RAF-DB", "synthetic": "synthetic faces", "affectnet": "AffectNet",
         "synthetic_compound": "synthetic faces"}  # fmt: skip
# runs: folders under results/runs, DATASET/PRESET/OPEN/seedN, with a space between two; open_classes: theirs, likewise.
INDEX_COLUMNS = ("figure", "dataset", "preset", "open_classes", "runs", "commits", "caption")


@dataclass(frozen=True)
class Plate:
    """One figure: file name without suffix, the figure, its caption, and where its numbers come from (a dict).

    figure: None where it has no numbers yet, see `missing`: nothing is drawn then, rather than an empty panel.
    """

    name: str
    figure: Figure | None
    caption: str
    about: dict

    def save(self):
        """Write results/figures/NAME.{pdf,png} and this figure's row of results/figures/index.csv. Returns: self.

        A figure without numbers writes nothing, and what an earlier save of the same runs left goes: a picture that no
        run stands behind any more would be taken for a result.
        """
        folder, index = results_dir() / "figures", read_index()
        mine, others = index[index["figure"] == self.name], index[index["figure"] != self.name]
        if self.figure is None:
            if all(self._was(row) for row in mine.to_dict("records")):
                for suffix in ("pdf", "png"):
                    (folder / f"{self.name}.{suffix}").unlink(missing_ok=True)
                if len(mine):
                    write_csv(folder / "index.csv", others)
            return self
        style.save_figure(self.figure, folder / self.name)
        row = {"figure": self.name, "caption": self.caption, "commits": " ".join(self.about.get("commits", []))}
        row |= {key: self.about.get(key, "") for key in ("dataset", "preset", "open_classes")}
        runs = runs_of(self.about)
        row |= {"runs": " ".join(runs), "open_classes": " ".join(dict.fromkeys(run.split("/")[2] for run in runs))}
        index = pd.concat([others, pd.DataFrame([row])])[list(INDEX_COLUMNS)]
        write_csv(folder / "index.csv", index.sort_values("figure"))
        return self

    def _was(self, row):
        """Whether a row of the index is of this figure's own dataset, preset and open class."""
        same = all(row[key] == self.about.get(key, "") for key in ("dataset", "preset"))
        return same and (not row["open_classes"] or self.about.get("open_classes") in row["open_classes"].split())

    def show(self):
        """Show figure and caption in a notebook, and below them the runs that the numbers come from."""
        from IPython.display import Markdown, display

        if self.figure is not None:
            display(self.figure)
        runs = ", ".join(f"`{run}`" for run in runs_of(self.about))
        where = f"\n\nRuns: {runs} in [the table of runs](../results/tables/runs.csv)." if runs else ""
        display(Markdown(self.caption + where))


def missing(name, where, made_by):
    """The place of a figure whose numbers nobody has made yet; the caption says what makes them."""
    dataset = NAMES.get(where.dataset, where.dataset)
    text = f"**{name}** is not drawn: no runs yet on {dataset}. {made_by} makes them."
    about = {key: getattr(where, key) for key in ("dataset", "preset", "open_classes")}
    return Plate(name, None, text, {**about, "runs": []})


def grid_for(where, kind):
    """Which command makes such runs: on the grid of this kind and dataset, or one after the pattern of FERPlus's."""
    names = [f"{kind}_{where.dataset}.yaml", *([f"{kind}.yaml"] if where.dataset == "synthetic" else [])]
    found = next((name for name in names if (ROOT / "params" / "grids" / name).is_file()), None)
    return f"`make batch GRID=params/grids/{found}`" if found else f"A grid like `params/grids/{kind}_ferplus.yaml`"


def read_index():
    """The table of saved figures and their captions; empty before the first."""
    path = results_dir() / "figures" / "index.csv"
    if not path.exists():
        return pd.DataFrame(columns=list(INDEX_COLUMNS))
    return pd.read_csv(path, dtype="str", keep_default_na=False).reindex(columns=list(INDEX_COLUMNS), fill_value="")


def source(about):
    """`FERPlus, preset cpu, open = surprise, seed 0; commits a b`: where numbers come from."""
    parts = [NAMES.get(about["dataset"], about["dataset"])]
    labels = {"preset": "preset {}", "open_classes": "open = {}", "seed": "seed {}", "n": "{} images"}
    parts += [text.format(about[key]) for key, text in labels.items() if about.get(key, "") != ""]
    commits = f"; commits {' '.join(about['commits'])}" if about.get("commits") else ""
    return ", ".join(parts) + commits + "."


def agreement(agrees, what="the paper"):
    """How a caption begins."""
    return f"{'Agrees' if agrees else 'Does not agree'} with {what}"


def about_rows(where, rows=None, **more):
    """Where numbers of the tidy table come from."""
    rows = pd.DataFrame(columns=["commit"]) if rows is None else rows
    parts = ("dataset", "preset", "open_classes")
    runs = dict.fromkeys("/".join([*(getattr(r, p) for p in parts), f"seed{r.seed}"]) for r in rows.itertuples())
    about = {"dataset": where.dataset, "preset": where.preset, "commits": sorted(set(rows["commit"]))}
    return {**about, "runs": list(runs), **more}


def runs_of(about):
    """Folders under results/runs that a figure's numbers come from; [] for one drawn from no run."""
    if "runs" in about:
        return about["runs"]
    parts = [about.get(key) for key in ("dataset", "preset", "open_classes", "seed")]
    return [] if None in parts else ["/".join([*parts[:3], f"seed{parts[3]}"])]
