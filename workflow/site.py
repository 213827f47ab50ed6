"""A static site of what there is: executed notebooks, tables and figures, found by dataset, open class and method.

python -m workflow.site [--out FOLDER]

No page asks anything of a network. Every executed notebook is two clicks from the first page. Pages that would come out
the same are left alone, so a second call is quick.
"""

import argparse
import html
import os
import re
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from fer_openset import report
from fer_openset.atomic import need_writable, write_text
from fer_openset.errors import UserError
from fer_openset.plates import read_index
from fer_openset.settings import ROOT, results_dir
from workflow.grid import NOTEBOOKS
from workflow.html import GENERATOR, link_list, link_to, notebook_body, page, plain_maths
from workflow.site_index import BY, executed_notebooks, group, question_of, run_tables, source_of

LISTING = ".site-files"  # what belongs to the site, a name a line
MARK = f"{GENERATOR}, site"  # the pages of a batch's report carry another: their folder is no place for a site


class Site:
    """Collects what was written, so that pages of runs that are gone can be removed at the end."""

    def __init__(self, out):
        self.out, self.written, self.made = Path(out), set(), 0
        self.listing = self.out / LISTING
        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"{self.out}: this is a file; name a folder for the site.")
        first = self.out / "index.html"
        ours = self.listing.is_file() or (first.is_file() and MARK.encode() in first.read_bytes()[:2000])
        if self.out.exists() and any(self.out.iterdir()) and not ours:
            raise UserError(f"{self.out}: this folder holds other files than a site; name another one.")
        need_writable(self.listing)
        self.claimed = set(self.listing.read_text(encoding="utf-8").splitlines()) if self.listing.is_file() else set()

    def claim(self, name):
        """Note that the file `name` below the root is the site's, before it is written: a build may be stopped.

        Returns: its path.
        """
        if name not in self.claimed:
            with open(self.listing, "a", encoding="utf-8") as handle:
                handle.write(f"{name}\n")
            self.claimed.add(name)
        self.written.add(self.out / name)
        return self.out / name

    def to(self, target, page_of):
        """The relative address of `target` (below the root) seen from the page `page_of`."""
        return os.path.relpath(target, Path(page_of).parent)

    def write(self, name, title, body):
        """Write one page below the root, with a way back."""
        trail = [] if name == "index.html" else [("workbook", self.to("index.html", name))]
        trail += [(text, self.to(target, name)) for text, target in (("figures", "figures/index.html"),
                  ("tables", "tables/index.html")) if name != target]  # fmt: skip
        text = page(title, f"<h1>{html.escape(title)}</h1>\n{body}" if title else body, trail, MARK)
        path = self.claim(name)
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)

    def notebook(self, source, name, above=()):
        """Render one notebook to the page `name`, unless the page is newer than it and than this code.

        above: (text, page) of the pages that lead to it, besides the first.
        """
        path = self.claim(name)
        newest = max(p.stat().st_mtime for p in (source, Path(__file__), Path(__file__).with_name("html.py")))
        if path.exists() and path.stat().st_mtime > newest:
            return
        body = notebook_body(source, lambda link: self.address(link, source, name))
        trail = [("workbook", self.to("index.html", name)), *((text, self.to(up, name)) for text, up in above)]
        write_text(path, page(source.stem, body, trail))
        self.made += 1

    def address(self, link, source, name):
        """Where a relative link of a notebook leads on the site: a run's own page first, then the notebook's."""
        stem = Path(link).stem
        if link.endswith(".ipynb"):
            if (source.parent / link).is_file() and source.parent.name == "notebooks" and source.parent != NOTEBOOKS:
                return str(Path(link).with_suffix(".html"))
            return self.to(f"notebooks/{stem}.html", name) if (NOTEBOOKS / f"{stem}.ipynb").is_file() else None
        if link.endswith(".csv") and (results_dir() / "tables" / Path(link).name).is_file():
            return self.to(f"tables/{stem}.html", name)
        return None

    def copy(self, source, name):
        """Copy one file below the root."""
        path = self.claim(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)

    def remove_the_rest(self):
        """Delete what earlier calls wrote and this one did not; files that others put there stay."""
        kept = {path.relative_to(self.out).as_posix() for path in self.written}
        for name in sorted(self.claimed - kept):
            path = self.out / name
            if not path.resolve().is_relative_to(self.out.resolve()) or path.is_dir():
                continue  # the list was changed by hand
            path.unlink(missing_ok=True)
            folder = path.parent
            while folder != self.out and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
                folder = folder.parent
        write_text(self.listing, "".join(f"{name}\n" for name in sorted(kept)))


def build(out):
    """Write the whole site. Returns: the Site."""
    site = Site(out)
    numbered = [
        (path.stem, f"notebooks/{path.stem}.html", source_of(path)) for path in sorted(NOTEBOOKS.glob("[0-9]*"))
    ]
    for _, name, source in numbered:
        site.notebook(source, name)
    executed = executed_notebooks()
    for one in executed:
        site.notebook(one.path, one.page, [(one.parameters["dataset"], f"dataset/{one.parameters['dataset']}.html")])
    groups = {kind: group(executed, kind) for kind in BY}
    runs = report.read_runs()
    for kind, members in groups.items():
        for name, notebooks in members.items():
            site.write(f"{kind}/{name}.html", f"{BY[kind]}: {name}", run_tables(site, notebooks, runs, kind, name))
    tables = table_pages(site)
    figures = figure_page(site)
    site.write(
        "index.html", "Open-set facial expression recognition", first_page(site, numbered, groups, tables, figures)
    )
    site.remove_the_rest()
    return site


