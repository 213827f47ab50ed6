"""The audit's report from tables alone: two by two, the page's numbers, figures, and no torch."""

import subprocess
import sys

import pandas as pd
import pytest
from test_report import frame

from fer_openset import audit, audit_figures, audit_summary, audit_tables, statistics
from fer_openset.errors import UserError
from fer_openset.settings import ROOT

BOTH = [{"method": m, "alignment": a, "auroc": v} for m, a, v in (
    ("noisy_label", "aligned", 0.59), ("noisy_label", "as_released", 0.77), ("msp", "aligned", 0.65),
    ("msp", "as_released", 0.51), ("energy", "aligned", 0.67), ("pool_novelty", "aligned", 0.96))]  # fmt: skip


def test_two_by_two_holds_what_ran_under_both_alignments():
    table = audit_tables.two_by_two(frame(*BOTH, {"method": "msp", "variant": "x", "auroc": 1.0}))
    assert table["method"].tolist() == ["msp", "noisy_label"]
    assert list(table.columns) == ["open_classes", "method", "aligned", "as_released"]
    assert table.loc[0, "aligned"].startswith("0.650 [") and table.loc[1, "as_released"].startswith("0.770 [")
    assert audit_tables.two_by_two(frame(BOTH[0])).empty and audit_tables.two_by_two(frame()).empty


def test_two_by_two_compares_no_two_networks():
    other = [
        row | {"f_close": "another"} if row["alignment"] == "aligned" else row for row in BOTH if row["method"] == "msp"
    ]
    assert audit_tables.two_by_two(frame(*BOTH[:2], *other))["method"].tolist() == ["noisy_label"]


def test_two_by_two_averages_the_same_seeds_on_both_sides():
    runs = frame({"auroc": 0.6}, {"auroc": 0.5, "alignment": "as_released"},
                 *({"auroc": 0.9, "seed": seed} for seed in (1, 2)),
                 {"auroc": 0.1, "seed": 3, "alignment": "as_released"})  # fmt: skip
    (row,) = audit_tables.two_by_two(runs).to_dict("records")
    assert row["aligned"].startswith("0.600 [") and row["as_released"].startswith("0.500 [")
    assert audit_tables.two_by_two(runs[runs["seed"] != 0]).empty


def test_the_page_carries_paired_intervals_of_the_same_seeds():
    values = ["ferplus", "paper", "surprise", 0, "msp", "as_released", "default", "msp", "aligned", "default"]
    key = dict(zip(statistics.DIFFERENCE_KEY, values, strict=True))
    rows = [{"difference": -0.14, "lo": -0.2, "hi": -0.1}, {"seed": 1, "difference": 9, "lo": 9, "hi": 9},
            {"alignment_b": "as_released", "method_b": "noisy_label", "difference": 8, "lo": 8, "hi": 8}]  # fmt: skip
    differences = pd.DataFrame([{**key, **row} for row in rows])
    labels, counts = audit_tables.read_table("audit_labels"), audit.released_counts()
    page = audit_summary.summary(counts, audit.recorded_replay(), labels, frame(*BOTH), differences, False)
    assert "msp 0.650 aligned, 0.510 as released (-0.140 [-0.200, -0.100], n = 1)" in page
    assert "noisy_label 0.590 aligned, 0.770 as released (no paired test, n = 1)" in page


def test_the_wording_of_the_first_item_follows_the_counts():
    counts, replay = audit.released_counts(), audit.recorded_replay()
    counts.loc["open train"] = counts.loc["open test"] * 4  # labels that belong to their images
    page = audit_summary.summary(counts, replay, audit_tables.read_table("audit_labels"), frame(),
                                 statistics.read_differences(), True)  # fmt: skip
    assert "are labelled like the 329 open test images" in page and "but not labelled like random training" in page
    assert "surprise open (counted here)" in page


