"""Tables of ablations: differences by hand, ticks that follow the settings, and sweeps from scores kept by epoch."""

import numpy as np
import pandas as pd
import pytest
from test_report import frame
from test_statistics import run

from fer_openset import ablation_report as report
from fer_openset import metrics
from fer_openset.ablations import load_ablation
from fer_openset.statistics import sizes

WHERE = {"dataset": "synthetic", "preset": "demo", "method": "noisy_label"}


def rows(*changes):
    return frame(*({**WHERE, **change} for change in changes))


def test_differences_are_taken_over_the_seeds_that_both_have():
    runs = rows({"auroc": 0.6}, {"auroc": 0.7, "seed": 1}, {"auroc": 0.9, "variant": "single_net"},
                {"auroc": 0.8, "variant": "single_net", "seed": 1}, {"auroc": 0.1, "variant": "single_net", "seed": 2},
                {"auroc": 0.4, "variant": "weight_zero", "alignment": "as_released"},
                {"auroc": 1.0, "variant": "only_attention"}, {"auroc": 1.0, "method": "msp"})  # fmt: skip
    table = report.ablation_table(runs, "controls", "synthetic", "demo")
    assert table["variant"].tolist() == ["default", "single_net", "weight_zero"]
    default, single, zero = table.itertuples()
    assert default.difference == 0 and single.difference == pytest.approx(0.2) and single.n == 3
    assert np.isnan(zero.difference) and zero.alignment == "as_released"
    assert single.changed == "nets: 1, cycle_training: False"
    assert report.ablation_table(runs, "controls", "ferplus", "demo").empty


def test_ticks_follow_the_settings():
    variants = ["default", *load_ablation("table5").variants]
    table = report.table5(rows(*({"variant": v} for v in variants)), "synthetic", "demo").set_index("variant")
    assert len(table) == 8
    ticks = table[["attention", "LR cycle", "cycle training"]].agg("".join, axis=1)
    assert ticks["default"] == "✓✓✓" and ticks["none_of_three"] == "" and ticks.index[0] == "none_of_three"
    assert tuple(table.loc["attention_lr_cycle"][:3]) == ("✓", "✓", "")
    assert tuple(table.loc["only_cycle_training"][:3]) == ("", "", "✓")


def test_table_5_begins_with_the_baselines_of_each_alignment():
    runs = rows({"auroc": 0.6}, {"auroc": 0.7, "method": "msp"}, {"auroc": 0.8, "method": "pseudo_label_ce"},
                {"auroc": 0.9, "method": "energy"}, {"auroc": 0.9, "method": "msp", "open_classes": "fear"},
                {"auroc": 0.5, "method": "msp", "variant": "pool_blur"},
                {"auroc": 0.2, "alignment": "as_released", "variant": "none_of_three"},
                {"auroc": 0.3, "alignment": "as_released"},
                {"auroc": 0.1, "alignment": "as_released", "method": "msp"})  # fmt: skip
    table = report.table5(runs, "synthetic", "demo")
    assert table["method"].tolist() == ["msp", "pseudo_label_ce", "noisy_label", "msp", "noisy_label", "noisy_label"]
    assert table["difference"].tolist() == pytest.approx([0.1, 0.2, 0, -0.2, -0.1, 0])
    assert table.loc[0, "LR cycle"] == "" and table.loc[2, "LR cycle"] == "✓"
    assert report.table5(runs, "ferplus", "demo").empty


def test_the_effect_of_a_part_is_read_from_rows_that_differ_in_it_alone():
    variants = {"default": 0.9, "lr_cycle_cycle_training": 0.7, "only_attention": 0.5, "none_of_three": 0.6}
    runs = rows(*({"variant": v, "auroc": a} for v, a in variants.items()), {"method": "msp", "auroc": 0.0})
    found = report.part_effects(report.table5(runs, "synthetic", "demo")).set_index("part")
    assert found.index.tolist() == ["attention"] and found.loc["attention", "n_pairs"] == 2
    assert found.loc["attention", "difference"] == pytest.approx((0.2 - 0.1) / 2)
    assert report.part_effects(report.table5(runs[:0], "synthetic", "demo")).empty


def test_ablation_rows_are_told_from_headline_rows():
    runs = rows({}, {"variant": "single_net"}, {"variant": "single_net", "method": "msp"}, {"variant": "mine"})
    assert report.is_ablation(runs).tolist() == [False, True, False, False]
    assert report.is_ablation(runs[:0]).empty


def test_scores_kept_by_epoch_become_the_sweep(workplace):
    rng = np.random.default_rng(0)
    is_open = pd.Series(np.arange(40) % 2 == 0, index=[f"i{n}" for n in range(40)])
    expected = {}
    for variant, gain in (("r18_weight_1", 0.2), ("r18_weight_5", 1.0)):
        path = run(workplace.results / "runs", is_open, rng.normal(size=40), method="noisy_label", variant=variant)
        scores = pd.DataFrame({str(e): rng.normal(size=40) + gain * e * is_open.to_numpy() for e in (1, 2, 3)},
                              index=is_open.index)  # fmt: skip
        scores[::-1].rename_axis("sample_id").to_csv(path.parent / report.EPOCH_SCORES)
        expected[float(variant[-1])] = [metrics.auroc(scores[e].to_numpy(), is_open.to_numpy()) for e in scores]
    table = report.write_epochs()
    assert len(table) == 6
    sweep = report.sweep(report.read_epochs(), "fig5_resnet18", "synthetic", "demo")
    assert sweep.index.tolist() == [1.0, 5.0] and sweep.columns.tolist() == [1, 2, 3]
    np.testing.assert_allclose(sweep.loc[5.0], expected[5.0], atol=1e-6)
    text = report.epochs_path().read_bytes()
    report.write_epochs(workplace.results / "none")
    assert report.epochs_path().read_bytes() == text
    assert report.sweep(table, "fig5_resnet50", "synthetic", "demo").empty
    of = report.swept_runs(table, "fig5_resnet18", "synthetic", "demo")
    assert of["variant"].tolist() == ["r18_weight_1", "r18_weight_5"] and sizes(of).startswith("n: 1 seed a cell")


def test_a_run_made_again_with_fewer_epochs_leaves_none_of_the_old_ones(workplace):
    is_open = pd.Series([True, False] * 5, index=[f"i{n}" for n in range(10)])
    names = ("r18_weight_1", "r18_weight_5")
    paths = [run(workplace.results / "runs", is_open, range(10), method="noisy_label", variant=name) for name in names]
    for path, epochs in ((paths[0], 3), (paths[1], 3), (paths[0], 2)):
        scores = pd.DataFrame({str(e + 1): range(e, e + 10) for e in range(epochs)}, index=is_open.index)
        scores.rename_axis("sample_id").to_csv(path.parent / report.EPOCH_SCORES)
        table = report.write_epochs()
    assert table.groupby("variant")["epoch"].max().to_dict() == {"r18_weight_1": 2, "r18_weight_5": 3}
    assert table.equals(report.write_epochs())
