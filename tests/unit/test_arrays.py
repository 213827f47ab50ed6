"""Small arrays: made from runs on tiny data, keyed by sample id, the same bytes for the same values."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CPU, small_net, tiny_dataset

from fer_openset import arrays, closed_set, embeddings, paper_data, pipeline, protocol, report, variants
from fer_openset.errors import UserError
from fer_openset.methods import noisy_label, pool_novelty
from fer_openset.methods.folds import pool_folds
from fer_openset.metrics import auroc
from fer_openset.pools import pool_names, pool_settings
from fer_openset.runs import RunFolder
from fer_openset.settings import DetectionParameters

GIVEN = {"dataset": "synthetic", "open_classes": "surprise", "preset": "smoke"}
FOLDER = RunFolder("synthetic", "smoke", "surprise", 0)
METHODS = ("msp", "noisy_label", "pool_novelty")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Runs of three methods on tiny data; images that are no faces stand in for the synthetic ones."""
    place = tmp_path_factory.mktemp("made")
    dataset = replace(tiny_dataset({"train": 6, "valid": 2, "test": 6}), name="synthetic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FER_OPENSET_RESULTS", str(place))
        for module in (pipeline, protocol):
            patch.setattr(module, "load_dataset", lambda *given, **more: dataset)
        for module in (pipeline, embeddings):
            patch.setattr(module, "pick_device", lambda: CPU)
        for module in (closed_set, pool_novelty, noisy_label, embeddings):
            patch.setattr(module, "new_net", small_net)
        for method in METHODS:
            step = pipeline.open_step(DetectionParameters.build(GIVEN | {"method": method}, "notebook parameters"))
            (found,) = pipeline.detect(step, pipeline.need_tasks(step)).values()
            pipeline.save_scores(step, found, pipeline.evaluate(step, found))
        yield step


def test_scores_are_those_of_the_runs_by_sample_id(made):
    found, about = arrays.score_arrays(FOLDER)
    assert found["run"].tolist() == [f"{m}/aligned" for m in METHODS] and about["n"] == len(found["sample_id"])
    assert about["commits"] and about["open_classes"] == "surprise"
    pool = made.protocol.pool
    assert found["sample_id"].tolist() == pool.index.tolist()
    assert found["is_open"].tolist() == pool["is_open"].tolist()
    kept = pd.read_csv(FOLDER.method("msp") / "scores.csv", index_col="sample_id")["open_score"]
    np.testing.assert_allclose(found["score"][0], kept.loc[found["sample_id"]], rtol=1e-6)


def test_scores_of_another_pool_are_refused(made):
    path = FOLDER.method("msp") / "scores.csv"
    text = path.read_text()
    lines = text.splitlines()
    path.write_text("\n".join([lines[0], *lines[:0:-1]]))
    try:
        with pytest.raises(UserError, match="belong to other images"):
            arrays.score_arrays(FOLDER)
    finally:
        path.write_text(text)


def test_pseudo_labels_are_counted_by_part(made):
    found, _ = arrays.label_arrays(FOLDER)
    parts = made.protocol.pool["part"].value_counts()
    for alignment in ("aligned", "as_released"):
        assert dict(zip(found["part"], found[alignment].sum(1), strict=True)) == parts.to_dict()


def test_features_show_only_held_out_test_images(made):
    found, about = embeddings.feature_arrays(FOLDER)
    assert found["panel"].tolist() == ["f_close", "noisy_label", "pool_novelty"]
    pool = made.protocol.pool
    held_out = pool_folds(made.dataset, pool.index, 2, 0) == 0
    expected = pool[held_out & (pool["split"] == "test").to_numpy()]
    assert found["place"].shape == (3, len(expected), 2) and about["n"] == len(expected)
    assert sorted(found["label"]) == sorted(expected["label"]) and np.isfinite(found["place"]).all()
    assert (found["ratio"] > 0).all()


def test_maps_are_made_for_synthetic_faces_only(made):
    found, about = embeddings.map_arrays(FOLDER)
    assert found["net"].tolist() == ["f_close", "noisy_label"] and found["title"][0] == "surprise"
    assert found["map"].shape == found["mirrored"].shape == (2, 7, 8, 8)
    assert found["inconsistency"].shape == (2, about["n"]) and (found["inconsistency"] >= 0).all()
    assert embeddings.map_arrays(RunFolder("ferplus", "cpu", "surprise", 0)) is None


