"""The site: everything found, everything two clicks away, nothing asked of a network; looked at in a real browser."""

import base64
import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin

import nbformat
import pandas as pd
import pytest

from fer_openset import plates, report, style
from workflow import html, site

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUN = {"dataset": "ferplus", "preset": "cpu", "open_classes": "surprise+fear", "seed": 0}
LONG = "a_very_long_name_without_any_break_" * 8


@functools.cache
def picture():
    figure, [[ax]] = style.new_axes(2, 1)
    ax.plot([0, 1])
    return figure


def notebook(path, cells, parameters=None):
    """Write an executed notebook: markdown, and code with a printed line, a wide table and a picture."""
    code = nbformat.v4.new_code_cell(f"print('{LONG}')")
    wide = pd.DataFrame([["x" * 20] * 12]).to_html()
    image = base64.b64encode(picture()._repr_png_()).decode()
    code.outputs = [nbformat.v4.new_output("stream", text=LONG + "\n"),
                    nbformat.v4.new_output("display_data", {"text/html": wide}),
                    nbformat.v4.new_output("display_data", {"image/png": image})]  # fmt: skip
    book = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_markdown_cell, cells), code])
    if parameters is not None:
        book.metadata["papermill"] = {"parameters": parameters}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)


def row_of(dataset, preset, method, auroc):
    row = dict.fromkeys(report.RUN_COLUMNS, 0.5) | RUN | {"dataset": dataset, "preset": preset, "method": method}
    return row | {"alignment": "aligned", "variant": "default", "auroc": auroc, "commit": "c", "device": "cpu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two datasets with runs, two numbered notebooks, a figure and tables."""
    folder = tmp_path_factory.mktemp("place")
    results, books = folder / "results", folder / "clone" / "notebooks"
    links = "[next](03_open_set_detection.ipynb) [gone](../docs/x.md) [runs](../results/tables/runs.csv)"
    links += r" $f_{close}$ $\hat y$"
    notebook(books / "00_start_here.ipynb", ["# Start\n\n**Is this new?**\n", links])
    notebook(books / "03_open_set_detection.ipynb", ["# Detection", "[back](00_start_here.ipynb)"])
    for dataset, preset in (("ferplus", "cpu"), ("synthetic", "demo"), ("synthetic", "smoke")):
        run = results / "runs" / dataset / preset / "surprise+fear" / "seed0" / "notebooks"
        notebook(run / "01_closed_set_training.ipynb", ["# Training"], RUN | {"dataset": dataset, "preset": preset})
        notebook(run / "03_open_set_detection.2_posthoc.aligned.default.ipynb", ["# Run", links],
                 RUN | {"dataset": dataset, "preset": preset, "method": "msp+energy"})  # fmt: skip
    (results / "runs/ferplus/cpu/surprise+fear/seed0/notebooks/04_x.ipynb").write_text("killed while writing")
    rows = [row_of("ferplus", "cpu", "msp", 0.611), row_of("synthetic", "demo", "msp", 0.722)]
    (results / "tables").mkdir()
    pd.DataFrame(rows).to_csv(results / "tables" / "runs.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_OPENSET_RESULTS", str(results))
        patch.setattr(site, "NOTEBOOKS", books)
        plates.Plate("fig9_test", picture(), "A caption <with> marks.", {}).save()
        yield folder


@pytest.fixture(scope="module")
def made(place):
    """The site, built once: tests that change it work on a copy."""
    assert site.build(place / "site").made == 6
    return place / "site"


class Links(HTMLParser):
    """Addresses in a page: of links, and of all that a browser would fetch by itself."""

    def __init__(self, text):
        super().__init__()
        self.links, self.fetched = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        self.fetched += [v for k, v in attributes.items() if k == "src" or (k == "href" and tag == "link")]


def pages_of(out):
    return {path.relative_to(out).as_posix(): Links(path.read_text(encoding="utf-8")) for path in out.rglob("*.html")}


def reached(pages, start, clicks):
    """Pages within so many clicks of `start`."""
    found = new = {start}
    for _ in range(clicks):
        targets = {unquote(urljoin(page, link.split("#")[0])) for page in new for link in pages[page].links}
        new = (targets & set(pages)) - found
        found = found | new
    return found


def test_every_executed_notebook_is_two_clicks_away(made):
    assert ">00_start_here · Is this new?</a>" in (made / "index.html").read_text(encoding="utf-8")
    pages = pages_of(made)
    executed = {name for name in pages if name.startswith(("runs/", "notebooks/"))}
    assert len(executed) == 2 + 4  # smoke runs and the unreadable one are not shown
    assert executed <= reached(pages, "index.html", 2)
    for kind, name in (("dataset", "ferplus"), ("open_class", "fear"), ("method", "energy")):
        assert f"{kind}/{name}.html" in reached(pages, "index.html", 1)


def test_no_link_is_broken_and_nothing_comes_from_elsewhere(made):
    for name, page in pages_of(made).items():
        for address in page.fetched:
            assert address.startswith("data:") or (made / name).parent.joinpath(unquote(address)).is_file(), address
        for address in page.links:
            if not address.startswith("#"):
                assert not re.match("[a-z]+:", address)
                assert (made / name).parent.joinpath(unquote(address.split("#")[0])).exists(), (name, address)
        text = (made / name).read_text(encoding="utf-8")
        assert "<script" not in text and "@import" not in text and "url(" not in text


def test_links_between_notebooks_lead_to_their_pages(made):
    run = "runs/ferplus/cpu/surprise+fear/seed0/notebooks/03_open_set_detection.2_posthoc.aligned.default.html"
    text = (made / run).read_text(encoding="utf-8")
    assert 'href="../../../../../../notebooks/03_open_set_detection.html"' in text
    assert 'href="../../../../../../tables/runs.html"' in text
    assert "../docs/x.md" not in text and ">gone<" in text  # nothing to lead to: the words stay
    assert "<i>f</i><sub>close</sub>" in text and r'<svg role="img" aria-label="\hat y"' in text


def test_synthetic_and_real_numbers_share_no_table(made):
    for name in ("method/msp.html", "tables/runs.html", "open_class/fear.html"):
        tables = re.findall(r"<table.*?</table>", (made / name).read_text(encoding="utf-8"), re.DOTALL)
        assert [("0.611" in t, "0.722" in t) for t in tables if "0.611" in t or "0.722" in t] == [
            (True, False),
            (False, True),
        ]


def test_a_second_call_renders_nothing_and_forgets_what_is_gone(made, place, tmp_path, monkeypatch, capsys):
    shutil.copytree(place / "results", tmp_path / "results")
    shutil.copytree(made, tmp_path / "site")
    monkeypatch.setenv("FER_OPENSET_RESULTS", str(tmp_path / "results"))
    shutil.rmtree(tmp_path / "results" / "runs" / "synthetic")
    assert site.build(tmp_path / "site").made == 0
    assert "04_x.ipynb: left out" in capsys.readouterr().err
    left = pages_of(tmp_path / "site")
    assert "dataset/ferplus.html" in left and not any("synthetic" in name for name in left)


def test_a_site_that_was_stopped_is_known_again_and_files_of_others_stay(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "NOTEBOOKS", tmp_path / "none")
    out = tmp_path / "site"

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(site, "first_page", stopped)
        with pytest.raises(KeyboardInterrupt):
            site.build(out)
    assert (out / "tables" / "index.html").is_file() and not (out / "index.html").exists()
    (out / ".git").mkdir()
    for name in (".git/HEAD", "CNAME"):
        (out / name).write_text("mine")
    (tmp_path / "thesis.txt").write_text("mine")
    (out / "tables" / "old").mkdir()
    (out / "tables" / "old" / "page.html").write_text("of a run that is gone")
    with open(out / site.LISTING, "a") as handle:
        handle.write("tables/old/page.html\n../thesis.txt\n.git\nnever/written.html\n")
    site.build(out)
    assert (out / ".git" / "HEAD").read_text() == (out / "CNAME").read_text() == "mine"
    assert (tmp_path / "thesis.txt").exists() and not (out / "tables" / "old").exists()
    listed = (out / site.LISTING).read_text().splitlines()
    assert listed == sorted(listed) and {"index.html", "tables/index.html"} <= set(listed)
    assert all((out / name).is_file() for name in listed)


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert site.main(["--out", str(tmp_path)]) == 2
    assert "holds other files than a site; name another one" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_any_run_the_site_says_so(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "NOTEBOOKS", tmp_path)
    site.build(tmp_path / "site")
    text = (tmp_path / "site" / "index.html").read_text()
    assert text.count(report.NO_RUNS) == 3


def test_a_place_that_is_no_folder_is_one_sentence(tmp_path, capsys):
    for out in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "site"):
        (tmp_path / "thesis.txt").write_text("mine")
        assert site.main(["--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert str(out) in said and said.count("\n") == 1 and "Error" not in said
    assert "this is a file; name a folder" not in said  # that is about the file itself
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_the_report_of_a_batch_is_no_site(tmp_path, capsys):
    (tmp_path / "index.html").write_text(html.page("demo: executed notebooks", "<p>pages</p>"))
    (tmp_path / "report.done").touch()
    assert site.main(["--out", str(tmp_path)]) == 2
    assert "holds other files than a site; name another one" in capsys.readouterr().err
    assert (tmp_path / "report.done").exists()


def test_a_first_page_in_another_encoding_is_somebody_elses(tmp_path, capsys):
    (tmp_path / "index.html").write_bytes("<h1>Überblick</h1>".encode("latin-1"))
    assert site.main(["--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "holds other files than a site; name another one" in said and said.count("\n") == 1


def test_a_damaged_page_is_written_again(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "NOTEBOOKS", tmp_path / "none")
    site.build(tmp_path / "site")
    text = (tmp_path / "site" / "tables" / "index.html").read_text(encoding="utf-8")
    (tmp_path / "site" / "tables" / "index.html").write_bytes(b"\xff\xfe")
    site.build(tmp_path / "site")
    assert (tmp_path / "site" / "tables" / "index.html").read_text(encoding="utf-8") == text


def test_names_with_marks_of_addresses_are_quoted(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "NOTEBOOKS", tmp_path / "none")
    odd = "50% #1?"
    books = workplace.results / "runs" / "ferplus" / "cpu" / odd / "seed0" / "notebooks"
    where = RUN | {"open_classes": odd}
    notebook(books / "01_closed_set_training.ipynb", ["# Training", "[on](03_a%20b.m.aligned.default.ipynb)"], where)
    notebook(books / "03_a b.m.aligned.default.ipynb", ["# Run"], where | {"method": "msp"})
    row = row_of("ferplus", "cpu", "msp", 0.6) | {"open_classes": odd}
    (workplace.results / "tables").mkdir()
    pd.DataFrame([row]).to_csv(workplace.results / "tables" / "runs.csv", index=False)
    plates.Plate("fig 9% #", picture(), "x", {"dataset": "ferplus", "open_classes": odd}).save()
    site.build(tmp_path / "site")
    pages = pages_of(tmp_path / "site")
    assert f"open_class/{odd}.html" in pages and 'href="open_class/50%25%20%231%3F.html"' in (
        tmp_path / "site" / "index.html"
    ).read_text(encoding="utf-8")
    assert {name for name in pages if name.startswith("runs/")} <= reached(pages, "index.html", 2)
    for name, page in pages.items():
        for address in (*page.links, *page.fetched):
            if not address.startswith(("#", "data:")):
                assert (tmp_path / "site" / name).parent.joinpath(unquote(address.split("#")[0])).exists(), address
    ways = [link for page in pages.values() for link in page.links if "03_a%20b" in link]
    assert len(ways) == 4  # from three indexes, and from the notebook before it


def test_figures_lead_to_their_runs(made, place, tmp_path, monkeypatch):
    results = shutil.copytree(place / "results", tmp_path / "results")
    monkeypatch.setenv("FER_OPENSET_RESULTS", str(results))
    columns = {"figure": "fig9_test", "caption": r"$\lambda$ & <more>"}
    every = ["../dataset/ferplus.html", "../dataset/synthetic.html", "../open_class/surprise.html",
             "../open_class/fear.html", "../tables/runs.html"]  # fmt: skip
    cases = [
        ({}, None),
        ({"dataset": ""}, None),
        ({"dataset": "ferplus; synthetic", "preset": "cpu+demo", "open_classes": "surprise+fear surprise"}, every),
        ({"dataset": "ferplus", "runs": "ferplus/cpu/surprise/seed0 synthetic/demo/surprise+fear/seed0"}, every),
        ({"dataset": "gone", "open_classes": "fear", "runs": ""}, every[-2:]),
    ]
    for more, links in cases:
        pd.DataFrame([columns | more]).to_csv(results / "figures" / "index.csv", index=False)
        site.build(tmp_path / "site")
        text = (tmp_path / "site" / "figures" / "index.html").read_text(encoding="utf-8")
        caption = text[text.index("<figcaption>") : text.index("</figcaption>")]
        assert [link for link in Links(caption).links if not link.endswith(".pdf")] == (links or [])
        assert ("Runs:" in caption) == bool(links) and 'aria-label="\\lambda"' in caption and "&lt;more&gt;" in caption
    assert "dataset gone" in caption and "preset" not in caption


def test_tables_of_the_site_have_no_blank_cells(made):
    rows = re.findall(r"<tr>.*?</tr>", (made / "tables" / "runs.html").read_text(encoding="utf-8"), re.DOTALL)
    assert rows and not any("<td></td>" in row for row in rows)


def test_letters_become_html_and_longer_formulas_are_drawn():
    assert html.plain_maths("costs $5 and $6, $5-$6") == "costs $5 and $6, $5-$6"
    assert html.plain_maths("$K$, $f_{close}$, $x_1$") == "<i>K</i>, <i>f</i><sub>close</sub>, <i>x</i><sub>1</sub>"
    for tex in (r"q(x)/p_k(x) = (1-a) + a\,p_o(x)/p_k(x)", r"-\log p_f(\hat y \mid x)", r"\hat y", "1-a", r"\lambda"):
        drawn = html.plain_maths(f"so ${tex}$.")
        assert drawn.startswith(f'so <svg role="img" aria-label="{tex}"') and drawn.endswith("</svg>.")
        assert "$" not in drawn and drawn.count("<path") == 1 and 'd="M' in drawn
    assert 'aria-label="a &lt; b"' in html.plain_maths("$a &lt; b$")
    assert html.plain_maths("$$\\frac{1}{N}\n\\sum_i x_i$$").startswith('<span class="formula"><svg')


def test_formulas_that_cannot_be_drawn_and_code_stay_as_they_are():
    for text in (r"$\begin{cases}x\end{cases}$", r"$\frac{1$", "<pre>$x+y$</pre>", "<code>a $x+y$ b</code>",
                 '<img alt="$x+y$">', "<div><pre><span>$a$</span></pre></div>", "a $ b $ c"):  # fmt: skip
        assert html.plain_maths(text) == text


# Opens every page in a frame of the given width, looks at pictures and width, then clicks from the first page to a run.
LOOK = """<!doctype html><title>look</title><link rel="icon" href="data:,"><pre id="out"></pre><script>
const pages = %s, result = {bad: [], clicked: []};
const load = (frame, act) => new Promise(done => { frame.onload = () => done(frame.contentDocument); act(); });
(async () => {
  for (const width of [1280, 400]) {
    const frame = document.createElement("iframe");
    frame.style = `width:${width}px;height:900px;border:0`;
    document.body.append(frame);
    for (const page of pages) {
      const doc = await load(frame, () => { frame.src = "/" + page; });
      for (const image of doc.images)
        if (!image.complete || !image.naturalWidth) result.bad.push([width, page, image.src]);
      const wide = doc.documentElement.scrollWidth;
      if (wide > width) result.bad.push([width, page, wide]);
    }
    let doc = await load(frame, () => { frame.src = "/index.html"; });
    for (const [words, part] of [["ferplus", "/dataset/"], ["03_open_set_detection", "/runs/"]]) {
      const link = [...doc.links].find(a => a.textContent === words && a.href.includes(part));
      doc = await load(frame, () => link.click());
      result.clicked.push([width, doc.location.pathname, doc.querySelector("h1").textContent.trim()]);
    }
    frame.remove();
  }
  document.getElementById("out").textContent = JSON.stringify(result);
})();
</script>"""


def browse(folder, pages, tmp_path):
    """What a browser finds: (result of LOOK, console lines, addresses that were asked for and not there)."""
    missing = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def send_error(self, code, *rest, **more):
            missing.append(self.path)
            super().send_error(code, *rest, **more)

    (folder / "look.html").write_text(LOOK % json.dumps(pages), encoding="utf-8")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/look.html"
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=120000", "--window-size=1400,1000",
                   "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--enable-logging=stderr", "--dump-dom",
                   address]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        server.shutdown()
    found = re.search(r'<pre id="out">(\{.*?\})</pre>', done.stdout, re.DOTALL)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return found and json.loads(found[1]), console, missing


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: the pages were not opened in a browser")
def test_in_a_browser_at_two_widths(made, tmp_path):
    pages = sorted(pages_of(made))
    result, console, missing = browse(made, pages, tmp_path)
    assert result is not None, console
    assert console == [] and missing == [] and result["bad"] == []
    # nbconvert puts a link to itself behind each heading, with a mark that some versions show.
    clicked = [(width, path.rpartition("/")[2], title.rstrip("¶")) for width, path, title in result["clicked"]]
    assert clicked == [
        (width, *step) for width in (1280, 400) for step in (
            ("ferplus.html", "dataset: ferplus"),
            ("03_open_set_detection.2_posthoc.aligned.default.html", "Run"))]  # fmt: skip


@pytest.mark.skipif(BROWSER is None, reason="no chromium here: the pages were not opened in a browser")
def test_the_look_above_sees_missing_pictures_errors_and_pages_that_are_too_wide(made, tmp_path):
    made = shutil.copytree(made, tmp_path / "site")
    text = '<h1>bad</h1><img src="no.png"><script>undefined_name()</script><div style="width:900px">wide</div>'
    (made / "bad.html").write_text(text)
    result, console, missing = browse(made, ["bad.html"], tmp_path)
    assert [bad[0] for bad in result["bad"]] == [1280, 400, 400]
    assert any("undefined_name" in line for line in console) and set(missing) == {"/no.png"}
