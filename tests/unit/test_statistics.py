"""Paired tests against simulation, ranks by hand, and tables of differences from runs on disk."""

import shutil

import numpy as np
import pandas as pd
import pytest
from test_report import frame, save

from fer_openset import metrics, statistics
from fer_openset.errors import UserError
from fer_openset.statistics import auroc_difference, over_seeds, ranks, sizes, write_differences


def pool(rng, n=300, gain=0.0):
    """Two sets of scores that share most of their noise; the first separates better by `gain`."""
    is_open = np.arange(n) % 3 == 0
    shared = rng.normal(size=n)
    first = is_open * (0.7 + gain) + shared + 0.5 * rng.normal(size=n)
    return first, is_open * 0.7 + shared + 0.5 * rng.normal(size=n), is_open


def test_difference_and_interval_agree_with_a_paired_bootstrap():
    rng = np.random.default_rng(0)
    a, b, is_open = pool(rng, gain=0.3)
    found = auroc_difference(a, b, is_open)
    assert found.value == pytest.approx(metrics.auroc(a, is_open) - metrics.auroc(b, is_open))
    sides = np.flatnonzero(is_open), np.flatnonzero(~is_open)
    draws = []
    for _ in range(800):
        i = np.concatenate([rng.choice(side, len(side)) for side in sides])
        draws.append(metrics.auroc(a[i], is_open[i]) - metrics.auroc(b[i], is_open[i]))
    assert (found.hi - found.lo) / (2 * 1.96) == pytest.approx(np.std(draws), rel=0.12)
    separate = [np.diff(metrics.bootstrap_interval("auroc", s, is_open, n=300))[0] for s in (a, b)]
    assert found.hi - found.lo < 0.8 * np.hypot(*separate)  # the pairing is worth something


