"""Tables 1 to 5 to be read: the paper's rows and columns, pairs side by side, bold by rule, whole lines of LaTeX."""

import re

import pandas as pd
import pytest
from test_paper_tables import runs_of, variants_of

from fer_openset import paper_shape, paper_tables, report
from fer_openset.labels import BASIC
from fer_openset.table_markup import DASH, Shape, as_html, as_latex

MEASURED = {"msp": 0.61, "noisy_label": 0.72, "energy": 0.99, "pool_novelty": 0.8, "oracle": 0.995}


def shapes_of(number, *changes):
    return paper_shape.paper_shapes(
        number, paper_tables.paper_table(number, runs_of(*changes), variants_of(default={}))
    )


def named(shapes, *words):
    (found,) = [shape for shape in shapes if all(word in shape.title for word in words)]
    return found


def bold_of(shape, row, kind="measured"):
    return [head for head, k in shape.cells.columns if k == kind and shape.best.loc[row, (head, k)]]


def test_table_1_pairs_published_and_measured_by_open_class():
    shape = named(shapes_of("1", *({"method": m, "auroc": v} for m, v in MEASURED.items())), "FERPlus")
    assert list(shape.cells.index) == [*BASIC, "mean"]
    pairs = [(m, kind) for m in report.PAPER_METHODS for kind in ("published", "measured")]
    assert list(shape.cells.columns) == [*pairs, ("pool_novelty", "measured"), ("oracle", "measured")]
    row = shape.cells.loc["surprise"]
    assert (row["msp", "published"], row["msp", "measured"]) == ("0.406", "0.610 [0.600, 0.620]")
    assert row["eow", "measured"] == shape.cells.loc["mean", ("msp", "measured")] == DASH
    assert not shape.cells.isin(["", "nan", "0.000"]).any(axis=None)
    assert bold_of(shape, "surprise") == ["pool_novelty"]
    assert bold_of(shape, "surprise", "published") == ["noisy_label"]
    assert "not comparable" not in shape.note and "better: 1" in shape.note and "worse: 1" in shape.note


def test_rafdb_prints_both_metrics_and_says_that_one_has_no_interval():
    shapes = shapes_of("1")
    auroc, fpr = (named(shapes, "RAF-DB", unit) for unit in ("AUROC", "FPR@TPR95"))
    assert len(shapes) == 3 and "no runs yet" in fpr.title  # the paper has no FPR for FERPlus
    assert "No intervals: only AUROC" in fpr.note and "95 % bootstrap interval" in auroc.note
    assert bold_of(fpr, "anger", "published") == ["noisy_label"]  # the lowest: 0.684
    assert set(fpr.cells.xs("measured", axis=1, level=1).to_numpy().ravel()) == {DASH}


def test_alone_is_not_best():
    shape = named(shapes_of("1", {"method": "msp"}, {"method": "oracle", "auroc": 0.9}), "FERPlus")
    assert bold_of(shape, "surprise") == []


def test_as_released_labels_are_no_headline():
    runs = {"method": "msp", "auroc": 0.6}, {"method": "msp", "auroc": 0.7, "alignment": "as_released"}
    table = paper_tables.paper_table("1", runs_of(*runs), variants_of())
    assert "0.700" not in "".join(map(as_html, paper_shape.paper_shapes("1", table)))
    longer = [s for s in paper_shape.all_methods("1", table) if "AUROC" in s.title]
    assert [("aligned" in s.title, "as released" in s.title) for s in longer] == [(True, False), (False, True)]


def test_presets_have_a_table_each_and_synthetic_faces_none():
    runs = {"method": "msp"}, {"method": "msp", "preset": "cpu"}, {"method": "msp", "dataset": "synthetic"}
    titles = [shape.title for shape in shapes_of("1", *runs, {"method": "msp", "preset": "smoke"})]
    assert [("preset cpu" in t, "preset paper" in t) for t in titles if "FERPlus" in t] == [
        (True, False),
        (False, True),
    ]
    assert len(titles) == 4 and not any("synthetic" in t or "smoke" in t for t in titles)


def test_table_3_has_two_rows_and_stand_ins_their_own_table():
    (paper,) = shapes_of("3")
    assert list(paper.cells.index) == ["rafdb_compound", "affectnet"] and "Compound &" in as_latex(paper)
    runs = {"method": "msp", "open_classes": "contempt", "auroc": 0.66}, {"method": "msp", "dataset": "affectnet"}
    shapes = shapes_of("3", *runs, {"method": "msp", "dataset": "affectnet", "open_classes": "contempt", "auroc": 0.55})
    ferplus, paper = named(shapes, "FERPlus"), named(shapes, "Table 3, AUROC")
    assert ferplus.cells.loc["contempt", ("msp", "measured")].startswith("0.660") and len(ferplus.cells) == 2
    assert not any(kind == "published" for _, kind in ferplus.cells.columns)
    assert paper.cells.loc["affectnet", ("msp", "measured")].startswith("0.550")


