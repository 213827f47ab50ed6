"""The audit's report from tables alone: two by two, the page's numbers, figures, and no torch."""

import subprocess
import sys

import pandas as pd
import pytest
from test_report import frame

from fer_openset import audit, audit_figures, audit_tables
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


def test_the_page_says_what_the_tables_hold():
    empty = audit_tables.read_table("audit_labels")
    counts, replay = audit.released_counts(), audit.recorded_replay()
    page = audit_tables.summary(counts, replay, empty, frame(), False)
    assert "chi-square 192 on 5 degrees of freedom" in page and "(chi-square 2.4, p = 0.80)" in page
    assert "Replay (as recorded).** 1,146 of 1,146" in page and page.count("no runs yet") == 2
    labels = pd.DataFrame([{**dict.fromkeys(empty.columns, 0), "dataset": "ferplus", "preset": "cpu", "alignment": a,
                            "bits": b} for a, b in (("aligned", 0.21), ("as_released", -0.003))])  # fmt: skip
    page = audit_tables.summary(counts, replay, labels, frame(*BOTH), True)
    assert "aligned 0.210 bits, as_released -0.003 bits" in page and "replayed here" in page
    assert "msp 0.650 aligned, 0.510 as released (n = 1)" in page and "pool_novelty" not in page


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
    code = "import sys, fer_openset.audit, fer_openset.audit_tables, fer_openset.audit_figures, fer_openset.statistics"
    done = subprocess.run([sys.executable, "-c", code + "; sys.exit('torch' in sys.modules)"], cwd=ROOT)
    assert done.returncode == 0
