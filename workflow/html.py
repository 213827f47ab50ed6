"""Executed notebooks as HTML that asks nothing of any network: one page beside each notebook, one that lists a grid's.

python -m workflow.html params/grids/NAME.yaml
"""

import html
import os
import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

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
.dense th, .dense td { padding: 0.15rem 0.25rem }
tr { border-bottom: 1px solid #e4e4e4 } code { font-size: 0.9em; overflow-wrap: anywhere }
.jp-InputPrompt, .jp-OutputPrompt, .prompt, .anchor-link { display: none } figure { margin: 1.5rem 0 }
figcaption { font-size: 0.9rem } .formula { display: block; margin: 0.7rem 0; overflow-x: auto }
.gone { text-decoration: none }
"""
LINK = re.compile(r'<a\b([^>]*?)href="([^"#]+)(#[^"]*)?"([^>]*)>(.*?)</a>', re.DOTALL)
# What no formula is looked for in: code, and tags with their attributes.
NO_TEXT = re.compile(r"(<(pre|code|script|style|svg)\b.*?</\2>|<[^>]*>)", re.DOTALL)
# As in Pandoc: no blank behind the first sign or before the second, no digit behind the second; so prices stay prices.
TEX = re.compile(r"\$\$(?P<block>[^$]+)\$\$|\$(?P<inline>(?! )[^$\n]+?(?<![\\ ]))\$(?!\d)")
LETTER = re.compile(r"([A-Za-z])(?:_\{?([A-Za-z0-9]+)\}?)?")


def page(title, body, trail=(), generator=GENERATOR):
    """A whole HTML page. `trail`: (text, address) of the pages above it, shown as links."""
    head = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f'<meta name="generator" content="{generator}">\n<link rel="icon" href="data:,">\n'
    links = " · ".join(link_to(text, address) for text, address in trail)
    nav = f"<nav>{links}</nav>\n" if links else ""
    return f"{head}<style>{STYLE}{_code_colours()}</style></head>\n<body>\n{nav}{body}\n</body></html>\n"


def link_to(text, path):
    """A link to a file: `path` as it is on disk, seen from the page."""
    return f'<a href="{quote(str(path))}">{html.escape(text)}</a>'


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
        found = address_of(unquote(html.unescape(address)))
        if found is None:
            return f'<span class="gone">{text}</span>'
        return f'<a{before}href="{quote(found)}{anchor or ""}"{after}>{text}</a>'

    return LINK.sub(one, body)


def plain_maths(body):
    """TeX between dollar signs without any script: letters, `$f_{close}$`, as HTML, the rest drawn as inline SVG.

    What cannot be drawn stays as it is, to be read; so do code and attributes.
    """
    parts = NO_TEXT.split(body)  # text, tag, the tag's name or None, text, ...
    parts[::3] = [TEX.sub(_formula, text) if "$" in text else text for text in parts[::3]]
    return "".join(part or "" for n, part in enumerate(parts) if n % 3 != 2)


def _formula(match):
    tex = html.unescape(match["block"] or match["inline"]).strip()
    letter = LETTER.fullmatch(tex)
    if letter:
        return f"<i>{letter[1]}</i>" + (f"<sub>{letter[2]}</sub>" if letter[2] else "")
    drawn = svg(" ".join(tex.split()))
    if drawn is None:
        return match[0]
    return f'<span class="formula">{drawn}</span>' if match["block"] else drawn


@cache
def svg(tex):
    """A formula as SVG in the colour and size of the text around it, the TeX its label; None if it cannot be drawn."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser
    from matplotlib.textpath import TextPath

    try:
        path = TextPath((0, 0), f"${tex}$", size=100)
        width, height, depth = MathTextParser("path").parse(f"${tex}$", 72, FontProperties(size=100))[:3]
    except ValueError:
        return None
    code_letters = {1: "M", 2: "L", 3: "Q", 4: "C"}  # of a matplotlib path; the fifth code closes it
    lines = ((code_letters.get(code), points.reshape(-1, 2) * [1, -1])  # y points down in SVG
             for points, code in path.iter_segments(simplify=False))  # fmt: skip
    drawn = "".join(
        letter + " ".join(f"{x:.0f} {y:.0f}" for x, y in points) if letter else "Z" for letter, points in lines
    )
    label = html.escape(tex)
    return (f'<svg role="img" aria-label="{label}" viewBox="0 {depth - height:.0f} {width:.0f} {height:.0f}" '
            f'style="height:{height / 100:.2f}em;vertical-align:{-depth / 100:.2f}em;overflow:visible" '
            f'fill="currentColor"><title>{label}</title><path d="{drawn}"/></svg>')  # fmt: skip


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
    links = [link_to(text, os.path.relpath(target, folder)) for text, target in pages]
    return "\n".join(["<ul>", *(f"<li>{one}</li>" for one in links), "</ul>"])


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