def test_online_forms_compete_in_table_4_only():
    runs = [{"method": m, "auroc": v} for m, v in (("pool_novelty", 0.8), ("pool_novelty_online", 0.9), ("msp", 0.7))]
    assert bold_of(named(shapes_of("4", *runs), "FERPlus"), "surprise") == ["pool_novelty_online"]
    table = paper_tables.paper_table("1", runs_of(*runs), variants_of())
    longer = named(paper_shape.all_methods("1", table), "AUROC")
    assert list(longer.best.index[longer.best.iloc[:, 0]]) == ["pool_novelty"]
    rafdb = named(shapes_of("4"), "RAF-DB")
    assert list(rafdb.cells.columns)[:4] == [
        (m, kind) for m in ("noisy_label", "noisy_label_online") for kind in ("published", "measured")
    ]
    assert rafdb.cells.loc["mean", ("noisy_label_online", "published")] == "0.883"


def test_table_5_ticks_the_parts():
    shape = named(shapes_of("5"), "RAF-DB")
    assert ["".join(key[1:]) for key in shape.cells.index] == ["", "✓", "✓✓", "✓✓✓"]
    assert list(shape.cells["AUROC", "published"]) == ["0.517", "0.885", "0.912", "0.918"]
    assert list(shape.best["AUROC", "published"]) == [False, False, False, True]
    assert "0.912 damaged" in shape.note and r"noisy\_label & $\surd$ & $\surd$ &  & 0.912 & --" in as_latex(shape)


def test_all_methods_show_what_ran_the_oracle_last():
    rows = [{"method": m, "auroc": v} for m, v in MEASURED.items()]
    table = paper_tables.paper_table("1", runs_of(*rows, {"method": "msp", "open_classes": "fear"}), variants_of())
    shape = named(paper_shape.all_methods("1", table), "AUROC")
    assert list(shape.cells.index) == ["msp", "noisy_label", "energy", "pool_novelty", "oracle"]
    assert [head for head, _ in shape.cells.columns] == ["surprise", "fear"]
    assert shape.cells.loc["oracle", ("fear", "")] == DASH
    assert shape.best["surprise", ""].tolist() == [False, False, True, False, False]
    assert not shape.best["fear", ""].any()
    assert paper_shape.all_methods("4", table) == []


def columns_of(line):
    """How many columns a line of a tabular fills."""
    wide = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
    return len(re.findall(r"(?<!\\)&", line)) + 1 + wide


@pytest.mark.parametrize("number", paper_tables.TITLES)
def test_every_line_of_latex_fills_its_tabular(number, workplace):
    pairs = report.targets().query("table == '2' and open_classes != 'mean'")["open_classes"].unique()
    classes = [*BASIC, *pairs, "contempt", "ambiguous"]
    rows = [{"method": m, "open_classes": c, "auroc": v} for m, v in MEASURED.items() for c in classes]
    _, shapes, longer = paper_shape.export(number, runs_of(*rows))
    text = (workplace.results / "tables" / f"table{number}.tex").read_text(encoding="utf-8")
    more = workplace.results / "tables" / f"table{number}_all.tex"
    assert more.exists() == bool(longer) == (number != "4")
    text += more.read_text(encoding="utf-8") if longer else ""
    tables = re.findall(r"\\begin\{tabular\}\{([lr|]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == len(shapes) + len(longer) == text.count(r"\begin{table*}") == text.count(r"\end{table*}")
    for spec, body in tables:
        lines = [line for line in body.splitlines() if line != r"\hline"]
        assert {columns_of(line) for line in lines} == {len(spec.replace("|", ""))} and all(
            line.endswith(r" \\") for line in lines
        )
    assert text.isascii() and not re.search(r"(?<!\\)[%#]|nan|surprise", text)


def test_latex_is_short_and_bold_where_the_screen_is(workplace):
    rows = [{"method": m, "auroc": v} for m, v in MEASURED.items()]
    table, shapes, _ = paper_shape.export("1", runs_of(*rows))
    latex = (workplace.results / "tables" / "table1.tex").read_text(encoding="utf-8")
    assert r"Sur. & 0.406 & \shortstack[r]{0.610\\{\tiny [.600,.620]}} & 0.641 & -- &" in latex
    assert r"\textbf{0.800}" in latex and r"\textbf{0.995}" not in latex and "{l|rr|rr|rr|rr|rr|r||r}" in latex
    page = as_html(named(shapes, "FERPlus"))
    assert "<b>0.800</b><br><small>[.790,&nbsp;.810]</small>" in page and "<b>0.995" not in page
    assert page.count('style="border-left') == 2 + 8 and page.count('style="border-top') == 1
    back = pd.read_csv(workplace.results / "tables" / "table1.csv", keep_default_na=False)
    assert list(back.columns) == list(paper_tables.COLUMNS) and len(back) == len(table)


def test_marks_are_escaped():
    cells = pd.DataFrame([["<5 & 6"]], index=["a_b"], columns=pd.MultiIndex.from_tuples([("50% #", "")]))
    shape = Shape("<t>", cells, cells == "", "&")
    assert "&lt;5<br><small>&amp; 6</small>" in as_html(shape) and "<t>" not in as_html(shape)
    assert r"a\_b & \shortstack[r]{<5\\{\tiny \& 6}}" in as_latex(shape) and r"50\% \#" in as_latex(shape)


def test_three_classes_stand_one_below_the_other_in_a_head():
    cells = pd.DataFrame([["0.5"]], index=["msp"], columns=pd.MultiIndex.from_tuples([("surprise+fear+disgust", "")]))
    shape = Shape("t", cells, cells == "", "")
    assert r"\shortstack{Sur.+\\Fea.+\\Dis.}" in as_latex(
        shape
    ) and "<th>surprise+<br>fear+<br>disgust</th>" in as_html(shape)
