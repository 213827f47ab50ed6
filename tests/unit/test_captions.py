"""Captions say what the tables hold: who is best, what is missing, on which runs a figure rests."""

import json

import numpy as np
import pandas as pd
import pytest
from ink import texts_of
from made_up import MADE_UP, WHERE, N, check, fill
from matplotlib.patches import FancyBboxPatch
from safetensors.torch import save_file
from sklearn.datasets import load_digits

from fer_openset import (
    arrays,
    clip_features,
    embeddings,
    our_figures,
    our_plates,
    paper_data,
    paper_figures,
    paper_plates,
    plates,
    report,
    style,
    variants,
)
from fer_openset.device import pick_device
from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.timm_body import timm_library

OURS = ("msp", "pseudo_label_ce", "noisy_label", "pool_novelty", "pool_novelty_online", "oracle")
SHARES = {"005": 2, "01": 4, "02": 7, "05": 19, "10": 40, "25": 120, "50": 243}


def write_scores(**leads):
    """Scores in which a method's open images lead by so many standard deviations."""
    is_open, noise = np.arange(N) % 3 == 0, np.random.default_rng(0).normal(size=N)
    score = [noise + lead * is_open for lead in leads.values()]
    found = {"sample_id": np.arange(N).astype(str), "is_open": is_open, "score": score,
             "run": np.array([f"{m}/aligned" for m in leads])}  # fmt: skip
    arrays.write_arrays("scores", WHERE, found, arrays.about(WHERE, ["c"], N))


def write_runs(folder, rows, **more):
    """runs.csv of these rows: a column that a row leaves out has a value of its own, so has the interval."""
    row = dict.fromkeys(report.RUN_COLUMNS, 0.5) | {"dataset": "ferplus", "preset": "cpu", "open_classes": "surprise"}
    row |= {"alignment": "aligned", "method": "noisy_label", "variant": "default", "seed": 0, "commit": "c"}
    table = pd.DataFrame([row | {"n_known": 361, "n_open": 243, "device": "cpu"} | more | each for each in rows])
    table["auroc_lo"], table["auroc_hi"] = table["auroc"] - 0.01, table["auroc"] + 0.01
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "tables" / "runs.csv", index=False)


def write_variants(folder, where, **sets):
    rows = [(where.dataset, where.preset, "noisy_label", v, json.dumps(s)) for v, s in sets.items()]
    columns = ["dataset", "preset", "method", "variant", "settings"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "tables" / "variants.csv", index=False)


def test_the_best_method_is_the_best_of_all_that_ran_and_hidden_curves_are_named(workplace):
    write_scores(msp=0.5, pseudo_label_ce=0.5, noisy_label=0.2, pool_novelty=2, pool_novelty_online=2.1, oracle=3)
    caption = our_plates.roc(WHERE).caption
    assert "Of 6 methods that ran, pool_novelty_online is the best that reads no true label" in caption
    assert "; pool_novelty's curve stands for it)" in caption
    assert "msp and pseudo_label_ce lie on one curve: with aligned labels both rank alike." in caption
    write_scores(msp=0.5, noisy_label=0.2, oracle=3)
    caption = our_plates.roc(WHERE).caption
    assert "msp is the best" in caption and "stands for it" not in caption and "one curve" not in caption
    write_scores(oracle=3)
    assert "Only the oracle has run" in our_plates.roc(WHERE).caption


def test_white_cells_and_clipped_colours_are_explained_and_rows_go_by_shared_classes(workplace):
    rows = [{"method": "oracle", "auroc": 0.9}, {"method": "msp", "auroc": 0.7}, {"method": "dias", "auroc": 0.8},
            {"method": "she", "auroc": 0.3}, {"method": "msp", "auroc": 0.99, "open_classes": "fear"}]  # fmt: skip
    write_runs(workplace.results, rows)
    plate = our_plates.methods_by_class(WHERE)
    assert "below chance it stays that of 0" in plate.caption and "no oracle on that class" not in plate.caption
    assert "White: not run there; a number on white: no oracle for fear." in plate.caption
    assert "Rows by the mean over surprise, where most methods ran" in plate.caption
    table, _ = paper_data.against_oracle(report.read_runs(), WHERE)
    assert table.index.tolist() == ["dias", "msp", "she", "oracle"]  # a mean over fear too would put msp first
    assert plate.about["runs"] == ["ferplus/cpu/surprise/seed0", "ferplus/cpu/fear/seed0"]


