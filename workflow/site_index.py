"""What a site shows: the executed notebooks on disk, their groups, and the rows that lead to them."""

import html
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fer_openset.labels import EXPRESSIONS
from fer_openset.settings import results_dir
from workflow.html import link_to

BY = {"dataset": "dataset", "open_class": "open class", "method": "method"}  # the three indexes: folder -> words


@dataclass(frozen=True)
class Executed:
    """One executed notebook of a run: its file, the parameters that it ran with, its page below the site's root."""

    path: Path
    parameters: dict
    page: str

    @property
    def methods(self):
        return tuple(self.parameters.get("method", "").split("+")) if self.parameters.get("method") else ()

    @property
    def how(self):
        """Alignment and variant as they stand in the notebook's name: STEM.METHODS.ALIGNMENT.VARIANT."""
        parts = self.path.stem.split(".")
        return (parts[2], parts[3]) if len(parts) == 4 else ("", "")

    @property
    def step(self):
        return self.path.stem.split(".")[0]


def executed_notebooks():
    """The executed notebooks under results/runs, smoke runs left out; one that cannot be read is said and skipped."""
    runs = results_dir() / "runs"
    found = []
    for path in sorted(runs.glob("*/*/*/seed*/notebooks/*.ipynb")):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))["metadata"]["papermill"]["parameters"]
        except (ValueError, KeyError, TypeError):
            print(f"{path}: left out, it is no executed notebook", file=sys.stderr)
            continue
        where = dict(zip(("dataset", "preset", "open_classes"), path.relative_to(runs).parts, strict=False))
        if where["preset"] != "smoke":
            found.append(Executed(path, {**values, **where}, f"runs/{path.relative_to(runs).with_suffix('.html')}"))
    return found


def source_of(notebook):
    """The newest executed form of a numbered notebook: what `make figures` or a batch left, or the one in the clone."""
    executed = [results_dir() / "reports" / notebook.name, *(results_dir() / "reports").glob(f"*/{notebook.name}")]
    return max([notebook, *filter(Path.is_file, executed)], key=lambda path: path.stat().st_mtime)


def question_of(notebook):
    """The question that a numbered notebook answers: the first line in bold of its first cell; "" without one."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    lines = "".join(cells[0]["source"]).splitlines() if cells else []
    return next((line.strip("*") for line in lines if line.startswith("**") and line.endswith("**")), "")


def group(executed, kind):
    """{name: executed notebooks} for one index; names sorted, expressions in their usual order."""
    out = {}
    for one in executed:
        names = {"dataset": (one.parameters["dataset"],), "open_class": one.parameters["open_classes"].split("+"),
                 "method": one.methods}[kind]  # fmt: skip
        for name in names:
            out.setdefault(name, []).append(one)
    return {name: out[name] for name in sorted(out, key=_place)}


def _place(name):
    return (EXPRESSIONS.index(name) if name in EXPRESSIONS else len(EXPRESSIONS)), name


def run_tables(site, notebooks, runs, kind, name):
    """One table a dataset and preset: synthetic and real numbers never share one."""
    parts = []
    for (dataset, preset), members in group_by(notebooks, lambda n: (n.parameters["dataset"], n.parameters["preset"])):
        rows = [row for one in members for row in notebook_rows(site, one, runs, f"{kind}/{name}.html", kind, name)]
        head = ["open class", "seed", "notebook", "method", "alignment", "variant", "AUROC"]
        parts.append(f"<h2>{html.escape(dataset)}, preset {html.escape(preset)}</h2>" + table_of(head, rows))
    return "\n".join(parts)


def group_by(items, key):
    out = {}
    for item in items:
        out.setdefault(key(item), []).append(item)
    return out.items()


def notebook_rows(site, one, runs, here, kind, name):
    """A row for each method of an executed notebook, its first cells a link."""
    p, (alignment, variant) = one.parameters, one.how
    to_page = link_to(one.step, site.to(one.page, here))
    methods = [m for m in one.methods if kind != "method" or m == name] or [""]
    for method in methods:
        keys = {"dataset": p["dataset"], "preset": p["preset"], "open_classes": p["open_classes"], "method": method,
                "alignment": alignment, "variant": variant, "seed": p.get("seed", 0)}  # fmt: skip
        found = runs[(runs[list(keys)] == pd.Series(keys)).all(axis=1)] if method else runs[:0]
        auroc = f"{found['auroc'].iloc[0]:.3f}" if len(found) else ""
        words = map(html.escape, (method, alignment, variant))
        yield [html.escape(p["open_classes"]), str(p.get("seed", 0)), to_page, *words, auroc]


def table_of(head, rows):
    """An HTML table of cells that are HTML already."""
    lines = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return f'<div class="scroll"><table><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
