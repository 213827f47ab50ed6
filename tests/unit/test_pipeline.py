"""The steps of the notebooks, end to end on tiny data: what they need, what they leave, what they refuse."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CPU, small_net, tiny_dataset

from fer_openset import closed_set, closed_step, fit, pipeline, report, runs
from fer_openset.closed_set import closed_outputs, closed_set_settings, train_closed_set
from fer_openset.errors import UserError
from fer_openset.methods import method_settings, pool_novelty
from fer_openset.methods.predictions import write_predictions
from fer_openset.pools import pool_settings
from fer_openset.settings import DetectionParameters, RunParameters

GIVEN = {"dataset": "tiny", "open_classes": "fear+surprise"}


@pytest.fixture(autouse=True)
def place(workplace, monkeypatch):
    """Notebooks on tiny data: only the dataset, the size of the network and the device are swapped."""
    dataset = tiny_dataset({"train": 6, "valid": 2, "test": 3})
    monkeypatch.setattr(pipeline, "load_dataset", lambda *given, **more: dataset)
    monkeypatch.setattr(pipeline, "pick_device", lambda: CPU)
    monkeypatch.setattr(closed_set, "new_net", small_net)
    monkeypatch.setattr(pool_novelty, "new_net", small_net)
    return workplace


def detect(method="msp", **more):
    step = pipeline.open_step(DetectionParameters.build(GIVEN | {"method": method, **more}, "notebook parameters"))
    found = pipeline.detect(step, pipeline.need_tasks(step))
    return step, *found.values()


def test_smoke_builds_what_is_missing_and_leaves_all_files(place, capsys):
    step, found = detect()
    root = place.results / "runs" / "tiny" / "smoke" / "surprise+fear" / "seed0"
    assert step.folder.root == root
    for made in ("closed_set/model.safetensors", "closed_set/history.csv", "closed_set/run.json",
                 "pseudo_labels/outputs.npz", "pseudo_labels/pseudo_labels.csv", "pseudo_labels/run.json"):  # fmt: skip
        assert (root / made).is_file()
    result = pipeline.evaluate(step, found)
    assert not (root / "methods").exists()  # nothing is called done before it is
    row = pipeline.save_scores(step, found, result)
    assert tuple(row) == report.RUN_COLUMNS
    assert (row["open_classes"], row["method"], row["variant"], row["seed"]) == ("surprise+fear", "msp", "default", 0)
    assert row["n_known"] == 15 and row["n_open"] == 6 + 12
    folder = root / "methods" / "msp" / "aligned" / "default"
    record = runs.load_record(folder)
    assert record["row"] == json.loads(json.dumps(row)) and record["metrics"] == result
    assert record["settings"] == {"msp": {}} and record["versions"]["torch"]
    written = pd.read_csv(folder / "scores.csv", index_col="sample_id")["open_score"]
    assert written.index.tolist() == step.protocol.pool.index.tolist()
    pd.testing.assert_series_equal(written, found.scores, check_index_type=False)
    assert (
        "tiny, open = surprise+fear, preset smoke, seed 0; 30 known training images, pool of 33"
        in capsys.readouterr().out
    )


def test_what_is_there_is_not_built_again(monkeypatch):
    _, first = detect()

    def never(*args):
        raise AssertionError("built again")

    monkeypatch.setattr(closed_step, "train_closed_set", never)
    monkeypatch.setattr(pipeline, "closed_outputs", never)
    _, again = detect()
    assert again.scores.equals(first.scores)


@pytest.mark.parametrize("open_classes", ["surprise", "fear+surprise"])
def test_both_alignments_differ_in_the_open_training_images_only(open_classes):
    parts, scores = None, {}
    for alignment in ("aligned", "as_released"):
        step, found = detect(alignment=alignment, open_classes=open_classes)
        parts, task, scores[alignment] = step.protocol.pool["part"], found.task, found.scores
        assert task.alignment == alignment and task.folder == step.folder.method("msp", alignment)
    same = scores["aligned"] == scores["as_released"]
    assert same[parts != "open train"].all() and not same[parts == "open train"].all()


def test_without_f_close_other_presets_say_what_to_run():
    step = pipeline.open_step(DetectionParameters.build(GIVEN | {"preset": "demo"}, "p"))
    for need in (closed_step.need_closed_set, pipeline.need_tasks):
        with pytest.raises(
            UserError, match=r"closed_set/run.json: this step has not run yet; run the notebook before it"
        ):
            need(step)
    assert not step.folder.root.exists()


def test_without_pseudo_labels_other_presets_say_what_to_run():
    step = pipeline.open_step(DetectionParameters.build(GIVEN | {"preset": "demo"}, "p"))
    settings = closed_set_settings("smoke")
    _, history = train_closed_set(step.dataset, step.protocol, settings, CPU, 0, step.folder.closed_set)
    closed_step.save_closed_set(step, settings, history)
    assert closed_step.need_closed_set(step).classes == step.protocol.known_classes
    with pytest.raises(UserError, match=r"pseudo_labels/run.json: this step has not run yet"):
        pipeline.need_tasks(step)


def test_overrides_need_a_name_of_their_own():
    with pytest.raises(UserError, match="give the run its own name with `variant`"):
        detect("energy", overrides={"temperature": 2.0})
    _, hot = detect("energy", overrides={"temperature": 2.0}, variant="hot")
    assert hot.settings.temperature == 2.0 and hot.task.folder.name == "hot"
    assert not hot.scores.equals(detect("energy")[1].scores)


def test_several_methods_share_a_step_and_keep_their_own_records(place):
    step, *found = detect("msp + energy")
    assert [one.method for one in found] == ["msp", "energy"]
    for one in found:
        row = pipeline.save_scores(step, one, pipeline.evaluate(step, one))
        assert row["method"] == one.method and row["seconds"] == one.seconds
        assert one.task.folder == step.folder.method(one.method) and runs.is_done(one.task.folder)
        pd.testing.assert_series_equal(one.scores, detect(one.method)[1].scores)
    assert found[0].task.pool_logits is found[1].task.pool_logits  # read once


@pytest.mark.parametrize("method", ["msp+mps", "mps", "", "msp+"])
def test_each_of_several_methods_must_exist(method):
    with pytest.raises(UserError, match="method"):
        detect(method)


def test_overrides_are_for_one_method():
    with pytest.raises(UserError, match="overrides belong to one method, but method names 2"):
        detect("msp+energy", overrides={"temperature": 2.0}, variant="hot")


def test_an_f_close_of_other_classes_is_refused():
    step = pipeline.open_step(RunParameters.build(GIVEN, "p"))
    closed_step.need_closed_set(step)
    other = pipeline.open_step(RunParameters.build(GIVEN | {"open_classes": "anger"}, "p"))
    other.folder.closed_set.parent.mkdir(parents=True)
    step.folder.closed_set.rename(other.folder.closed_set)
    with pytest.raises(UserError, match="this f_close knows disgust, happiness, .* train f_close again"):
        closed_step.need_closed_set(other)


def test_a_finished_f_close_is_not_replaced_by_overrides(capsys):
    step = pipeline.open_step(RunParameters.build(GIVEN | {"overrides": {"lr": 0.5}}, "p"))
    other = closed_set_settings("smoke", {"lr": 0.5})
    assert closed_step.closed_set_folder(step, other) == step.folder.closed_set
    closed_step.need_closed_set(step)
    assert "not trained with" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"f_close is trained already, with other settings \(lr: .*, not 0.5\)"):
        closed_step.closed_set_folder(step, other)
    plain = pipeline.open_step(RunParameters.build(GIVEN, "p"))
    assert closed_step.closed_set_folder(plain, closed_set_settings("smoke")) == step.folder.closed_set


def test_an_f_close_of_other_settings_is_named(capsys):
    step = pipeline.open_step(RunParameters.build(GIVEN, "p"))
    settings = closed_set_settings("smoke", {"lr": 0.5})
    _, history = train_closed_set(step.dataset, step.protocol, settings, CPU, 0, step.folder.closed_set)
    closed_step.save_closed_set(step, settings, history)
    closed_step.need_closed_set(step)
    assert "not trained with the settings of the preset smoke (lr: 0.5, not" in capsys.readouterr().out


def test_an_f_close_of_other_images_is_refused():
    step = pipeline.open_step(RunParameters.build(GIVEN, "p"))
    closed_step.need_closed_set(step)
    changed = replace(step, dataset=replace(step.dataset, images=255 - step.dataset.images))
    with pytest.raises(UserError, match="no longer those that f_close was trained on"):
        closed_step.need_closed_set(changed)


def test_an_f_close_that_knows_the_pool_says_so(capsys):
    step = pipeline.open_step(RunParameters.build(GIVEN, "p"))
    closed_step.need_closed_set(step)
    assert "transductive" not in capsys.readouterr().out
    record = runs.load_record(step.folder.closed_set)
    runs.save_record(step.folder.closed_set, record | {"weights": {"trained_on": "known+pool"}})
    closed_step.need_closed_set(step)
    assert "f_close saw the pool's images, unlabelled: what follows is transductive" in capsys.readouterr().out


def test_a_method_s_record_does_not_outlive_the_start_of_other_settings(monkeypatch):
    one_round = method_settings("pool_novelty", "smoke", {"rounds": 1})
    monkeypatch.setattr(pipeline, "method_settings", lambda *_: one_round)
    step, found = detect("pool_novelty")
    pipeline.save_scores(step, found, pipeline.evaluate(step, found))
    pipeline.detect(step, {"pool_novelty": found.task})
    assert runs.is_done(found.task.folder)  # the same once more changes nothing
    other = found.settings.model_copy(update={"lr": 0.5 * found.settings.lr})
    monkeypatch.setattr(pipeline, "method_settings", lambda *_: other)

    def refused(*_):
        raise UserError("such weights there are not")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run_method", refused)
        with pytest.raises(UserError, match="such weights"):
            pipeline.detect(step, {"pool_novelty": found.task})
    assert runs.is_done(found.task.folder)  # what never began has changed nothing

    def killed(*_):
        assert not runs.is_done(found.task.folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "_one_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        pipeline.detect(step, {"pool_novelty": found.task})
    assert not runs.is_done(found.task.folder) and runs.is_done(step.folder.closed_set)


def test_pseudo_labels_of_an_earlier_f_close_are_refused():
    step, _ = detect()
    settings = closed_set_settings("smoke", {"lr": 0.5})
    _, history = train_closed_set(step.dataset, step.protocol, settings, CPU, 0, step.folder.closed_set)
    closed_step.save_closed_set(step, settings, history)
    with pytest.raises(UserError, match="f_close was trained again since .* run notebook 02 again"):
        detect()


def test_a_resumed_run_counts_the_epochs_before_it(place):
    step, _ = detect()
    history = step.folder.closed_set / "history.csv"
    pd.read_csv(history).assign(seconds=1000.0).to_csv(history, index=False)
    record = closed_step.save_closed_set(step, closed_set_settings("smoke"), pd.read_csv(history))
    assert record["seconds"] == 1000.0 * closed_set_settings("smoke").epochs


def test_a_task_holds_no_label_of_its_pool():
    _, found = detect()
    labels = found.task.dataset.table["label"]
    assert (labels.loc[found.task.pool_ids] == "").all()
    assert (labels.loc[found.task.train.index] != "").all()


def test_labels_of_the_pool_reach_the_metrics_only():
    step, found = detect()
    result = pipeline.evaluate(step, found)
    shuffled = replace(found, scores=found.scores.sample(frac=1, random_state=0))
    assert pipeline.evaluate(step, shuffled) == result  # joined by id
    pool, task = step.protocol.pool, found.task
    right = pd.Series(task.pseudo_labels, pool.index).map(dict(enumerate(task.known_classes))) == pool["label"]
    assert result["closed_accuracy"] == pytest.approx(right[~pool["is_open"]].mean())
    assert not hasattr(task, "pool") and not hasattr(task, "protocol")


@pytest.mark.parametrize("method", ["eow", "proser", "dias"])
def test_a_classifier_in_f_closes_place_is_judged_by_its_own_predictions(method):
    step, found = detect()
    task = found.task.for_method(step.folder.method(method))
    pool, own = step.protocol.pool, replace(found, method=method, task=task)
    nobody = pipeline.evaluate(step, own)  # it left no predictions: f_close's must not stand for them
    assert nobody["oscr"] is None and nobody["closed_accuracy"] is None
    assert nobody["auroc"] == pipeline.evaluate(step, found)["auroc"]
    row = pipeline.save_scores(step, own, nobody)
    assert tuple(row) == report.RUN_COLUMNS
    known = np.eye(len(task.known_classes) + 1)[np.maximum(step.protocol.pool_targets(), 0)]
    known[:, -1] = 9  # an output beyond the known classes is no prediction
    write_predictions(task, torch.from_numpy(known))
    right = pipeline.evaluate(step, own)
    assert right["closed_accuracy"] == 1.0 and right["oscr"] == pytest.approx(right["auroc"])
    half = np.flatnonzero(~pool["is_open"])[::2]
    known[half] = np.roll(known[half][:, :-1], 1, axis=1)[:, [*range(known.shape[1] - 1), 0]]
    write_predictions(task, torch.from_numpy(known))
    assert pipeline.evaluate(step, own)["closed_accuracy"] == 1 - len(half) / (~pool["is_open"]).sum()
    assert pipeline.evaluate(step, replace(own, method="msp")) == pipeline.evaluate(step, found)  # only those three


def test_disagreement_finds_the_record_of_the_f_close_beside_it():
    step, found = detect("disagreement", pool="test_only")
    assert found.scores.index.equals(found.task.pool_ids) and found.scores.between(0, np.log(2)).all()
    epochs = runs.load_record(step.folder.closed_set)["settings"]["closed_set"]["epochs"]
    assert len(pd.read_csv(found.task.folder / "history.csv")) == epochs


def test_damaged_predictions_are_named():
    step, found = detect()
    own = replace(found, method="eow", task=found.task.for_method(step.folder.method("eow")))
    ids, names = found.task.pool_ids, [*found.task.known_classes]
    path = own.task.folder / "predictions.csv"
    path.parent.mkdir(parents=True)
    for text in (
        "",
        "a,b\n1,2\n",
        f"sample_id,predicted\n{ids[0]},{names[0]}\n",
        "sample_id,predicted\n" + "".join(f"{i},martian\n" for i in ids),
        "sample_id,predicted\n" + f"{ids[0]},{names[0]}\n" + "".join(f"{i},{names[0]}\n" for i in ids),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="predictions.csv: not .* run the method again") as caught:
            pipeline.evaluate(step, own)
        assert len(str(caught.value).splitlines()) == 1


def test_records_of_the_first_two_steps():
    step, *_ = detect()
    closed, pseudo = runs.load_record(step.folder.closed_set), runs.load_record(step.folder.pseudo_labels)
    assert closed["history"]["epoch"] == closed_set_settings("smoke").epochs
    assert closed["settings"]["closed_set"]["image_size"] == 32 and closed["device"] == "cpu"
    assert pseudo["n_pool"] == 33 and pseudo["open_classes"] == "surprise+fear" and pseudo["seconds"] >= 0


def test_threads_must_be_a_count(monkeypatch):
    from fer_openset.device import pick_device

    for wrong in ("two", "0", "-1", "1.5"):
        monkeypatch.setenv("FER_OPENSET_THREADS", wrong)
        with pytest.raises(UserError, match="FER_OPENSET_THREADS"):
            pick_device()


def test_the_share_of_open_images_is_estimated_without_labels_and_judged_with_them(place):
    step, found = detect("pool_novelty")
    share = pipeline.open_share(step, found)
    assert 0 <= share["lo"] <= share["estimate"] <= share["hi"] <= 1
    assert share["true_share"] == 18 / 33
    pool = step.protocol.pool
    flagged = found.scores >= share["threshold"]
    assert share["open_flagged"] == flagged[pool["is_open"]].mean()
    assert share["known_flagged"] == flagged[~pool["is_open"]].mean()
    row = pipeline.save_scores(step, found, pipeline.evaluate(step, found), share)
    assert runs.load_record(found.task.folder)["open_share"] == share and tuple(row) == report.RUN_COLUMNS


def test_methods_without_known_scores_have_no_share(place):
    assert pipeline.open_share(*detect("msp")) == {}


@pytest.mark.parametrize("method", ["pool_novelty_online", "oracle"])
def test_the_other_forms_run_and_only_the_oracle_gets_labels(place, method):
    _, found = detect(method)
    assert found.scores.index.equals(found.task.pool_ids)
    assert (found.task.oracle_targets is not None) == (method == "oracle")


def test_the_control_compares_an_image_with_another_images_label_only_as_released():
    both = {a: detect("pseudo_label_ce", alignment=a)[1].scores for a in ("aligned", "as_released")}
    step, msp = detect("msp", alignment="as_released")
    assert not msp.task.own_logits.equals(msp.task.pool_logits)
    differ = both["aligned"] != both["as_released"]
    assert differ.any() and set(step.protocol.pool["part"][differ]) == {"open train"}
    aligned_msp = detect("msp")[1].scores
    assert both["aligned"].rank().equals(aligned_msp.rank()) and (both["as_released"] >= both["aligned"]).all()


def test_true_labels_reach_only_what_says_oracle():
    assert detect("msp")[1].task.oracle_targets is None
    given = GIVEN | {"method": "noisy_label", "variant": "one", "overrides": {"oracle_open_label": "anger"}}
    step = pipeline.open_step(DetectionParameters.build(given, "notebook parameters"))
    targets = pipeline.need_tasks(step)["noisy_label"].oracle_targets
    assert (targets == -1).sum() == step.protocol.pool["is_open"].sum()


def test_another_pool_has_its_own_results_and_the_same_f_close(place):
    full, first = detect()
    step, found = detect(pool="test_only")
    assert set(step.protocol.pool["split"]) == {"test"} and step.folder.closed_set == full.folder.closed_set
    assert found.task.folder == step.folder.method("msp", variant="pool_test_only")
    pd.testing.assert_series_equal(found.scores, first.scores.loc[found.scores.index])
    row = pipeline.save_scores(step, found, pipeline.evaluate(step, found))
    assert row["variant"] == "pool_test_only" and row["n_open"] == 6


def test_a_pool_with_changed_images_gets_new_outputs_once(place, monkeypatch):
    _, first = detect()
    step, found = detect(pool="brightness")
    assert found.scores.index.equals(first.scores.index) and not found.scores.equals(first.scores)
    assert (step.folder.shifted_outputs("brightness") / "outputs.npz").exists()
    monkeypatch.setattr(pipeline, "closed_outputs", None)
    _, again = detect(pool="brightness")
    assert again.scores.equals(found.scores)
    made = []
    monkeypatch.setattr(pipeline, "closed_outputs", lambda *given: made.append(given) or closed_outputs(*given))
    lighter = pool_settings("brightness").model_copy(update={"brightness": 60.0})
    monkeypatch.setattr(
        pipeline, "pool_settings", lambda name: lighter if name == "brightness" else pool_settings(name)
    )
    _, other = detect(pool="brightness")  # the pool's own settings were changed
    assert made and not other.scores.equals(found.scores)