def test_only_a_network_that_tells_sides_apart_is_inconsistent(made):
    net = closed_set.load_model(FOLDER.closed_set, CPU).net
    tells = embeddings._maps(net, made.dataset, np.arange(6), 32, CPU)[2]
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data = (module.weight.data + module.weight.data.flip(3)) / 2
    images = made.dataset.images[:6, :, :29, :29]  # two strides of 2 then fall on the same pixels from either side
    blind = embeddings._maps(net, replace(made.dataset, images=images), np.arange(6), 29, CPU)[2]
    assert blind.max() < 1e-6 < tells.max()


def test_before_any_run_there_is_nothing(workplace):
    for make in (arrays.score_arrays, arrays.label_arrays, embeddings.feature_arrays, embeddings.map_arrays):
        assert make(FOLDER) is None
    assert arrays.run_folders() == [] and arrays.read_shares().empty and variants.read_variants().empty


def test_writing_twice_gives_the_same_bytes_and_nothing_is_unpickled(workplace):
    about = arrays.about(FOLDER, ["b", "a", "b"], 2)
    values, path = {"label": np.array(["x", "y"]), "aligned": np.arange(2)}, arrays.arrays_path("labels", FOLDER)
    written = []
    for _ in range(2):
        arrays.write_arrays("labels", FOLDER, values, about)
        written.append(path.read_bytes())
    assert written[0] == written[1] and path.name == "labels_synthetic_smoke_surprise_seed0.npz"
    back = arrays.read_arrays("labels", FOLDER)
    assert back.about["commits"] == ["a", "b"] and back["label"].tolist() == ["x", "y"]
    np.savez(path, about=json.dumps(about), label=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="not readable"):
        arrays.read_arrays("labels", FOLDER)


def save_run(results, preset="cpu", method="noisy_label", variant="default", settings=None, share=None):
    folder = results / "runs" / "ferplus" / preset / "fear" / "seed0" / "methods" / method / "aligned" / variant
    folder.mkdir(parents=True)
    row = {"dataset": "ferplus", "preset": preset, "open_classes": "fear", "alignment": "aligned", "method": method,
           "variant": variant, "seed": 0}  # fmt: skip
    record = {"row": row, "settings": {method: settings or {}}, "open_share": share or {}, "commit": "c"}
    (folder / "run.json").write_text(json.dumps({**record, "dataset": "ferplus", "preset": preset}))


def test_shares_and_variants_are_rebuilt_and_merged(workplace):
    share = dict.fromkeys(arrays.SHARE_VALUES, 0.5)
    save_run(workplace.results, method="pool_novelty", share=share)
    save_run(workplace.results, settings={"lr": 1.0, "nets": 2})
    save_run(workplace.results, variant="slow", settings={"lr": 0.1, "nets": 2})
    save_run(workplace.results, preset="smoke", variant="slow", settings={"lr": 9.0})
    assert arrays.write_shares()["method"].tolist() == ["pool_novelty"]
    variants.write_variants()
    before = variants.variants_path().read_bytes(), arrays.shares_path().read_bytes()
    arrays.write_shares()
    variants.write_variants()
    assert (variants.variants_path().read_bytes(), arrays.shares_path().read_bytes()) == before
    read = variants.read_variants()
    assert set(read["preset"]) == {"cpu"}
    assert variants.changes(read, "ferplus", "cpu", "noisy_label") == {"default": {}, "slow": {"lr": 0.1}}
    variants.variants_path().write_text("dataset,preset\n")
    with pytest.raises(UserError, match="not the table of variants"):
        variants.read_variants()