def test_fig_2_counts_the_images_that_its_bars_count(workplace):
    fill(workplace.results, ["msp", "noisy_label"], ["surprise"])
    found = arrays.read_arrays("labels", WHERE)
    counts = np.array([[1000] * 6, [1, 2, 3, 4, 5, 6], [10] * 6])
    arrays.write_arrays("labels", WHERE, {**found.arrays, "aligned": counts}, found.about)
    plate = paper_plates.pseudo_labels(WHERE)
    assert "Bars: 81 open faces, " in plate.caption and "seed 0, 81 images" in plate.caption
    assert any("surprise, n = 81" in ax.get_title() for ax in plate.figure.axes)


def test_fig_4_names_what_has_not_run_and_its_axes_and_intervals(workplace):
    write_scores(msp=0.5, noisy_label=1.0)
    found = arrays.read_arrays("scores", WHERE)
    score = np.stack([found["score"][0], np.exp(4 * found["score"][1])])  # many small values, few large ones
    arrays.write_arrays("scores", WHERE, {**found.arrays, "score": score}, found.about)
    write_runs(workplace.results, [{"auroc": 0.6}])
    plate = paper_plates.confidence(WHERE)
    assert "Not run: eow, proser, dias." in plate.caption and "logarithmic axis: noisy_label" in plate.caption
    msp, mine = plate.figure.axes[:2]
    assert msp.get_xscale() == "linear" and mine.get_xscale() == "log"
    assert mine.get_title().endswith("[0.590, 0.610]") and "[" not in msp.get_title()
    shares = [sum(p.get_height() for p in mine.patches if p.get_facecolor()[:3] == msp.patches[0].get_facecolor()[:3])]
    assert shares[0] == pytest.approx(0.99, abs=0.02) and len(mine.get_yticks())
    check(plate)


def sweep_settings(**more):
    usual = {"backbone": "resnet18", "epochs": 4, "consistency_weight": 5.0, "keep_epochs": False}
    long = usual | {"epochs": 40, "keep_epochs": True}
    return {"default": usual, "w0": long | {"consistency_weight": 0.0}, "w1": long | {"consistency_weight": 1.0},
            "w5": long, "other": long | {"lr": 9.0}, **more}  # fmt: skip


def write_sweep(folder, later):
    values = (("w0", 0.9), ("w1", 0.62), ("w5", 0.6), ("other", 0.1))
    write_runs(folder, [{"variant": v, "auroc": x} for v, x in values], dataset="synthetic", preset="demo")
    write_variants(folder, MADE_UP, **sweep_settings())
    same = {"dataset": "synthetic", "preset": "demo", "open_classes": "surprise", "alignment": "aligned",
            "method": "noisy_label", "seed": 0, "n_known": 1, "n_open": 1}  # fmt: skip
    rows = [{**same, "variant": v, "epoch": e, "auroc": x} for v, last in (("w1", 0.6), ("w5", later), ("other", 0.1))
            for e, x in ((1, 0.2), (10, 0.6), (40, last))]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "tables" / "epochs.csv", index=False)


@pytest.mark.parametrize(("later", "word"), [(0.65, "Agrees"), (0.4, "Does not agree")])
def test_fig_5_speaks_of_both_panels_within_the_papers_ranges(workplace, later, word):
    write_sweep(workplace.results, later)
    plate = paper_plates.sweeps(MADE_UP)
    assert plate.caption.startswith(f"{word} with the paper: the AUROC moves over weights 1 to 5 by 0.020")
    assert f"from epoch 10 to 40 by {abs(later - 0.6):.3f}" in plate.caption
    assert "Weights: variants w0, w1, w5, of 40 epochs (default: 4)." in plate.caption
    assert "Epochs: variant w5, of 40 epochs (default: 4)." in plate.caption
    assert "after each epoch within one run; the paper trains anew for each number of epochs" in plate.caption
    left, right = plate.figure.axes
    assert right.get_xlabel() == "epoch within one run"
    assert not right.containers and left.containers  # no error bar where there is no interval, in the legend neither
    chance = [line for line in right.lines if line.get_label() == "chance"]
    assert len(chance) == (right.get_ylim()[0] <= 0.5 <= right.get_ylim()[1])
    check(plate)