def table_pages(site):
    """A page and a copy for each CSV under results/tables; a dataset and preset have a table of their own."""
    pages = []
    for path in sorted((results_dir() / "tables").glob("*.csv")):
        frame = pd.read_csv(path, dtype="str", keep_default_na=False)
        split = [name for name in ("dataset", "preset") if name in frame]
        parts = [("", frame)] if not split else [(", ".join(filter(None, k)), p) for k, p in frame.groupby(split)]
        body = f"<p>{link_to(path.name, path.name)}</p>\n" + "\n".join(
            f'<h2>{html.escape(name)}</h2><div class="scroll">{report.as_html(part, missing="–")}</div>'
            for name, part in parts
        )
        site.copy(path, f"tables/{path.name}")
        site.write(f"tables/{path.stem}.html", path.stem, body)
        pages.append((path.stem, f"tables/{path.stem}.html"))
    listed = link_list([(text, site.out / target) for text, target in pages], site.out / "tables")
    site.write("tables/index.html", "Tables", listed if pages else f"<p>{report.NO_RUNS}</p>")
    return pages


def figure_page(site):
    """One page with every figure of results/figures, its caption, its PDF, and links to the runs behind it."""
    rows = {row["figure"]: row for row in read_index().to_dict("records")}
    parts, names = [], []
    found = sorted((results_dir() / "figures").glob("*.png"), key=lambda path: (path.stem[:3] != "fig", path.name))
    for path in found:
        site.copy(path, f"figures/{path.name}")
        row = rows.get(path.stem, {})
        caption = plain_maths(html.escape(row.get("caption", path.stem.replace("_", " "))))
        if path.with_suffix(".pdf").is_file():
            site.copy(path.with_suffix(".pdf"), f"figures/{path.stem}.pdf")
            caption += f" {link_to('PDF', path.stem + '.pdf')}"
        name = html.escape(path.stem)
        image = f'<img src="{quote(path.name)}" alt="{name}">'
        runs = runs_of_figure(site, row)
        parts.append(f'<figure id="{name}"><h2>{name}</h2>{image}<figcaption>{caption}{runs}</figcaption></figure>')
        names.append(path.stem)
    site.write("figures/index.html", "Figures", "\n".join(parts) or f"<p>{report.NO_RUNS}</p>")
    return names


def runs_of_figure(site, row):
    """Links to the pages of the datasets and open classes behind a figure, and to the table of runs; "" if it has none.

    row: of results/figures/index.csv. Columns may be missing, values empty or joined by a blank, `+` or `;`. Folders of
    runs, DATASET/PRESET/OPEN/seedN, say it best where the row names any.
    """
    folders = [run.split("/") for run in str(row.get("runs", "")).split() if run.count("/") == 3]

    def values(place, *columns):
        text = " ".join(run[place] for run in folders) or next((row[name] for name in columns if row.get(name)), "")
        return dict.fromkeys(filter(None, re.split(r"[\s+;]+", text)))

    def linked(kind, names, folder):
        pages = {name: f"{folder}/{name}.html" for name in names}
        words = [link_to(name, site.to(page, "figures/index.html")) if site.out / page in site.written else
                 html.escape(name) for name, page in pages.items()]  # fmt: skip
        return [f"{kind} {', '.join(words)}"] if words else []

    datasets, presets = values(0, "dataset"), values(1, "preset")
    if not datasets:
        return ""
    said = linked("dataset", datasets, "dataset")
    said += [f"preset {html.escape(', '.join(presets))}"] if presets else []
    said += linked("open", values(2, "open_classes"), "open_class")
    if site.out / "tables/runs.html" in site.written:
        said.append(link_to("table of runs", "../tables/runs.html"))
    return f"<br>Runs: {'; '.join(said)}."


def first_page(site, numbered, groups, tables, figures):
    """What there is, by dataset, open class and method."""
    parts = ["<p>Executed notebooks, tables and figures of the workbook. Numbers on synthetic faces and on real ones, "
             "and those of different presets, are never in one table.</p>", "<h2>Notebooks</h2>",
             link_list([(" · ".join(filter(None, (stem, question_of(source)))), site.out / name)
                        for stem, name, source in numbered], site.out)]  # fmt: skip
    for kind, members in groups.items():
        pages = [(name, site.out / f"{kind}/{name}.html") for name in members]
        words = link_list(pages, site.out) if pages else f"<p>{report.NO_RUNS}</p>"
        parts += [f"<h2>Runs by {BY[kind]}</h2>", words]
    parts += [f'<h2>Figures and tables</h2><p><a href="figures/index.html">{len(figures)} figures</a>, '
              f'<a href="tables/index.html">{len(tables)} tables</a></p>']  # fmt: skip
    return "\n".join(parts)


def main(arguments=None):
    """Exit 0, or 2 with one sentence when the site cannot be written there."""
    parser = argparse.ArgumentParser(prog="python -m workflow.site", description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=ROOT / "site", help="folder of the site; default: site/")
    began = time.monotonic()
    try:
        site = build(parser.parse_args(arguments).out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(site.written)} files, {site.made} notebooks rendered ({time.monotonic() - began:.0f} s): "
          f"{site.out / 'index.html'}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
