"""Tables of the stress study, from a small table of runs."""

import numpy as np
import pandas as pd
import pytest

from fer_openset import report, stress
from fer_openset.paper_data import by_open_share
from fer_openset.runs import RunFolder

NUMBERS = dict(
    auroc=0.9, auroc_lo=0.88, auroc_hi=0.92, fpr_at_tpr95=0.2, fpr_at_tpr95_open=0.2, aupr_open=0.9, oscr=0.7,
    closed_accuracy=0.8, seconds=1.0, peak_mb=100.0,
)  # fmt: skip


def run(method, open_classes="surprise", variant="default", n_open=50, **changes):
    keys = dict(dataset="ferplus", preset="cpu", open_classes=open_classes, alignment="aligned", method=method,
                variant=variant, seed=0, n_known=50, n_open=n_open, device="cpu", commit="abc")  # fmt: skip
    return {**keys, **NUMBERS, **changes}


RUNS = pd.DataFrame(
    [
        run("msp", auroc=0.6), run("pool_novelty", auroc=0.9), run("oracle", auroc=0.95), run("eow", auroc=0.99),
        run("msp", alignment="as_released", auroc=0.1),
        run("pool_novelty", "fear", auroc=0.7), run("oracle", "fear", auroc=0.8), run("msp", "fear", auroc=0.5),
        run("pool_novelty", "fear+anger", auroc=0.2),
        run("pool_novelty", variant="pool_open_10", n_open=5, auroc=0.85),
        run("pool_novelty", variant="pool_blur", auroc=0.4),
    ],
    columns=list(report.RUN_COLUMNS),
)  # fmt: skip


def test_means_over_single_classes_and_the_smallest_share_of_the_oracle():
    table = stress.per_class(RUNS, "ferplus", "cpu")
    assert table.index.tolist() == ["oracle", "pool_novelty", "msp"]  # aligned, default, this study's methods
    assert set(table.columns) == {"surprise", "fear", "mean", "n", "ratio"}
    ours = table.loc["pool_novelty"]
    assert ours["mean"] == pytest.approx(0.8) and ours["n"] == 2
    assert ours["ratio"] == pytest.approx(min(0.9 / 0.95, 0.7 / 0.8))


def test_rows_stand_by_the_classes_that_all_have():
    rows = [run("pool_novelty", auroc=0.8), run("pool_novelty", "fear", auroc=0.5), run("oracle", auroc=0.7)]
    table = stress.per_class(pd.DataFrame(rows, columns=list(report.RUN_COLUMNS)), "ferplus", "cpu")
    assert table.index.tolist() == ["pool_novelty", "oracle"]  # though its mean, over two classes, is the lower
    assert table["mean"].tolist() == pytest.approx([0.65, 0.7])


def test_without_the_oracle_there_is_no_ratio():
    table = stress.per_class(RUNS[RUNS["method"] != "oracle"], "ferplus", "cpu")
    assert table["ratio"].isna().all() and len(table) == 2
    assert stress.per_class(RUNS, "rafdb", "paper").empty


def test_a_row_a_pool():
    table = stress.by_pool(RUNS, "ferplus", "cpu", "surprise")
    assert table.index.tolist() == ["full", "blur", "open_10"]
    assert table.loc["open_10", "open"] == f"{5 / 55:.1%}" and table.loc["full", "images"] == "100"
    assert table.loc["open_10", "pool_novelty"].startswith("0.850 [") and table.loc["blur", "msp"] == ""
    assert "eow" not in table and stress.by_pool(RUNS, "ferplus", "cpu", "anger").empty


def test_runs_that_change_the_share_alone():
    found = by_open_share(RUNS, RunFolder("ferplus", "cpu", "surprise", 0))
    assert set(found["variant"]) == {"default", "pool_open_10"}


def test_the_papers_mean_comes_from_its_table():
    targets = report.targets()
    assert np.isclose(stress.published_mean(), 0.882) and (targets["value"] == stress.published_mean()).any()