def test_kinds_of_run_are_never_averaged_in_the_sweep_over_epochs(workplace):
    write_sweep(workplace.results, 0.65)
    found = paper_data.epoch_sweep(pd.read_csv(workplace.results / "tables" / "epochs.csv"),
                                   variants.read_variants(), MADE_UP)  # fmt: skip
    assert set(found["variant"]) == {"w5"} and found["mean"].tolist() == [0.2, 0.6, 0.65]


def test_few_open_images_on_synthetic_faces(workplace):
    methods = ("msp", "noisy_label", "pool_novelty", "oracle")
    pools = [("default", 243), *((f"pool_open_{name}", n) for name, n in SHARES.items())]
    rows = [{"method": m, "variant": v, "n_open": n, "auroc": 0.5 + i / 10 + n / 3000}
            for i, m in enumerate(methods) for v, n in pools]  # fmt: skip
    write_runs(workplace.results, rows, dataset="synthetic", preset="demo")
    plate = our_plates.open_share(MADE_UP)
    check(plate)
    assert plate.name == "auroc_by_open_share_synthetic_demo" and "smallest pool holds 2 open images" in plate.caption
    (ax,) = plate.figure.axes
    labels = [line.get_label() for line in ax.containers]
    assert sorted(labels) == sorted(methods) and ax.get_xscale() == "log"
    assert {"1 %", "10 %"} <= {t.get_text() for t in ax.get_xticklabels()}
    check(our_plates.methods_by_class(MADE_UP))


def test_what_is_not_drawn_names_the_grid_of_its_own_dataset(workplace):
    for where, plate in (
        (MADE_UP, our_plates.open_share),
        (WHERE, our_plates.open_share),
        (MADE_UP, paper_plates.sweeps),
    ):
        caption = plate(where).caption
        assert ("ferplus.yaml" in caption) == (where is WHERE), caption
    assert "params/grids/stress_synthetic.yaml" in our_plates.open_share(MADE_UP).caption
    assert "params/grids/ablation.yaml" in paper_plates.sweeps(MADE_UP).caption
    assert "params/grids/controls.yaml" in paper_plates.comparison_group(MADE_UP).caption


@pytest.mark.parametrize(("one", "word"), [(0.26, "Agrees"), (0.8, "Does not agree")])
def test_fig_6_on_synthetic_faces_shows_labels_and_histograms_and_no_published_value(workplace, one, word):
    fill(workplace.results, ["msp", "noisy_label"], ["surprise"])
    rows = [{"auroc": 0.56}, {"auroc": one, "variant": "one_label"}, {"method": "msp", "auroc": 0.7}]
    write_runs(workplace.results, rows, dataset="synthetic", preset="demo")
    plate = paper_plates.comparison_group(MADE_UP)
    check(plate)
    assert plate.name == "fig6_comparison_group_synthetic" and plate.caption.startswith(
        f"{word} with the paper: with all"
    )
    assert f"labelled happiness the AUROC goes from 0.560 to {one:.3f}" in plate.caption
    assert "RAF-DB" not in plate.caption and "published" not in " ".join(
        t.get_text() for t, _ in texts_of(plate.figure)
    )
    assert len(plate.figure.axes) == 4
    found = arrays.read_arrays("scores", MADE_UP)
    older = {k: v for k, v in found.arrays.items() if not k.startswith("variant")}
    arrays.write_arrays("scores", MADE_UP, older, found.about)
    plate = paper_plates.comparison_group(MADE_UP)
    assert len(plate.figure.axes) == 2 and "No histograms: their scores wait for" in plate.caption


def test_fig_6_keeps_the_published_value_before_such_a_run(workplace):
    write_runs(workplace.results, [{"auroc": 0.59}, {"method": "msp", "auroc": 0.65}])
    plate = paper_plates.comparison_group(WHERE)
    check(plate)
    assert plate.name == "fig6_comparison_group" and "No runs yet: all open images labelled happiness." in plate.caption
    assert plate.caption.startswith(
        "Does not agree with the paper as far as it ran: the method has 0.590, the baseline"
    )
    words = [t.get_text() for t, _ in texts_of(plate.figure)]
    assert "no run yet" in words and "published (RAF-DB)" in words
    marks = {
        float(path.vertices[0, 0]) for c in plate.figure.axes[0].collections for path in c.get_paths() if len(path)
    }
    assert any(np.isclose(mark, 0.803) for mark in marks)