def test_each_f_close_keeps_what_it_started_from(workplace):
    """One of another class or seed is not overwritten; what other steps leave beside it is not taken for it."""
    for open_classes, seed, init in (("fear", 0, "scratch"), ("fear", 1, "pretrained"), ("anger", 0, "pretrained")):
        root = workplace.results / "runs" / "rafdb" / "paper" / open_classes / f"seed{seed}"
        started = {"weights": {"path": "a.pth"}} if init == "pretrained" else {}
        record = {"dataset": "rafdb", "preset": "paper", "settings": {"closed_set": {"init": init}}}
        for folder, more in (("closed_set", started), ("pools/blur", {}), ("pseudo_labels", {}), ("pretraining", {})):
            (root / folder).mkdir(parents=True)
            (root / folder / "run.json").write_text(json.dumps(record | more))
        (root / "pretraining" / "run.json").write_text(json.dumps({"settings": {}}))  # such a record names no preset
    variants.write_variants()
    read = variants.read_variants()
    assert set(read["method"]) == {"closed_set"}
    found = {(r.open_classes, r.seed): (r.settings["init"], r.weights) for r in read.itertuples()}
    assert found == {("anger", "0"): ("pretrained", {"path": "a.pth"}), ("fear", "0"): ("scratch", {}),
                     ("fear", "1"): ("pretrained", {"path": "a.pth"})} and len(read) == 3  # fmt: skip


def test_rows_of_earlier_versions_are_read_and_make_way(workplace):
    path = variants.variants_path()
    path.parent.mkdir(parents=True)
    kept, replaced = "ferplus,cpu,msp,default,{}", 'ferplus,cpu,noisy_label,default,"{""lr"": 9.0}"'
    path.write_text(f"dataset,preset,method,variant,settings\n{kept}\n{replaced}\n")
    read = variants.read_variants()
    assert read["seed"].tolist() == ["", ""] and read["weights"].tolist() == [{}, {}]
    save_run(workplace.results, settings={"lr": 1.0})
    table = variants.write_variants()
    assert table[["method", "open_classes", "seed"]].to_numpy().tolist() == [
        ["msp", "", ""], ["noisy_label", "fear", "0"]]  # fmt: skip
    assert variants.settings_by_variant(table, "ferplus", "cpu", "noisy_label") == {"default": {"lr": 1.0}}


def test_distance_ratio_on_planted_classes():
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 200)
    noise = rng.normal(size=(600, 50))
    ratios = []
    for apart in (0.0, 1.0, 3.0):
        means = apart * np.eye(50)[:3][np.searchsorted(["a", "b", "c"], labels)]
        ratios.append(embeddings.class_distance_ratio(noise + means, labels))
    assert ratios[0] < ratios[1] < ratios[2] and ratios[0] < 0.2
    scaled = embeddings.class_distance_ratio(7 * (noise + means), labels)
    assert scaled == pytest.approx(ratios[2])  # the unit of the features does not matter
    assert ratios[2] == pytest.approx(3 * 2**0.5 / 50**0.5, rel=0.05)


def test_evenness_and_shares():
    assert paper_data.evenness([5, 5, 5]) == pytest.approx(1) and paper_data.evenness([9, 0, 0]) == 0
    table = paper_data.label_shares([10, 90], ["few", "many"])
    assert table["label"].tolist() == ["many", "few"] and table["share"].tolist() == [0.9, 0.1]
    assert (table["lo"] <= table["share"]).all() and (table["share"] <= table["hi"]).all()


def test_neighbours_of_a_lump_and_of_scattered_points():
    rng = np.random.default_rng(0)
    is_open = np.arange(1000) < 100
    scattered = rng.normal(size=(1000, 2))
    lump = scattered + 20 * is_open[:, None]
    assert paper_data.open_neighbours(lump, is_open) > 0.95
    assert 0.03 < paper_data.open_neighbours(scattered, is_open) < 0.25


def test_the_band_holds_the_curve_and_narrows_with_images():
    rng = np.random.default_rng(0)
    widths = []
    for n in (100, 2000):
        is_open = np.arange(n) % 2 == 0
        scores = rng.normal(size=n) + is_open
        tpr, lo, hi = paper_data.roc_band(scores, is_open, n=60)
        assert tpr[0] == 0 and tpr[-1] == 1 and (np.diff(tpr) >= 0).all()
        assert np.mean((lo <= tpr) & (tpr <= hi)) > 0.95
        widths.append((hi - lo).mean())
    assert widths[1] < widths[0] / 2


