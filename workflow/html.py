"""The executed notebooks of a grid as HTML, one page beside each notebook, and one page that lists them.

python -m workflow.html params/grids/NAME.yaml
"""

import html
import os
import sys
from pathlib import Path

from fer_openset.atomic import write_text
from fer_openset.errors import UserError
from workflow.grid import REPORT_STEM, load_grid


def render(notebook):
    """Write NOTEBOOK.html beside an executed notebook unless a newer one is there. Returns the page, if any."""
    page = notebook.with_suffix(".html")
    if not notebook.exists():
        return None
    if page.exists() and page.stat().st_mtime > notebook.stat().st_mtime:
        return page
    from nbconvert import HTMLExporter  # slow to import, and mostly there is nothing to do

    body, _ = HTMLExporter(embed_images=True).from_filename(str(notebook))
    write_text(page, body)
    return page


def index(title, pages, folder):
    """A plain page of links. `pages`: list of (text, path of the page)."""
    links = [(html.escape(os.path.relpath(page, folder)), html.escape(text)) for text, page in pages]
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    style = "<style>body{font:16px/1.6 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}</style>"
    return "\n".join(
        [
            head + style,
            f"<h1>{html.escape(title)}</h1>",
            "<ul>",
            *(f'<li><a href="{link}">{text}</a></li>' for link, text in links),
            "</ul></html>",
            "",
        ]
    )


def render_grid(grid):
    """Render the report and every executed notebook of a grid. Returns the page that lists them."""
    folder = grid.reports
    notebooks = [("results against the paper", folder / f"{REPORT_STEM}.ipynb")]
    notebooks += [(job.label, job.notebook) for job in grid.jobs()]
    pages = [(text, page) for text, page in ((text, render(path)) for text, path in notebooks) if page]
    write_text(folder / "index.html", index(f"{grid.name}: executed notebooks", pages, folder))
    return folder / "index.html"


def main(arguments=None):
    """Render one grid's pages; exit 2 for a grid that cannot be used."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if len(arguments) != 1:
            raise UserError("usage: python -m workflow.html params/grids/NAME.yaml")
        render_grid(load_grid(Path(arguments[0])))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
