"""Executed notebooks as HTML that asks nothing of any network: one page beside each notebook, one that lists a grid's.

python -m workflow.html params/grids/NAME.yaml
"""

import html
import os
import re
import sys
from functools import cache
from pathlib import Path

from fer_openset.atomic import write_text
from fer_openset.errors import UserError
from workflow.grid import REPORT_STEM, load_grid

GENERATOR = "fer-openset workbook"
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 0.5rem 1rem 3rem }
nav { border-bottom: 1px solid #ccc; padding: 0.4rem 0; margin-bottom: 1rem }
a { color: #0b5c8f } h1, h2, h3, h4 { line-height: 1.25; overflow-wrap: anywhere } h1 { font-size: 1.6rem }
img { max-width: 100%; height: auto } pre { overflow-x: auto; font-size: 0.82rem; margin: 0.3rem 0; padding: 0.5rem }
.scroll, .jp-RenderedHTML, .jp-RenderedMarkdown, .output_html, .output_markdown { overflow-x: auto; max-width: 100% }
.highlight pre { background: #f5f5f3 } .jp-OutputArea-output pre, .output pre { background: none }
table { border-collapse: collapse; font-size: 0.85rem } th, td { padding: 0.2rem 0.55rem; text-align: left }
tr { border-bottom: 1px solid #e4e4e4 } code { font-size: 0.9em; overflow-wrap: anywhere }
.jp-InputPrompt, .jp-OutputPrompt, .prompt, .anchor-link { display: none } figure { margin: 1.5rem 0 }
figcaption { font-size: 0.9rem } .gone { text-decoration: none }
"""
LINK = re.compile(r'<a\b([^>]*?)href="([^"#]+)(#[^"]*)?"([^>]*)>(.*?)</a>', re.DOTALL)


def page(title, body, trail=()):
    """A whole HTML page. `trail`: (text, address) of the pages above it, shown as links."""
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f'<meta name="generator" content="{GENERATOR}">\n<link rel="icon" href="data:,">\n'
    links = " · ".join(f'<a href="{html.escape(address)}">{html.escape(text)}</a>' for text, address in trail)
    nav = f"<nav>{links}</nav>\n" if links else ""
    return f"{head}<style>{STYLE}{_code_colours()}</style></head>\n<body>\n{nav}{body}\n</body></html>\n"


@cache
def _code_colours():
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="default").get_style_defs(".highlight")


@cache
def _exporter():
    from nbconvert import HTMLExporter  # slow to import, and mostly there is nothing to do

    return HTMLExporter(template_name="basic", embed_images=True)  # no script, no style sheet from elsewhere


def notebook_body(notebook, address_of):
    """A notebook as the inside of a page. `address_of(link)` -> where a relative link leads, None if nowhere."""
    body, _ = _exporter().from_filename(str(notebook))
    return relinked(plain_maths(body), address_of)


def relinked(body, address_of):
    """Links between notebooks lead to their pages; a link that leads nowhere becomes its text."""

    def one(match):
        before, address, anchor, after, text = match.groups()
        if re.match(r"[a-z]+:", address):
            return match[0]
        found = address_of(html.unescape(address))
        if found is None:
            return f'<span class="gone">{text}</span>'
        return f'<a{before}href="{html.escape(found)}{anchor or ""}"{after}>{text}</a>'

    return LINK.sub(one, body)


def plain_maths(body):
    """Single letters and letters with an index, `$f_{close}$`, as HTML; other TeX stays as it is, to be read."""
    return re.sub(
        r"\$([A-Za-z])(?:_\{?([A-Za-z0-9]+)\}?)?\$",
        lambda m: f"<i>{m[1]}</i>" + (f"<sub>{m[2]}</sub>" if m[2] else ""),
        body,
    )


def render(notebook):
    """Write NOTEBOOK.html beside an executed notebook unless a newer one is there. Returns the page, if any."""
    target = notebook.with_suffix(".html")
    if not notebook.exists():
        return None
    if target.exists() and target.stat().st_mtime > notebook.stat().st_mtime:
        return target

    def beside(link):
        return link.removesuffix(".ipynb") + ".html" if (notebook.parent / link).is_file() else None

    write_text(target, page(notebook.stem, notebook_body(notebook, beside)))
    return target


def link_list(pages, folder):
    """A list of links. `pages`: list of (text, path of the page), seen from `folder`."""
    links = [(html.escape(os.path.relpath(target, folder)), html.escape(text)) for text, target in pages]
    return "\n".join(["<ul>", *(f'<li><a href="{link}">{text}</a></li>' for link, text in links), "</ul>"])


def index(title, pages, folder):
    """A plain page of links. `pages`: list of (text, path of the page)."""
    return page(title, f"<h1>{html.escape(title)}</h1>\n{link_list(pages, folder)}")


def render_grid(grid):
    """Render the report and every executed notebook of a grid. Returns the page that lists them."""
    folder = grid.reports
    notebooks = [("results against the paper", folder / f"{REPORT_STEM}.ipynb")]
    notebooks += [(job.label, job.notebook) for job in grid.jobs()]
    pages = [(text, target) for text, target in ((text, render(path)) for text, path in notebooks) if target]
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
