"""Tables 1 to 5 as tidy rows: published and measured meet by name, ranks and verdicts go by rule."""

import pandas as pd
import pytest
from test_eligibility import START, starts

from fer_openset import paper_tables, report, variants
from fer_openset.errors import UserError
from fer_openset.labels import BASIC

ROW = dict.fromkeys(report.RUN_COLUMNS, 0.5) | {"preset": "paper", "dataset": "ferplus", "alignment": "aligned"}
ROW |= {"variant": "default", "seed": 0, "open_classes": "surprise", "commit": "c", "device": "cpu"}


def runs_of(*changes):
    rows = [ROW | change for change in changes]
    rows = [row | {"auroc_lo": row["auroc"] - 0.01, "auroc_hi": row["auroc"] + 0.01} for row in rows]
    return pd.DataFrame(rows, columns=list(report.RUN_COLUMNS))


def variants_of(init="pretrained", **sets):
    """f_close, and noisy_label under some settings, for the run of ROW."""
    own = {method: {"init": "f_close"} for method in ("eow", "proser", "dias")}
    closed = starts(settings=START | {"init": init}, **own)
    at = dict(zip(variants.KEY[:4], ("ferplus", "paper", "surprise", "0"), strict=True)) | {"method": "noisy_label"}
    mine = [at | {"variant": v, "settings": s | {"init": "f_close"}, "weights": {}} for v, s in sets.items()]
    return pd.concat([closed, pd.DataFrame(mine, columns=closed.columns)])


def row_of(table, **keys):
    for name, value in keys.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_without_runs_all_published_values_wait():
    for number in paper_tables.TITLES:
        table = paper_tables.paper_table(number, runs_of(), variants_of())
        assert len(table) == (report.targets()["table"] == number).sum() + (number == "5")  # its row of all three parts
        assert set(table["verdict"]) == {report.NO_RUNS} and table["mean"].isna().all()


def test_ranks_and_verdicts_follow_the_numbers():
    measured = {"msp": 0.40, "eow": 0.95, "proser": 0.3, "noisy_label": 0.94, "pool_novelty": 0.99, "oracle": 1.0}
    runs = runs_of(*({"method": m, "auroc": v} for m, v in measured.items()))
    table = paper_tables.paper_table("1", runs, variants_of(default={}))
    found = {m: row_of(table, dataset="ferplus", open_classes="surprise", method=m, metric="auroc") for m in measured}
    assert {m: r["verdict"] for m, r in found.items()} == {
        "msp": "match", "eow": "better", "proser": "worse", "noisy_label": "match",
        "pool_novelty": "no published value", "oracle": "no published value"}  # fmt: skip
    ranks = {m: (r["rank_published"], r["rank_measured"]) for m, r in found.items()}
    assert ranks["eow"] == ("4 of 5", "1 of 4") and ranks["noisy_label"] == ("1 of 5", "2 of 4")
    assert ranks["msp"] == ("5 of 5", "3 of 4") and ranks["pool_novelty"] == ("", "")


def test_a_low_false_positive_rate_ranks_first():
    runs = runs_of({"method": "msp", "fpr_at_tpr95": 0.2, "dataset": "rafdb"},
                   {"method": "eow", "fpr_at_tpr95": 0.6, "dataset": "rafdb"})  # fmt: skip
    table = paper_tables.paper_table("1", runs, variants_of())
    msp = row_of(table, dataset="rafdb", open_classes="surprise", method="msp", metric="fpr_at_tpr95")
    assert (msp["rank_published"], msp["rank_measured"]) == ("5 of 5", "1 of 2")
    assert msp["verdict"] == "not comparable (f_close of this open class and seed has no record)"


def test_weights_from_nothing_are_not_comparable():
    table = paper_tables.paper_table("1", runs_of({"method": "msp"}), variants_of(init="scratch"))
    verdict = row_of(table, dataset="ferplus", open_classes="surprise", method="msp", metric="auroc")["verdict"]
    assert verdict == "not comparable (f_close started from random weights)"


def test_the_mean_needs_every_open_class():
    some = [{"method": "msp", "open_classes": c, "auroc": 0.4 + i / 10} for i, c in enumerate(BASIC[:6])]
    every = [*some, {"method": "msp", "open_classes": "neutral", "auroc": 0.4}]
    for rows, value in ((some, None), (every, (0.4 + 0.5 + 0.6 + 0.7 + 0.8 + 0.9 + 0.4) / 7)):
        table = paper_tables.paper_table("1", runs_of(*rows), variants_of())
        mean = row_of(table, dataset="ferplus", open_classes="mean", method="msp", metric="auroc")
        assert mean["mean"] == pytest.approx(value) if value else pd.isna(mean["mean"])
        assert mean["published"] == 0.424


def test_synthetic_rows_and_small_presets_stay_out():
    rows = [{"method": "msp", "dataset": "synthetic"}, {"method": "msp", "preset": "demo"}]
    table = paper_tables.paper_table("1", runs_of(*rows), variants_of())
    assert table["mean"].isna().all() and "synthetic" not in set(table["dataset"])


def test_table_5_goes_by_settings_not_by_names():
    full = {"attention": True, "schedule": "cycle", "cycle_training": True, "lr": 1.0}
    sets = {"default": full, "odd_name": {**full, "cycle_training": False}, "none": {**full, "lr": 2.0},
            "first": {**full, "cycle_training": False, "schedule": "exponential"}}  # fmt: skip
    runs = runs_of(*({"method": "noisy_label", "variant": v, "auroc": 0.5 + i / 10} for i, v in enumerate(sets)))
    table = paper_tables.paper_table("5", runs, variants_of(**sets))
    shown = table[table["dataset"] == "ferplus"].set_index("method")["mean"]
    assert shown.to_dict() == pytest.approx(
        {"attention+cycle_lr+cycle_training": 0.5, "attention+cycle_lr": 0.6, "attention": 0.8}
    )


