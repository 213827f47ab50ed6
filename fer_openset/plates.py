"""A figure with its caption: what it shows, what agrees with the paper and what does not, and the runs behind it."""

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from fer_openset import style
from fer_openset.atomic import write_csv
from fer_openset.settings import results_dir

NAMES = {"ferplus": "FERPlus", "rafdb": "RAF-DB", "synthetic": "synthetic faces", "affectnet": "AffectNet"}
INDEX_COLUMNS = ("figure", "dataset", "preset", "open_classes", "commits", "caption")


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

        A figure without numbers writes nothing.
        """
        if self.figure is None:
            return self
        folder = results_dir() / "figures"
        style.save_figure(self.figure, folder / self.name)
        row = {"figure": self.name, "caption": self.caption, "commits": " ".join(self.about.get("commits", []))}
        row |= {key: self.about.get(key, "") for key in ("dataset", "preset", "open_classes")}
        index = pd.concat([read_index(), pd.DataFrame([row])])[list(INDEX_COLUMNS)]
        write_csv(folder / "index.csv", index.drop_duplicates("figure", keep="last").sort_values("figure"))
        return self

    def show(self):
        """Show figure and caption in a notebook."""
        from IPython.display import Markdown, display

        if self.figure is not None:
            display(self.figure)
        link = " [Table of runs](../results/tables/runs.csv)" if self.about else ""
        display(Markdown(self.caption + link))


def missing(name, where, made_by):
    """The place of a figure whose numbers nobody has made yet; the caption says what makes them."""
    dataset = NAMES.get(where.dataset, where.dataset)
    return Plate(name, None, f"**{name}** is not drawn: no runs yet on {dataset}. {made_by} makes them.", {})


def read_index():
    """The table of saved figures and their captions; empty before the first."""
    path = results_dir() / "figures" / "index.csv"
    if not path.exists():
        return pd.DataFrame(columns=list(INDEX_COLUMNS))
    return pd.read_csv(path, dtype="str", keep_default_na=False)


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
    commits = sorted(set(rows["commit"])) if rows is not None and len(rows) else []
    return {"dataset": where.dataset, "preset": where.preset, "commits": commits, **more}
