"""The tidy table: rebuilt byte for byte, merged by key, and never mixing synthetic rows with the paper's numbers."""

import json
import os

import pandas as pd
import pytest
from test_eligibility import starts

from fer_openset import metrics, report
from fer_openset.errors import UserError

ROW = {
    **{"dataset": "ferplus", "preset": "paper", "open_classes": "surprise", "alignment": "aligned"},
    **{"method": "msp", "variant": "default", "seed": 0, "n_known": 3075, "n_open": 4006},
    **{"auroc": 0.669123456789, "auroc_lo": 0.65, "auroc_hi": 0.68, "fpr_at_tpr95": 0.9, "fpr_at_tpr95_open": 0.8},
    **{"aupr_open": 0.7, "oscr": 0.6, "closed_accuracy": 0.8012345678, "seconds": 12.3456, "peak_mb": 901.26},
    **{"device": "cpu", "commit": "12e4567"},  # a commit that a careless reader takes for a number
    "f_close": "0e1234567890",
}


def frame(*changes):
    return pd.DataFrame([ROW | change for change in changes], columns=list(report.RUN_COLUMNS))


def save(folder, text=None, **change):
    row = ROW | change
    parts = (row["dataset"], row["preset"], row["open_classes"], f"seed{row['seed']}", "methods", row["method"])
    path = folder.joinpath(*parts, row["alignment"], row["variant"], "run.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"row": row, "settings": {"batch": 8}}) if text is None else text)
    return path


def test_columns_are_the_contract_and_hold_what_metrics_computes():
    expected = "dataset preset open_classes alignment method variant seed n_known n_open auroc auroc_lo auroc_hi"
    rest = "fpr_at_tpr95 fpr_at_tpr95_open aupr_open oscr closed_accuracy seconds peak_mb device commit f_close"
    assert list(report.RUN_COLUMNS) == f"{expected} {rest}".split()
    found = metrics.evaluate([0.0, 1.0], [False, True], [True, False], n=2)
    assert set(found) - set(report.RUN_COLUMNS) == {"aupr_known"}


def test_no_file_is_an_empty_table(tmp_path):
    runs = report.read_runs(tmp_path / "runs.csv")
    assert runs.empty and tuple(runs.columns) == report.RUN_COLUMNS
    assert report.as_text(runs) == report.NO_RUNS
    assert report.NO_RUNS in report.as_html(report.summary_table(runs, "ferplus", "cpu"))
    assert report.compare_with_paper(runs).empty


def test_default_paths_follow_the_results_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_OPENSET_RESULTS", str(tmp_path))
    save(tmp_path / "runs")
    report.write_tables()
    assert len(report.read_runs()) == 1 and (tmp_path / "tables" / "runs.csv").exists()


def test_rebuilding_gives_the_same_bytes(tmp_path):
    runs_dir, path = tmp_path / "runs", tmp_path / "tables" / "runs.csv"
    for seed in (10, 2, 0):
        save(runs_dir, seed=seed, auroc=1 / (seed + 3), peak_mb=None, commit=None)
    first = report.write_tables(runs_dir, path)
    text = path.read_bytes()
    assert list(first["seed"]) == [0, 2, 10]
    report.write_tables(runs_dir, path)  # from runs and table
    assert path.read_bytes() == text
    report.write_tables(tmp_path / "nothing", path)  # from the committed rows alone
    assert path.read_bytes() == text
    pd.testing.assert_frame_equal(report.read_runs(path), first)
    path.unlink()
    report.write_tables(runs_dir, path)  # from the runs alone
    assert path.read_bytes() == text
    assert os.listdir(path.parent) == ["runs.csv"]


def test_values_survive_the_file(tmp_path):
    path = tmp_path / "runs.csv"
    save(tmp_path / "runs")
    report.write_tables(tmp_path / "runs", path)
    row = report.read_runs(path).iloc[0]
    assert (row["auroc"], row["seconds"], row["peak_mb"]) == (0.669123, 12.3, 901.3)
    assert row["commit"] == "12e4567" and row["f_close"] == "0e1234567890" and row["seed"] == 0


def test_runs_and_tables_of_before_f_close_was_recorded_are_read(tmp_path):
    path, row = tmp_path / "runs.csv", {name: value for name, value in ROW.items() if name != "f_close"}
    pd.DataFrame([row | {"seed": 1}]).to_csv(path, index=False)
    save(tmp_path / "runs", json.dumps({"row": row}))
    assert list(report.write_tables(tmp_path / "runs", path)["f_close"]) == ["", ""]
    assert list(report.read_runs(path)["f_close"]) == ["", ""]


def test_pools_with_runs_of_several_f_close_are_told():
    one = frame({}, {"method": "energy"}, {"seed": 1, "f_close": ""}, {"dataset": "rafdb", "f_close": "b"})
    assert report.mixed_pools(one) == [] and report.mixed_pools(one[:0]) == []
    (told,) = report.mixed_pools(frame({}, {"method": "energy", "f_close": ""}, {"method": "odin", "f_close": ""}))
    assert (
        told == "ferplus paper surprise 0: not all from one f_close: one not recorded (2 runs), 0e1234567890 (1 runs)."
    )


def test_new_rows_replace_committed_ones_by_key():
    committed = frame({"auroc": 0.1, "device": "a"}, {"seed": 1, "auroc": 0.2}, {"method": "energy", "auroc": 0.3})
    found = frame({"auroc": 0.9, "device": "b"}, {"alignment": "as_released", "auroc": 0.8})
    merged = report.merge_runs(committed, found)
    assert list(merged["auroc"]) == [0.3, 0.9, 0.2, 0.8]
    assert list(merged["device"]) == ["cpu", "b", "cpu", "cpu"]
    pd.testing.assert_frame_equal(report.merge_runs(merged, found[::-1]), merged)


def test_collecting_leaves_out_smoke_and_unfinished_runs(tmp_path):
    save(tmp_path)
    save(tmp_path, preset="smoke")
    save(tmp_path, dataset="synthetic", preset="demo")
    save(tmp_path, method="energy").unlink()  # killed before its last write
    closed = tmp_path / "ferplus/paper/surprise/seed0/closed_set/run.json"
    closed.parent.mkdir()
    closed.write_text("{}")
    found = report.collect_runs(tmp_path)
    assert sorted(found["preset"]) == ["demo", "paper"]


def test_f_closes_predictions_never_stand_for_those_of_a_classifier_in_its_place(tmp_path):
    """Runs of earlier versions: their rows hold f_close's OSCR and closed accuracy."""
    for method in ("eow", "proser", "dias", "msp"):
        save(tmp_path / "runs", method=method)
    told = save(tmp_path / "runs", method="eow", seed=1)
    (told.parent / "predictions.csv").touch()
    report.write_tables(tmp_path / "runs", tmp_path / "runs.csv")
    runs = report.read_runs(tmp_path / "runs.csv").set_index(["method", "seed"])
    empty = runs[["oscr", "closed_accuracy"]].isna().all(axis=1)
    assert empty.to_dict() == {("dias", 0): True, ("eow", 0): True, ("eow", 1): False, ("msp", 0): False,
                               ("proser", 0): True}  # fmt: skip
    assert runs["auroc"].notna().all() and "nan" not in report.as_text(runs.reset_index())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"row": 3}', '{"row": {"dataset": "x"}}'])