def test_no_difference_is_rejected_as_often_as_it_should():
    rng = np.random.default_rng(1)
    p = [auroc_difference(*pool(rng, n=120)).p for _ in range(300)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.09
    assert auroc_difference(*pool(rng, n=3000, gain=0.5)).p < 1e-6


def test_the_same_scores_do_not_differ_and_ties_count_half():
    is_open = np.array([True, False, True, False])
    same = auroc_difference([1, 1, 1, 1], [1, 1, 1, 1], is_open)
    assert (same.value, same.lo, same.hi, same.p) == (0, 0, 0, 1)
    assert auroc_difference([2, 1, 1, 1], [1, 1, 1, 1], is_open).value == pytest.approx(0.25)


def test_other_pools_are_refused():
    scores = pd.Series([1.0, 2, 3], index=list("abc"))
    with pytest.raises(UserError, match="different sample ids"):
        auroc_difference(scores, scores[::-1], pd.Series([True, False, True], index=list("abc")))
    with pytest.raises(UserError, match="only known or only open"):
        auroc_difference(scores, scores, [True] * 3)


def run(folder, is_open, scores, **change):
    path = save(folder, dataset="synthetic", preset="demo", **change)
    scores = pd.Series(scores, index=is_open.index, name="open_score").rename_axis("sample_id")
    scores.sample(frac=1, random_state=0).to_csv(path.parent / "scores.csv")
    labels = path.parents[4] / "pseudo_labels" / "pseudo_labels.csv"
    labels.parent.mkdir(exist_ok=True)
    part = is_open.map({True: "open test", False: "closed test"}).rename("part")
    part.rename_axis("sample_id").to_csv(labels)
    return path


def test_differences_of_runs_on_disk(workplace):
    rng = np.random.default_rng(0)
    is_open = pd.Series(np.arange(60) % 2 == 0, index=[f"i{n}" for n in range(60)])
    noise = rng.normal(size=60)
    runs = workplace.results / "runs"
    given = {("msp", "aligned", "default"): 0.5, ("msp", "as_released", "default"): 0.0,
             ("noisy_label", "aligned", "default"): 1.0, ("noisy_label", "aligned", "single"): 2.0,
             ("pool_novelty", "aligned", "default"): 3.0}  # fmt: skip
    for (method, alignment, variant), gain in given.items():
        run(runs, is_open, noise + gain * is_open, method=method, alignment=alignment, variant=variant)
    part = run(runs, is_open, noise, method="msp", variant="pool_small").parent / "scores.csv"
    pd.read_csv(part)[:30].to_csv(part, index=False)  # a pool of other images is not compared
    run(runs, is_open, noise + is_open, method="msp", variant="pool_blur")  # the same ids, but other pixels
    run(runs, is_open, noise + 2 * is_open, method="msp", variant="one-pool_blur")
    save(runs, dataset="synthetic", preset="demo", method="energy")  # a record without scores is no reason to stop
    table = write_differences()
    pairs = {tuple(row[k] for k in statistics.DIFFERENCE_KEY[4:]): row["difference"] for _, row in table.iterrows()}
    default = ("aligned", "default")
    assert set(pairs) == {
        ("noisy_label", *default, "msp", *default),
        ("pool_novelty", *default, "msp", *default),
        ("pool_novelty", *default, "noisy_label", *default),
        ("msp", "as_released", "default", "msp", *default),
        ("noisy_label", "aligned", "single", "noisy_label", *default),
        ("msp", "aligned", "one-pool_blur", "msp", "aligned", "pool_blur"),
    }
    assert pairs["msp", "as_released", "default", "msp", *default] < 0
    assert all(v > 0 for k, v in pairs.items() if k[1] != "as_released")
    assert (table["n_open"] == 30).all()
    text = statistics.differences_path().read_bytes()
    write_differences()
    assert statistics.differences_path().read_bytes() == text
    row = dict(zip(statistics.DIFFERENCE_KEY, [*pool_key(table), "msp", *default, "msp", *default], strict=True))
    mixed = pd.concat([table, pd.DataFrame([{**row, "variant": "pool_blur", "difference": 0.5}])])
    mixed.to_csv(statistics.differences_path(), index=False)  # as an older version left it
    assert len(write_differences()) == len(table)
    shutil.rmtree(runs / "synthetic" / "demo" / "surprise" / "seed0" / "methods" / "msp" / "as_released")
    left = write_differences()  # one of its runs was made again, the other was not
    assert len(left) == len(table) - 1 and "as_released" not in set(left["alignment"])


def pool_key(table):
    return [table[name].iloc[0] for name in statistics.POOL]


def test_scores_of_other_images_are_named(workplace):
    is_open = pd.Series([True, False, True, False], index=list("abcd"))
    runs = workplace.results / "runs"
    run(runs, is_open, [1.0, 2, 3, 4], method="msp")
    path = run(runs, is_open, [1.0, 2, 3, 4], method="energy")
    pd.Series({"z": 1.0}, name="open_score").rename_axis("sample_id").to_csv(path.parent / "scores.csv")
    with pytest.raises(UserError, match="holds sample ids that are not in the pool"):
        write_differences()


def test_ranks_by_hand():
    values = {"a": (0.9, 0.8, 0.7), "b": (0.8, 0.9, 0.6), "c": (0.5, 0.5, 0.5)}
    rows = [{"method": m, "open_classes": c, "auroc": v, "seed": seed}
            for m, row in values.items() for c, v in zip(("fear", "anger", "surprise"), row, strict=True)
            for seed in (0, 1)]  # fmt: skip
    rows += [{"method": "oracle", "auroc": 1.0}, {"method": "a", "variant": "x", "auroc": 1.0},
             {"method": "once", "auroc": 0.99}]  # fmt: skip
    table = ranks(frame(*rows)).set_index("method")
    assert table["mean_rank"].round(4).to_dict() == {"a": 1.3333, "b": 1.6667, "c": 3.0}
    assert table["best_in"].to_dict() == {"a": 2, "b": 1, "c": 0} and (table["n_classes"] == 3).all()
    # Rank sums 4, 5, 9: chi-square 12 / (3 * 3 * 4) * (16 + 25 + 81) - 3 * 3 * 4 = 14 / 3, two degrees of freedom.
    assert table["friedman_p"].iloc[0] == pytest.approx(np.exp(-14 / 6))
    assert (table["left_out"] == "once").all() and (table["n_seeds"] == "2").all()
    assert ranks(frame()).empty


def test_ranks_count_ties_and_compare_only_what_competes():
    classes = ("fear", "anger")
    rows = [{"method": m, "open_classes": c, "auroc": v} for m, v in (("a", 0.9), ("b", 0.9), ("c", 0.1))
            for c in classes]  # fmt: skip
    rows += [{"method": "pool_novelty_online", "open_classes": c, "auroc": 1.0} for c in classes]
    rows += [{"method": "c", "open_classes": "fear+anger", "auroc": 1.0}]
    rows += [{"method": "a", "open_classes": "fear", "seed": 1, "auroc": 0.0}]  # the others did not run with it
    table = ranks(frame(*rows)).set_index("method")
    assert table["best_in"].to_dict() == {"a": 2, "b": 2, "c": 0}
    assert table["mean_rank"].to_dict() == {"a": 1.5, "b": 1.5, "c": 3.0}
    assert (table["n_classes"] == 2).all() and (table["n_seeds"] == "1").all() and (table["left_out"] == "").all()


def test_ranks_know_that_a_low_fpr_is_good():
    table = ranks(frame({"fpr_at_tpr95": 0.2}, {"method": "energy", "fpr_at_tpr95": 0.9}), "fpr_at_tpr95")
    assert table["method"].tolist() == ["msp", "energy"]


def test_seeds_of_a_difference_are_averaged():
    key = dict(zip(statistics.DIFFERENCE_KEY, ["d", "p", "fear", 0, *"mavnbw"], strict=True))
    rows = [{**key, "seed": s, "n_known": 1, "n_open": 1, "difference": d, "lo": 0, "hi": 1, "p": 0.5}
            for s, d in enumerate((0.1, 0.3))]  # fmt: skip
    (row,) = over_seeds(pd.DataFrame(rows)).itertuples()
    assert (row.mean, row.n) == (pytest.approx(0.2), 2) and row.sd == pytest.approx(0.02**0.5)


def test_every_table_can_state_its_n():
    line = sizes(frame({}, {"seed": 1}, {"open_classes": "fear", "n_open": 12}))
    assert line.startswith("n: 1 to 2 seeds") and "surprise 3,075 known + 4,006 open" in line and "fear 3,075" in line
    assert sizes(frame()) == "n: no runs yet"


def test_no_runs_and_no_table_give_an_empty_table_of_differences(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_OPENSET_RESULTS", str(tmp_path))
    table = statistics.write_differences(tmp_path / "runs")
    assert table.empty and list(table.columns) == list(statistics.DIFFERENCE_COLUMNS)
    assert not statistics.differences_path().exists()