def test_attention_says_its_ranges_its_scales_and_which_class_is_left_out(workplace):
    fill(workplace.results, ["msp", "noisy_label"], ["surprise"])
    maps, mirrored = our_plates.attention(MADE_UP)
    assert "different x ranges; the largest 1 %" in mirrored.caption and "share a scale, no others do" in maps.caption
    assert "Not shown" not in maps.caption
    found = arrays.read_arrays("maps", MADE_UP)
    fewer = {k: v[:6] if k in ("image", "title") else v for k, v in found.arrays.items()}
    fewer |= {k: found[k][:, :6] for k in ("map", "mirrored")}
    arrays.write_arrays("maps", MADE_UP, fewer, found.about)
    assert f"Not shown: {BASIC[6]} (the arrays hold the first 6" in our_plates.attention(MADE_UP)[0].caption
    assert len(BASIC) == embeddings.OVERLAYS


def test_fig_7_says_what_its_left_panel_saw(workplace):
    fill(workplace.results, ["msp", "noisy_label"], ["surprise"])
    text = "The paper's left panel is trained on the pseudo labels; ours is f_close, which saw none of them."
    assert text in paper_plates.open_features(WHERE).caption


def test_the_note_of_fig_3_stands_in_a_frame_around_both_networks():
    figure = paper_figures.pipeline_diagram()
    figure.draw_without_rendering()
    boxes = {
        name: box for text, box in texts_of(figure) for name in ("both:", "$f_1$", "$f_2$") if name in text.get_text()
    }
    frame = max((p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)), key=lambda p: p.get_height())
    frame = frame.get_window_extent()
    assert len(boxes) == 3
    for box in boxes.values():
        assert frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1


@pytest.mark.parametrize("n", [1, 4, 5, 7, 8])
def test_the_lowest_panel_of_each_column_carries_the_numbers(n):
    rows = [{"open_classes": f"c{k}", "method": "msp", "alignment": "aligned", "mean": 0.7, "lo": 0.6, "hi": 0.8}
            for k in range(n)]  # fmt: skip
    figure = our_figures.auroc_panels(pd.DataFrame(rows), ["msp"])
    figure.canvas.draw()
    shown = [ax for ax in figure.axes if ax.axison]
    numbered = [bool([t for t in ax.get_xticklabels() if t.get_visible() and t.get_text()]) for ax in shown]
    assert len(shown) == n and numbered == [k + min(4, n) >= n for k in range(n)]


def test_auroc_of_methods_fits_the_page_and_draws_every_interval(workplace):
    rows = [{"method": m, "auroc": 0.4 + i / 10, "open_classes": c, "alignment": a} for i, m in enumerate(OURS[:4])
            for c in (*BASIC, "surprise+fear+disgust") for a in ("aligned", "as_released")]  # fmt: skip
    write_runs(workplace.results, [*rows, {"method": "she", "auroc": 0.9}])
    plate = our_plates.auroc_of_methods(WHERE)
    check(plate)
    assert plate.name == "auroc_ferplus_cpu" and "4 of 5 methods that ran" in plate.caption
    assert "Hollow: pseudo labels in the scrambled order" in plate.caption and len(plate.about["runs"]) == 8
    assert sum(len(ax.containers) for ax in plate.figure.axes) == len(rows)
    write_runs(workplace.results, [{"auroc": 0.5}])
    assert "Hollow" not in our_plates.auroc_of_methods(WHERE).caption