def test_a_perfect_and_a_useless_score_have_the_expected_curves():
    is_open = np.arange(400) < 100
    perfect = paper_data.roc_band(is_open.astype(float), is_open, n=5)[0]
    assert perfect[1:].min() == 1
    scores = np.random.default_rng(1).normal(size=400) + is_open
    area = np.trapezoid(paper_data.roc_band(scores, is_open, n=5)[0], paper_data.GRID)
    assert area == pytest.approx(auroc(scores, is_open), abs=0.01)


def test_tied_scores_are_flagged_together():
    is_open = np.arange(400) < 100
    nothing_said = paper_data.roc_band(np.zeros(400), is_open, n=5)
    assert all(curve == pytest.approx(paper_data.GRID) for curve in nothing_said)
    coarse = np.round(np.random.default_rng(1).normal(size=400) + is_open)
    area = np.trapezoid(paper_data.roc_band(coarse, is_open, n=5)[0], paper_data.GRID)
    assert area == pytest.approx(auroc(coarse, is_open), abs=0.003)


WHERE = RunFolder("ferplus", "cpu", "surprise", 0)


def table_of(*changes):
    row = dict.fromkeys(report.RUN_COLUMNS, 0.5) | {"dataset": "ferplus", "preset": "cpu", "alignment": "aligned"}
    row |= {"open_classes": "surprise", "method": "noisy_label", "variant": "default", "seed": 0}
    return pd.DataFrame([row | {"n_known": 90, "n_open": 90} | change for change in changes])


def variants_of(**sets):
    rows = [("ferplus", "cpu", "surprise", "0", "noisy_label", v, s, {}) for v, s in sets.items()]
    return pd.DataFrame(rows, columns=[*variants.KEY, *variants.JSON])


def test_a_sweep_is_found_by_its_settings():
    one, other = {"backbone": "resnet18", "epochs": 4}, {"backbone": "resnet18", "epochs": 8}
    sets = {"default": {**one, "consistency_weight": 5.0}, "x": {**one, "consistency_weight": 1.0},
            "y": {**other, "consistency_weight": 1.0}}  # fmt: skip
    runs = table_of(*({"variant": v, "auroc": 0.5 + i / 10} for i, v in enumerate(sets)))
    found = paper_data.weight_sweep(runs, variants_of(**sets), WHERE)
    assert dict(zip(found["x"], found["mean"], strict=True)) == pytest.approx({5.0: 0.5, 1.0: 0.6})
    sets |= {f"z{weight}": {**other, "consistency_weight": weight} for weight in (0.0, 5.0)}
    runs = table_of(*({"variant": v, "auroc": 0.5 + i / 10} for i, v in enumerate(sets)))
    found = paper_data.weight_sweep(runs, variants_of(**sets), WHERE)  # three runs of 8 epochs, two of 4: never mixed
    assert dict(zip(found["x"], found["mean"], strict=True)) == pytest.approx({1.0: 0.7, 0.0: 0.8, 5.0: 0.9})


def test_only_pools_of_another_share_are_in_that_figure():
    rows = [{}, {"variant": "pool_open_10", "n_open": 10}, {"variant": "pool_size_200", "n_open": 89},
            {"variant": "pool_test_only", "n_open": 20}, {"method": "msp"}]  # fmt: skip
    found = paper_data.by_open_share(table_of(*rows), WHERE)
    assert found["method"].tolist() == ["noisy_label"] * 2 and found["share"].tolist() == pytest.approx([0.5, 0.1])
    assert any(pool_settings(name).open_share for name in pool_names())


def test_the_oracle_is_the_yardstick():
    rows = [{"method": "oracle", "auroc": 0.9}, {"method": "msp", "auroc": 0.7}, {"method": "eow", "auroc": 0.4},
            {"method": "msp", "auroc": 0.6, "open_classes": "fear"}]  # fmt: skip
    table, reached = paper_data.against_oracle(table_of(*rows), WHERE)
    assert table.index[-1] == "oracle" and list(table.columns) == ["surprise", "fear"]
    assert reached.loc["msp", "surprise"] == pytest.approx(0.5) and reached.loc["eow", "surprise"] < 0
    assert np.isnan(reached.loc["msp", "fear"])
