"""Single images are scored as the method scores them in a pool, by networks that never saw them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import CPU, small_net, tiny_dataset

from fer_openset import closed_set, online, pipeline, runs
from fer_openset.errors import UserError
from fer_openset.methods import noisy_label, pool_novelty
from fer_openset.methods.noisy_label_online import halves
from fer_openset.settings import DetectionParameters


@pytest.fixture(autouse=True)
def place(workplace, monkeypatch):
    dataset = tiny_dataset({"train": 6, "valid": 2, "test": 4})
    monkeypatch.setattr(pipeline, "load_dataset", lambda *given, **more: dataset)
    monkeypatch.setattr(pipeline, "pick_device", lambda: CPU)
    for module in (closed_set, pool_novelty, noisy_label, online):
        monkeypatch.setattr(module, "new_net", small_net)
    return workplace


def opened(method, preset="smoke", overrides=None):
    given = {"dataset": "tiny", "open_classes": "surprise", "preset": preset, "method": method}
    if overrides:
        given |= {"overrides": overrides, "variant": "changed"}
    step = pipeline.open_step(DetectionParameters.build(given, "test"))
    return step, pipeline.need_tasks(step)[method]


@pytest.mark.parametrize(
    ("method", "overrides"), [("noisy_label_online", {}), ("pool_novelty_online", {"epochs": 3, "average_from": 0})]
)
def test_one_by_one_gives_the_scores_of_the_pool(method, overrides):
    step, task = opened(method, overrides=overrides)
    for half in (0, 1):
        detector = online.need_detector(step, task, half)
        ids = online.arriving(task, half, 99)
        assert set(ids) == set(task.pool_ids[halves(task) == half])
        scores, took = online.stream(detector, online.images_of(task, ids), warm_up=1)
        written = pd.read_csv(task.folder / "scores.csv", index_col="sample_id")["open_score"]
        np.testing.assert_allclose(scores, written.loc[ids], rtol=1e-3, atol=1e-4)
        assert len(took) == len(ids) and (took > 0).all()


@pytest.mark.parametrize(("method", "n_nets"), [("noisy_label_online", 2), ("pool_novelty_online", 1)])
def test_networks_are_read_back_in_the_layout_they_were_trained_in(monkeypatch, method, n_nets):
    step, task = opened(method)
    online.need_detector(step, task, 0)
    asked = []
    monkeypatch.setattr(online, "new_net", lambda name, *more: asked.append(name) or small_net(name, *more))
    other = replace(task, f_close=replace(task.f_close, backbone="resnet18@vggface2"))
    online.need_detector(step, other, 0)
    assert asked == ["resnet18@vggface2"] * n_nets


def test_a_label_is_taken_from_the_views_that_made_the_pseudo_labels():
    step, task = opened("noisy_label_online")
    online.need_detector(step, task, 0)
    record = runs.load_record(step.folder.pseudo_labels)
    assert not online.need_detector(step, task, 0).f_close_mirror
    record["settings"]["closed_set"]["mirror"] = True
    runs.save_record(step.folder.pseudo_labels, record)
    assert online.need_detector(step, task, 0).f_close_mirror


def test_arrival_is_seeded_and_without_repeats():
    _, task = opened("pool_novelty_online")
    first, again, other = (list(online.arriving(task, 0, 8, seed)) for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 8


def test_running_figures_by_hand():
    scores = np.array([1.0, 3.0, 2.0, 0.0])
    table = online.running(scores, [False, True, False, True], np.array([0.0, 1.0, 2.0]), every=2)
    assert table["seen"].tolist() == [2, 4] and table["auroc"].tolist() == [1.0, 0.5]
    assert table["true_share"].tolist() == [0.5, 0.5] and table["estimate"].between(0, 1).all()
    lonely = online.running(scores, [False] * 4, [], every=3)
    assert lonely["seen"].tolist() == [3, 4] and lonely["auroc"].isna().all() and lonely["estimate"].isna().all()


def test_latency_is_summarised_and_smoke_leaves_no_row(place):
    step, _ = opened("pool_novelty_online")
    took = np.arange(1, 101, dtype=float)
    row = online.save_latency(step, took)
    assert (row["n"], row["median_ms"], row["p95_ms"]) == (100, 50.5, pytest.approx(95.05))
    assert row["images_per_s"] == pytest.approx(1000 * 100 / took.sum())
    assert online.read_latency().empty
    demo = step.__class__(**{**vars(step), "parameters": step.parameters.model_copy(update={"preset": "demo"})})
    online.save_latency(demo, took)
    online.save_latency(demo, took * 2)
    table = online.read_latency()
    assert table["median_ms"].tolist() == [101.0] and table["preset"].tolist() == ["demo"]


def test_what_cannot_be_read_back_is_one_sentence():
    with pytest.raises(UserError, match="did you mean 'pool_novelty_online'"):
        online.need_detector(*opened("pool_novelty"), 0)
    step, task = opened("pool_novelty_online")
    demo = step.__class__(**{**vars(step), "parameters": step.parameters.model_copy(update={"preset": "demo"})})
    with pytest.raises(UserError, match='run notebook 03 with method = "pool_novelty_online"'):
        online.need_detector(demo, task, 0)


def test_table_4_compares_over_the_seeds_that_both_forms_have():
    def row(method, seed, auroc, opened="surprise", **other):
        fixed = {"dataset": "d", "preset": "demo", "alignment": "aligned", "variant": "default"}
        lo_hi = {"auroc": auroc, "auroc_lo": auroc - 0.01, "auroc_hi": auroc + 0.01}
        return {**fixed, "method": method, "seed": seed, "open_classes": opened, **lo_hi, **other}

    rows = pd.DataFrame([
        row("pool_novelty", 0, 0.90), row("pool_novelty", 1, 0.10), row("pool_novelty_online", 0, 0.88),
        row("pool_novelty", 0, 0.80, "fear"), row("pool_novelty", 0, 0.99, variant="pool_blur"),
        row("noisy_label", 0, 0.50), row("noisy_label", 2, 0.60), row("msp", 0, 0.70),
        row("noisy_label_online", 0, 0.45), row("noisy_label_online", 2, 0.53),
    ])  # fmt: skip
    table = online.table4(rows)
    assert table.index.tolist() == ["surprise", "fear"]
    assert table.loc["surprise", "pool_novelty"] == "0.900 [0.890, 0.910]"  # seed 1 has no online run
    assert table.loc["surprise", "pool_novelty: online - offline"] == "-0.020"
    assert table.loc["surprise", "noisy_label"] == "0.550 ± 0.071 (2 seeds)"
    assert table.loc["surprise", "noisy_label: online - offline"] == "-0.060"
    assert table.loc["fear"].tolist() == ["", "", "", "0.800 [0.790, 0.810]", "", ""]
    assert online.table4(rows.iloc[:0]).empty and "msp" not in table


def test_published_table_4():
    table = online.published_table4()
    assert table.loc["surprise"].to_dict() == {"noisy_label": 0.918, "noisy_label_online": 0.894}
    assert len(table) == 8