def test_a_damaged_run_is_named(tmp_path, text):
    path = save(tmp_path, text)
    with pytest.raises(UserError, match="delete its folder and run it again") as found:
        report.collect_runs(tmp_path)
    assert str(path) in str(found.value) and "\n" not in str(found.value)


def test_two_folders_with_the_same_run_are_refused(tmp_path):
    save(tmp_path / "a")
    save(tmp_path / "b")
    with pytest.raises(UserError, match="the same run as"):
        report.collect_runs(tmp_path)


def test_damaged_tables_are_named(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("dataset,preset\nferplus,cpu\n")
    with pytest.raises(UserError, match=r"runs.csv: column\(s\) open_classes, "):
        report.read_runs(path)
    path.write_text("")
    with pytest.raises(UserError, match="not readable as CSV"):
        report.read_runs(path)
    frame({"auroc": "high"}).to_csv(path, index=False)
    with pytest.raises(UserError, match="column auroc holds something that is not a number"):
        report.read_runs(path)
    frame({"seed": None}).to_csv(path, index=False)
    with pytest.raises(UserError, match="column seed holds"):
        report.read_runs(path)


def test_summarise_averages_seeds_only():
    runs = frame({"auroc": 0.6}, {"auroc": 0.8, "seed": 1, "auroc_lo": 0.75, "auroc_hi": 0.88}, {"method": "energy"})
    energy, msp = report.summarise(runs).itertuples()
    assert (msp.n, msp.mean, msp.lo, msp.hi) == pytest.approx((2, 0.7, 0.7, 0.78))
    assert msp.sd == pytest.approx(0.02**0.5)  # two values 0.2 apart, n - 1 = 1
    assert energy.n == 1 and pd.isna(energy.sd)
    runs.loc[1, "oscr"] = float("nan")  # a seed without a value is not counted
    assert report.summarise(runs, "oscr")["n"].tolist() == [1, 1]
    assert report.summarise(runs, "oscr")["lo"].isna().all()  # only AUROC has an interval
    with pytest.raises(UserError, match="did you mean 'auroc'"):
        report.summarise(runs, "auorc")


def test_summaries_go_by_dataset_then_expression():
    runs = frame(*({"dataset": d, "open_classes": c} for c in ("fear+surprise", "anger", "surprise") for d in "ba"))
    table = report.summarise(runs)
    assert list(table["dataset"]) == list("aaabbb")
    assert list(table["open_classes"]) == ["surprise", "anger", "fear+surprise"] * 2


def test_summary_table_is_method_by_open_class():
    released = {"open_classes": "fear", "alignment": "as_released"}
    runs = frame({}, released, {"open_classes": "fear+surprise"}, {"seed": 1})
    other = frame({"dataset": "rafdb"}, {"preset": "cpu"}, {"dataset": "synthetic"})
    table = report.summary_table(pd.concat([runs, other]), "ferplus", "paper")
    assert list(table.columns) == ["surprise", "fear", "fear+surprise"]
    assert list(table.index) == [("msp", "aligned", "default"), ("msp", "as_released", "default")]
    assert list(table.iloc[0]) == ["0.669 ± 0.000 (2 seeds)", "", "0.669 [0.650, 0.680]"]
    numbers = report.summary_table(runs, "ferplus", "paper", text=False)
    assert numbers.loc[("msp", "as_released", "default"), "fear"] == pytest.approx(ROW["auroc"])


def test_html_bolds_the_best_of_each_alignment_and_escapes():
    runs = frame(
        {"auroc": 0.6},
        {"auroc": 0.7, "method": "energy"},
        {"auroc": 0.9, "alignment": "as_released"},
        {"auroc": 0.8, "alignment": "as_released", "method": "<script>"},
    )
    table = report.summary_table(runs, "ferplus", "paper")
    page = report.as_html(table, best="max")
    assert page.count("<b>") == 2 and "<b>0.700 [" in page and "<b>0.900 [" in page
    low = report.as_html(table, best="min")
    assert low.count("<b>") == 2 and "<b>0.600 [" in low and "<b>0.800 [" in low
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "<b>" not in report.as_html(table)
    with pytest.raises(UserError, match="best"):
        report.as_html(table, best="largest")


def test_the_oracle_is_shown_and_never_the_best():
    runs = frame({"auroc": 0.7}, {"auroc": 0.6, "method": "energy"}, {"auroc": 0.9, "method": "oracle"})
    page = report.as_html(report.summary_table(runs, "ferplus", "paper"), best="max")
    assert "0.900 [" in page and "<b>0.700 [" in page and page.count("<b>") == 1


def test_other_pools_and_settings_that_read_the_truth_are_never_the_best():
    others = [{"auroc": 0.9, "variant": v} for v in ("pool_open_10", "oracle_one_label", "single_net")]
    runs = frame({"auroc": 0.7}, {"auroc": 0.6, "method": "energy"}, *others)
    page = report.as_html(report.summary_table(runs, "ferplus", "paper"), best="max")
    assert page.count("0.900 [") == 3 and "<b>0.700 [" in page and page.count("<b>") == 1


def test_bold_needs_a_rival_and_an_online_form_is_none():
    online = {"method": "pool_novelty_online", "auroc": 0.9}
    alone = frame({"auroc": 0.7}, online, {"method": "oracle", "auroc": 0.95}, {"alignment": "as_released"})
    assert "<b>" not in report.as_html(report.summary_table(alone, "ferplus", "paper"), best="max")
    both = frame(
        {"auroc": 0.7}, online, {"method": "energy", "auroc": 0.6, "open_classes": "fear"}, {"method": "energy"}
    )
    page = report.as_html(report.summary_table(both, "ferplus", "paper"), best="max", missing="–")
    assert page.count("<b>") == 1 and "<b>0.700 [" in page and page.count("<td>–</td>") == 2


def test_text_keeps_synthetic_and_real_apart():
    runs = frame({}, {"method": "noisy_label"}, {"dataset": "synthetic", "preset": "demo", "auroc": 0.5})
    real, synthetic = report.as_text(runs).split("\n\n")
    assert real.splitlines()[0] == "ferplus, preset paper" and synthetic.splitlines()[0] == "synthetic, preset demo"
    assert real.splitlines()[2].split() == "surprise msp aligned default 0.669 [0.650, 0.680] 0.900 0.801".split()
    assert real.splitlines()[3].startswith(" ") and "0.500" not in real
    assert len({line.index("align") for line in real.splitlines()[1:]}) == 1


def test_targets_are_the_committed_ones_and_agree_with_themselves():
    published = report.targets()
    value = published.set_index(["table", "dataset", "open_classes", "method", "metric"])["value"]
    assert value["1", "rafdb", "surprise", "noisy_label", "auroc"] == 0.918
    single = published[published["open_classes"] != "mean"]
    assert (single.groupby(["dataset", "open_classes", "method", "metric"])["value"].nunique() == 1).all()


def test_targets_file_problems(tmp_path):
    with pytest.raises(UserError, match="restore it"):
        report.targets(tmp_path / "no.csv")
    (tmp_path / "t.csv").write_text("table,dataset\n")
    with pytest.raises(UserError, match="open_classes"):
        report.targets(tmp_path / "t.csv")


PUBLISHED = pd.DataFrame(
    [("1", "ferplus", "surprise", "msp", m, v) for m, v in (("auroc", 0.7), ("fpr_at_tpr95", 0.7))]
    + [("1", name, "surprise", "msp", "auroc", 0.7) for name in ("cifar10", "affectnet")]
    + [("1", "ferplus", "mean", "msp", "auroc", 0.1), ("4", "ferplus", "surprise", "msp", "auroc", 0.7)],
    columns=["table", "dataset", "open_classes", "method", "metric", "value"],
).assign(kind="paper")
# What f_close started from; a run that is missing is unknown.
VARIANTS = pd.concat([starts("ferplus"), starts("rafdb"), starts("cifar10", settings={"init": "scratch"})])


def test_what_the_authors_notebook_printed_is_no_published_value():
    printed = PUBLISHED.assign(kind="official_output")
    compared = report.compare_with_paper(frame({"auroc": 0.7}), published=printed, variants=VARIANTS)
    assert compared["verdict"].tolist() == ["no published value"]


def test_a_count_has_no_best():
    table = pd.DataFrame({"auroc": [0.9, 0.8], "n": [2, 5]}, index=pd.Index(["a", "b"], name="name"))
    assert report.as_html(table, best="max").count("<b>") == 2
    shown = report.as_html(table, best="max", plain=("n", "absent"))
    assert "<b>0.900</b>" in shown and shown.count("<b>") == 1


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"auroc": 0.71, "auroc_lo": 0.705, "auroc_hi": 0.72}, "match"),
        ({"auroc": 0.69, "auroc_lo": 0.68, "auroc_hi": 0.695}, "match"),
        ({"auroc": 0.75, "auroc_lo": 0.69, "auroc_hi": 0.80}, "match"),
        ({"auroc": 0.72, "auroc_lo": 0.711, "auroc_hi": 0.73}, "better"),
        ({"auroc": 0.68, "auroc_lo": 0.67, "auroc_hi": 0.689}, "worse"),
        ({"auroc": 0.7, "preset": "cpu"}, "not comparable (preset cpu)"),
        ({"auroc": 0.7, "variant": "scratch"}, "not comparable (variant scratch)"),
        ({"auroc": 0.7, "dataset": "cifar10"}, "not comparable (f_close started from random weights)"),
        (
            {"auroc": 0.7, "dataset": "affectnet"},
            "not comparable (f_close of this open class and seed has no record)",
        ),
        ({"auroc": 0.7, "method": "energy"}, "no published value"),
        ({"auroc": 0.7, "dataset": "rafdb"}, "no published value"),
    ],
)
def test_verdict(change, verdict):
    compared = report.compare_with_paper(frame(change), published=PUBLISHED, variants=VARIANTS)
    assert len(compared) == 1 and compared["verdict"][0] == verdict and compared["alignment"][0] == "aligned"