def test_table_5_leaves_out_other_pools_and_other_ways_to_switch_a_part_off():
    full = {"attention": True, "schedule": "cycle", "cycle_training": True}
    sets = {"default": full, "off": {**full, "attention": False}, "off-pool_open_10": {**full, "attention": False},
            "constant": {**full, "schedule": "constant"}}  # fmt: skip
    runs = runs_of(*({"method": "noisy_label", "variant": v, "auroc": 0.5 + i / 10} for i, v in enumerate(sets)))
    table = paper_tables.paper_table("5", runs, variants_of(**sets))
    shown = table[table["dataset"] == "ferplus"].set_index("method")
    assert shown["mean"].to_dict() == pytest.approx(
        {"attention+cycle_lr+cycle_training": 0.5, "cycle_lr+cycle_training": 0.6}
    )
    assert (shown["n"] == 1).all()


def test_ranks_compare_the_seeds_that_all_ran():
    runs = runs_of(
        {"method": "msp", "auroc": 0.5}, {"method": "msp", "auroc": 0.9, "seed": 1}, {"method": "eow", "auroc": 0.6}
    )
    table = paper_tables.paper_table("1", runs, variants_of(default={}))
    found = {
        m: row_of(table, dataset="ferplus", open_classes="surprise", method=m, metric="auroc") for m in ("msp", "eow")
    }
    assert {m: (r["mean"], r["rank_measured"]) for m, r in found.items()} == {
        "msp": (0.7, "2 of 2"),
        "eow": (0.6, "1 of 2"),
    }


def test_a_mean_without_a_class_on_the_same_seeds_has_no_rank():
    every = [{"method": m, "open_classes": c, "auroc": v} for m, v in (("msp", 0.5), ("eow", 0.6)) for c in BASIC]
    apart = [{**row, "seed": int(row["method"] == "msp" and row["open_classes"] == "surprise")} for row in every]
    for rows, ranked in ((every, "2 of 2"), (apart, "")):
        table = paper_tables.paper_table("1", runs_of(*rows), variants_of(default={}))
        row = row_of(table, dataset="ferplus", open_classes="mean", method="msp", metric="auroc")
        assert row["mean"] == pytest.approx(0.5) and row["rank_measured"] == ranked


def test_table_3_shows_stand_ins_of_other_datasets():
    rows = [{"method": "msp", "open_classes": name} for name in ("contempt", "ambiguous", "surprise")]
    table = paper_tables.paper_table("3", runs_of(*rows), variants_of())
    assert set(table[table["dataset"] == "ferplus"]["open_classes"]) == {"contempt", "ambiguous"}


def test_table_5_has_the_whole_method_from_table_1():
    table = paper_tables.paper_table("5", runs_of(), variants_of()).set_index("method")["published"]
    assert table.to_dict() == {"msp": 0.517, "attention": 0.885, "attention+cycle_lr": 0.912, paper_tables.FULL: 0.918}


def test_table_4_has_offline_and_online_forms_only():
    methods = ["msp", "noisy_label", "noisy_label_online", "pool_novelty", "pool_novelty_online", "oracle"]
    table = paper_tables.paper_table("4", runs_of(*({"method": m} for m in methods)), variants_of())
    assert set(table[table["dataset"] == "ferplus"]["method"]) == {*methods[1:]}
    assert set(table["rank_measured"]) == {""}  # of the paper's methods noisy_label is alone here


def test_the_rows_of_table_5_rank_among_themselves():
    full = {"attention": True, "schedule": "cycle", "cycle_training": True}
    sets = {"default": full, "single": {**full, "cycle_training": False}}
    runs = runs_of({"method": "msp", "auroc": 0.4}, {"method": "noisy_label", "auroc": 0.6},
                   {"method": "noisy_label", "variant": "single", "auroc": 0.7})  # fmt: skip
    table = paper_tables.paper_table("5", runs, variants_of(**sets))
    ranks = table[table["dataset"] == "ferplus"].set_index("method")["rank_measured"].to_dict()
    assert ranks == {"msp": "3 of 3", "attention+cycle_lr": "1 of 3", paper_tables.FULL: "2 of 3"}
    printed = table[table["published"].notna()].set_index("method")["rank_published"].to_dict()
    assert printed == {paper_tables.FULL: "1 of 4", "attention+cycle_lr": "2 of 4", "attention": "3 of 4",
                       "msp": "4 of 4"}  # fmt: skip
    alone = paper_tables.paper_table("5", runs[:1], variants_of(**sets))
    assert set(alone["rank_measured"]) == {""}


def test_two_seeds_keep_their_spread():
    runs = runs_of({"method": "msp", "auroc": 0.6}, {"method": "msp", "auroc": 0.8, "seed": 1})
    row = next(paper_tables.paper_table("1", runs, variants_of()).dropna(subset="mean").itertuples())
    assert report.cell(row) == "0.700 ± 0.141 (2 seeds)" and row.n == 2


def test_an_unknown_table_is_named():
    with pytest.raises(UserError, match="table of the paper"):
        paper_tables.paper_table("9", runs_of(), variants_of())