def test_sentences_about_the_baselines_follow_the_tables():
    released = {"alignment": "as_released"}
    runs = frame({**released, "auroc": 0.4, "auroc_lo": 0.3, "auroc_hi": 0.45}, {"auroc": 0.7},
                 {**released, "method": "energy", "auroc": 0.51, "auroc_lo": 0.49, "auroc_hi": 0.53},
                 {**released, "method": "maxlogit", "auroc": 0.6, "auroc_lo": 0.55, "auroc_hi": 0.65})  # fmt: skip
    (line,) = audit_summary.baseline_lines(runs)
    assert "msp 0.400 [0.300, 0.450], below chance, n = 1" in line and "0.530], not distinguishable from chance" in line
    assert "0.650], above chance" in line and audit_summary.baseline_lines(frame()) == []
    where = {"dataset": "d", "preset": "p", "open_classes": "fear", "epochs": 2, "alignment": "as_released"}
    rows = [{**where, "method": m, "epoch": e, "auroc": 0.5 + step * e, "train_accuracy": 0.4 + 0.1 * e}
            for m, step in (("msp", -0.1), ("pseudo_label_ce", 0.1)) for e in (1, 2)]  # fmt: skip
    (line,) = audit_summary.learning_lines(pd.DataFrame(rows))
    assert "0.500 to 0.600; as released msp 0.400 to 0.300 (falls); pseudo_label_ce 0.600 to 0.700 (rises)" in line
    assert audit_summary.learning_lines(audit_tables.read_epochs()[:0]) == []


def test_the_page_says_what_the_tables_hold():
    none = statistics.read_differences()[:0]
    empty = audit_tables.read_table("audit_labels")
    counts, replay = audit.released_counts(), audit.recorded_replay()
    page = audit_summary.summary(counts, replay, empty, frame(), none, False)
    assert "chi-square 192 on 5 degrees of freedom" in page and "(chi-square 2.4, p = 0.8)" in page
    assert "Replay (as recorded).** 1,146 of 1,146" in page and page.count("no runs yet") == 2
    labels = pd.DataFrame([{**dict.fromkeys(empty.columns, 0), "dataset": "ferplus", "preset": "cpu", "alignment": a,
                            "bits": b} for a, b in (("aligned", 0.21), ("as_released", -0.003))])  # fmt: skip
    page = audit_summary.summary(counts, replay, labels, frame(*BOTH), none, True)
    assert "aligned 0.210 bits, as_released -0.003 bits" in page and "replayed here" in page
    assert "are not labelled like the 329" in page and "but labelled like random" in page
    assert "msp 0.650 aligned, 0.510 as released (no paired test, n = 1)" in page and "pool_novelty" not in page


def test_missing_tables_are_empty_with_their_columns(workplace):
    for name in audit_tables.TABLES:
        table = audit_tables.read_table(name)
        assert table.empty and "alignment" in table and "dataset" in table


def test_figures_draw_what_they_are_given():
    rows = [{"alignment": a, "method": m, "epoch": e, "auroc": 0.5 + e / 10, "train_accuracy": 0.8}
            for a in ("aligned", "as_released") for m in ("msp", "pseudo_label_ce") for e in (1, 2)]  # fmt: skip
    left, right = audit_figures.baselines_by_epoch(pd.DataFrame(rows)).axes
    assert [line.get_label() for line in left.lines][:2] == [
        "msp",
        "pseudo_label_ce",
    ] and right.get_title() == "as_released"
    sweep = pd.DataFrame([[0.5, 0.6], [0.6, 0.7]], index=[1.0, 5.0], columns=[1, 2])
    (ax,) = audit_figures.sweep_lines(sweep).axes
    assert [line.get_label() for line in ax.lines][:2] == ["1", "5"]
    running = pd.DataFrame({"seen": [2], "auroc": [1.0], "estimate": [0.5], "true_share": [0.5]})
    assert len(audit_figures.stream_panels([0.1, 0.9], [False, True], running).axes) == 2
    with pytest.raises(UserError, match="run the batch first"):
        audit_figures.sweep_lines(sweep[:0])


def test_the_report_does_not_load_torch():
    code = "import sys, fer_openset.audit, fer_openset.audit_summary, fer_openset.audit_figures, fer_openset.statistics"
    done = subprocess.run([sys.executable, "-c", code + "; sys.exit('torch' in sys.modules)"], cwd=ROOT)
    assert done.returncode == 0