def test_verdict_knows_that_a_low_fpr_is_good():
    runs = frame({"fpr_at_tpr95": 0.5}, {"fpr_at_tpr95": 0.8, "alignment": "as_released"})
    compared = report.compare_with_paper(runs, "fpr_at_tpr95", PUBLISHED, VARIANTS).set_index("alignment")
    assert compared["verdict"].to_dict() == {"aligned": "better", "as_released": "worse"}


def test_comparison_never_shows_synthetic_smoke_or_demo():
    runs = frame({}, {"dataset": "synthetic", "seed": 1}, {"preset": "demo", "seed": 2}, {"preset": "smoke", "seed": 3})
    compared = report.compare_with_paper(runs, variants=VARIANTS)
    assert len(compared) == 1 and compared["n"][0] == 1
    assert compared["published"][0] == 0.406 and compared["verdict"][0] == "better"


def test_drawn_faces_are_told_by_their_reader(monkeypatch):
    readers = {"hard": "synthetic", "mine": "folder"}

    def values(name, preset):
        if name not in readers:
            raise UserError("no such file")
        return readers[name], {}

    monkeypatch.setattr(report, "dataset_values", values)
    runs = frame(*({"dataset": name} for name in ("hard", "mine", "gone", "synthetic")))
    assert report.real_runs(runs)["dataset"].tolist() == ["mine", "gone"]


def test_methods_side_by_side_stand_on_the_same_seeds():
    def row(method, seed, open_classes="surprise"):
        return {"dataset": "d", "preset": "demo", "open_classes": open_classes, "method": method, "seed": seed}

    rows = [
        row("msp", 0),
        row("msp", 1),
        row("msp", 2),
        row("pool_novelty", 0),
        row("oracle", 0),
        row("msp", 7, "fear"),
    ]
    kept = report.same_seeds(pd.DataFrame(rows))
    assert kept[["open_classes", "method", "seed"]].to_numpy().tolist() == [
        ["surprise", "msp", 0], ["surprise", "pool_novelty", 0], ["surprise", "oracle", 0], ["fear", "msp", 7],
    ]  # fmt: skip
    tied = [row("msp", 0), row("energy", 0), row("msp", 1), row("oracle", 1), row("msp", 2), row("energy", 2)]
    assert report.same_seeds(pd.DataFrame(tied))["seed"].tolist() == [0, 0, 2, 2]  # seed 1 ran others
    equal = pd.DataFrame([row(method, seed) for method in ("msp", "energy") for seed in (0, 1)])
    assert len(report.same_seeds(equal)) == 4 and report.same_seeds(equal.iloc[:0]).empty