def test_the_index_and_the_caption_name_the_run_folders(workplace, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    write_scores(msp=0.5, noisy_label=1.0)
    paper_plates.confidence(WHERE).save().show()
    assert "Runs: `ferplus/cpu/surprise/seed0` in [the table of runs]" in shown[-1].data
    write_runs(workplace.results, [{"method": m, "auroc": 0.6, "open_classes": c} for m in ("msp", "oracle")
                                   for c in ("surprise", "surprise+fear")])  # fmt: skip
    our_plates.methods_by_class(WHERE).save()
    index = plates.read_index().set_index("figure")
    assert index.loc["fig4_confidence", ["runs", "open_classes"]].tolist() == ["ferplus/cpu/surprise/seed0", "surprise"]
    assert index.loc["methods_against_oracle_ferplus_cpu", "open_classes"].split() == ["surprise", "surprise+fear"]
    paper_plates.pipeline().save().show()
    assert "Runs:" not in shown[-1].data and plates.read_index()["runs"].tolist()[0] == ""


def test_an_index_without_the_column_of_runs_is_read(workplace):
    folder = workplace.results / "figures"
    folder.mkdir(parents=True)
    (folder / "index.csv").write_text("figure,dataset,preset,open_classes,commits,caption\nold,ferplus,cpu,,c,text\n")
    paper_plates.pipeline().save()
    assert plates.read_index()["figure"].tolist() == ["fig3_pipeline", "old"]
    assert plates.read_index().columns.tolist() == list(plates.INDEX_COLUMNS)


def test_a_figure_that_lost_its_numbers_goes_and_only_that_one(workplace):
    write_scores(msp=0.5, noisy_label=1.0)
    paper_plates.confidence(WHERE).save()
    paper_plates.pipeline().save()
    paper_plates.confidence(MADE_UP).save()  # never had any: FERPlus's own figure of that name stays
    assert (workplace.results / "figures" / "fig4_confidence.png").exists()
    arrays.arrays_path("scores", WHERE).unlink()
    paper_plates.confidence(WHERE).save()
    left = sorted(path.name for path in (workplace.results / "figures").iterdir())
    assert left == ["fig3_pipeline.pdf", "fig3_pipeline.png", "index.csv"]
    assert plates.read_index()["figure"].tolist() == ["fig3_pipeline"]


def test_fig_1_says_whether_clip_was_at_hand(workplace):
    fill(workplace.results, ["msp", "noisy_label"], ["surprise"])
    assert (
        "no CLIP weights at hand, so these are the features of each closed model"
        in paper_plates.class_distance(WHERE).caption
    )
    faces, digits = arrays.read_arrays("features", WHERE), arrays.read_arrays("digits")
    place = np.concatenate([faces["place"], 3 + faces["place"][:1]])
    more = {"panel": np.append(faces["panel"], "clip"), "place": place, "ratio": np.append(faces["ratio"], 0.25)}
    arrays.write_arrays("features", WHERE, {**faces.arrays, **more}, {**faces.about, "clip": "tower, sha256 abc"})
    assert "no CLIP weights at hand" in paper_plates.class_distance(WHERE).caption  # the digits have none yet
    arrays.write_arrays("digits", None, {**digits.arrays, "clip_place": digits["place"], "clip_ratio": 0.75},
                        {**digits.about, "clip": "tower, sha256 abc"})  # fmt: skip
    plate = paper_plates.class_distance(WHERE)
    assert "classes of faces lie 0.25 apart, those of objects 0.75" in plate.caption
    assert "the features are CLIP's (tower, sha256 abc)" in plate.caption
    check(plate)
    assert [ax.get_title().split("\n")[0] for ax in paper_plates.open_features(WHERE).figure.axes] == faces[
        "panel"
    ].tolist()


def test_clip_features_come_from_a_local_file_alone(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.delenv(clip_features.VARIABLE, raising=False)
    device = pick_device()
    assert clip_features.clip_tower(device) is None
    net = timm_library().create_model("vit_tiny_patch16_224", num_classes=8)
    path = tmp_path / "vit_tiny_patch16_224.of_a_test.safetensors"
    save_file({k: v for k, v in net.state_dict().items() if k != "head.bias"}, path)
    monkeypatch.setenv(clip_features.VARIABLE, str(path))
    tower, name = clip_features.clip_tower(device)
    assert name.startswith("vit_tiny_patch16_224, sha256 ")
    grey = np.random.default_rng(0).integers(0, 256, (3, 1, 48, 48), dtype=np.uint8)
    found = clip_features.clip_features(tower, grey, device, batch=2)
    assert found.shape == (3, 8) and found.dtype == np.float32 and np.isfinite(found).all()
    colour = clip_features.clip_features(tower, grey.repeat(3, 1), device)
    np.testing.assert_allclose(found, colour, atol=1e-4)
    monkeypatch.setattr(embeddings, "tsne", lambda features: features[:, :2])
    some = [part[:300] for part in load_digits(return_X_y=True)]
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda return_X_y: some)
    made, about = embeddings.digit_arrays()
    assert made["clip_place"].shape == made["place"].shape and made["clip_ratio"] > 0 and about["clip"] == name
    save_file({"head.weight": net.state_dict()["head.weight"]}, path)
    with pytest.raises(UserError, match="do not fit vit_tiny_patch16_224"):
        clip_features.clip_tower(device)
    monkeypatch.setenv(clip_features.VARIABLE, str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(UserError, match="there is no such file of weights"):
        clip_features.clip_tower(device)


def test_share_ticks_are_those_of_the_pools():
    assert len(our_figures.SHARE_TICKS) == len(SHARES) and style.PAGE == 7.0
