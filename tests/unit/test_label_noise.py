"""The label-noise rivals on planted data: wrong pseudo labels are found, folds are kept apart, killed runs resume."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from test_noisy_label import planted
from tiny import CPU, killed_at_call, small_net, tiny_dataset

from fer_openset import closed_set, metrics
from fer_openset.checkpoint import load_tensors
from fer_openset.closed_set import ClosedSetSettings, predict, train_closed_set
from fer_openset.errors import UserError
from fer_openset.fit import stream_seed
from fer_openset.methods import label_noise as module
from fer_openset.methods import method_settings, noisy_label
from fer_openset.methods.label_noise import (
    DisagreementSettings,
    LossAverageSettings,
    SelfConfidenceSettings,
    disagreement,
    jensen_shannon,
    loss_average,
    self_confidence,
)
from fer_openset.methods.noisy_label import NoisyLabelSettings
from fer_openset.methods.task import Task
from fer_openset.protocol import make_protocol
from fer_openset.runs import RunFolder, save_record


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for place in (module, noisy_label, closed_set):
        monkeypatch.setattr(place, "new_net", small_net)


def recipe(**changes):
    return SelfConfidenceSettings(
        **dict(image_size=32, init="scratch", lr=0.02, epochs=6, batch_size=16, folds=3) | changes
    )


# self_confidence


@pytest.mark.parametrize("changes", [{}, {"folds": 2}, {"label_smoothing": 0.1}, {"start_size": 16, "start_epochs": 2}])
def test_self_confidence_finds_wrong_pseudo_labels(tmp_path, changes):
    task, is_wrong = planted(tmp_path, n=30)
    scores = self_confidence(task, recipe(**changes))
    assert scores.index.equals(task.pool_ids) and (scores >= 0).all()
    assert metrics.auroc(scores.to_numpy(), is_wrong) > 0.9


def test_an_image_is_scored_by_a_network_that_never_saw_it(tmp_path, monkeypatch):
    trained, scored, fit, entropies = {}, {}, module.fit, module.cross_entropies

    def spy_fit(learners, loss_of, rows_of, *rest):
        trained.update({id(x.net): rows_of(0)[x.name] for x in learners})
        return fit(learners, loss_of, rows_of, *rest)

    def spy_entropies(net, task, settings, rows, labels):
        scored[id(net)] = rows
        return entropies(net, task, settings, rows, labels)

    monkeypatch.setattr(module, "fit", spy_fit)
    monkeypatch.setattr(module, "cross_entropies", spy_entropies)
    task, _ = planted(tmp_path)
    self_confidence(task, recipe(epochs=1))
    rows = task.dataset.rows(task.pool_ids)
    assert len(scored) == 3 and sorted(np.concatenate(list(scored.values()))) == sorted(rows)
    for net, out in scored.items():
        assert not np.intersect1d(trained[net], out).size and len(trained[net]) + len(out) == len(rows)


def test_self_confidence_does_not_depend_on_the_order_of_the_pool_for_its_folds(tmp_path):
    task, _ = planted(tmp_path / "a")
    fold = module.fold_of(task.pool_ids, 3, 0, "self_confidence")
    order = np.random.default_rng(0).permutation(len(fold))
    assert (module.fold_of(task.pool_ids[order], 3, 0, "self_confidence") == fold[order]).all()


def test_self_confidence_starts_from_f_close_if_asked(tmp_path):
    task, _ = planted(tmp_path)
    nets = [module._learner("f0", task, recipe(init=init)).net for init in ("f_close", "scratch")]
    same = [
        all((a == b).all() for a, b in zip(n.parameters(), task.f_close.net.parameters(), strict=True)) for n in nets
    ]
    assert same == [True, False]


def test_self_confidence_killed_and_resumed_gives_the_same_scores(tmp_path, monkeypatch, capsys):
    task, _ = planted(tmp_path / "whole")
    expected = self_confidence(task, recipe(epochs=3))
    cut = replace(task, folder=tmp_path / "cut")
    killed_at_call(20, monkeypatch, module, "_loss", lambda: self_confidence(cut, recipe(epochs=3)))
    pd.testing.assert_series_equal(self_confidence(cut, recipe(epochs=3)), expected, check_exact=True)
    assert "resuming after epoch 2 of 3" in capsys.readouterr().out
    self_confidence(replace(cut, alignment="as_released"), recipe(epochs=3))
    assert "resuming" not in capsys.readouterr().out


def test_more_folds_than_images_are_refused(tmp_path):
    task, _ = planted(tmp_path, n=1)
    with pytest.raises(UserError, match="folds = 5, but the pool has 4 images"):
        self_confidence(task, recipe(folds=5))


# disagreement


def test_jensen_shannon_by_hand():
    first, second = np.random.default_rng(0).normal(0, 4, (2, 50, 5))
    expected = [jensenshannon(p, q) ** 2 for p, q in zip(softmax(first, 1), softmax(second, 1), strict=True)]
    np.testing.assert_allclose(jensen_shannon(first, second), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jensen_shannon(first, first + 3), 0, atol=1e-12)
    sure = np.array([[900.0, 0, 0]])
    assert jensen_shannon(sure, sure[:, ::-1].copy()) == pytest.approx(np.log(2))


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    """An f_close, trained on six classes of tiny images, and its task: the seventh, surprise, is open."""
    dataset = tiny_dataset({"train": 30, "valid": 1, "test": 8})
    protocol = make_protocol(dataset.table, dataset.classes, "surprise")
    settings = ClosedSetSettings(lr=0.03, epochs=10, schedule="one_cycle", batch_size=16, image_size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_set, "new_net", small_net)
        model, _ = train_closed_set(dataset, protocol, settings, CPU, 0, tmp_path_factory.mktemp("f_close"))
    logits = predict(model.net, dataset, dataset.rows(protocol.pool.index), 32, 64, CPU)
    logits = pd.DataFrame(logits, index=protocol.pool.index, columns=list(protocol.known_classes))

    def task(folder, logits=logits, seed=0):
        return Task(dataset, protocol.known_classes, protocol.train, protocol.valid, logits, model, CPU, seed,
                    "aligned", folder)  # fmt: skip

    return task, protocol, settings


def method_folder(root, settings):
    """A folder of `disagreement` below `root`, beside the record of an f_close of these settings."""
    folder = root / "methods" / "disagreement" / "aligned" / "default"
    folder.mkdir(parents=True)
    assert RunFolder.closed_set_of(folder) == root / "closed_set"
    save_record(root / "closed_set", {"settings": {"closed_set": settings.model_dump(mode="json")}})
    return folder


def test_the_second_model_has_f_closes_recipe_and_a_seed_of_its_own(closed, tmp_path, monkeypatch):
    task, protocol, settings = closed
    calls, train = [], module.train_closed_set
    monkeypatch.setattr(module, "train_closed_set", lambda *a: calls.append(a) or train(*a))
    folder = method_folder(tmp_path, settings)
    scores = disagreement(task(folder), DisagreementSettings())
    _, given, recipe, _, seed, trained_in = calls[0]
    assert recipe == settings and seed == stream_seed(0, "second f_close") != 0 and trained_in == folder
    assert given.train.equals(protocol.train) and given.known_classes == protocol.known_classes
    assert given.name == protocol.name
    second = closed_set.load_model(folder, CPU)
    logits = predict(second.net, task(folder).dataset, task(folder).dataset.rows(scores.index), 32, 64, CPU)
    np.testing.assert_allclose(scores, jensen_shannon(task(folder).pool_logits.to_numpy(), logits), atol=1e-6)
    assert scores.between(0, np.log(2)).all() and scores.nunique() == len(scores)


@pytest.mark.parametrize("override", [{"epochs": 2}, {"label_smoothing": 0.2, "epochs": 1}])
def test_the_second_model_follows_an_f_close_with_overrides(closed, tmp_path, override):
    """Nothing but the seed may differ, also where f_close is not as params/closed_set.yaml has it."""
    task, _, _ = closed
    settings = closed_set.closed_set_settings("smoke", override)
    folder = method_folder(tmp_path, settings)
    disagreement(task(folder), DisagreementSettings())
    run = load_tensors(folder / "checkpoint.safetensors")[1]["run"]
    assert run["settings"] == settings.model_dump(mode="json") and run["settings"]["epochs"] == override["epochs"]


def test_both_models_start_from_the_weights_of_one_seed(closed, tmp_path, monkeypatch):
    task, _, settings = closed
    calls = []

    def stop(*given):
        calls.append(given[2])
        raise KeyError

    monkeypatch.setattr(module, "train_closed_set", stop)
    started = settings.model_copy(update={"init": "pretrained", "weights": "{dataset}/seed{seed}/body.safetensors"})
    with pytest.raises(KeyError):
        disagreement(task(method_folder(tmp_path, started), seed=3), DisagreementSettings())
    assert calls[0].weights == "{dataset}/seed3/body.safetensors"


def test_without_f_closes_record_there_is_no_second_model(closed, tmp_path):
    task, _, settings = closed
    folder = method_folder(tmp_path, settings)
    (tmp_path / "closed_set" / "run.json").unlink()
    with pytest.raises(UserError, match="closed_set/run.json: this step has not run yet"):
        disagreement(task(folder), DisagreementSettings())


def test_disagreement_finds_logits_that_belong_to_other_images(closed, tmp_path):
    task, protocol, settings = closed
    folder = method_folder(tmp_path, settings)
    logits = task(folder).pool_logits
    known = protocol.pool.index[~protocol.pool["is_open"]]  # classes alternate: the next image shows another one
    wrong = known[::4]
    moved = logits.copy()
    moved.loc[wrong] = logits.loc[known[1::4]].to_numpy()
    scores = disagreement(task(folder, moved), DisagreementSettings())[known]
    assert metrics.auroc(scores.to_numpy(), known.isin(wrong)) > 0.9


def test_a_scrambled_order_changes_f_closes_side_only(closed, tmp_path, capsys):
    """The second model sees each image itself; it does not depend on the alignment and is not trained anew."""
    task, _, settings = closed
    folder = method_folder(tmp_path, settings)
    aligned = task(folder)
    disagreement(aligned, DisagreementSettings())
    order = np.random.default_rng(0).permutation(len(aligned.pool_ids))
    moved = aligned.pool_logits.iloc[order].set_axis(aligned.pool_ids)
    capsys.readouterr()
    scores = disagreement(task(folder, moved), DisagreementSettings())
    assert "resuming after epoch 10 of 10" in capsys.readouterr().out
    second = closed_set.load_model(folder, CPU)
    logits = predict(second.net, aligned.dataset, aligned.dataset.rows(scores.index), 32, 64, CPU)
    np.testing.assert_allclose(scores, jensen_shannon(moved.to_numpy(), logits), atol=1e-6)


# loss_average


def averaged(**changes):
    given = dict(image_size=32, init="scratch", lr=0.02, epochs=6, batch_size=16, schedule="cycle", cycle_length=3)
    return LossAverageSettings(**given | changes)


def test_loss_average_finds_wrong_pseudo_labels_and_is_centred(tmp_path, capsys):
    task, is_wrong = planted(tmp_path, n=30)
    scores = loss_average(task, averaged())
    assert metrics.auroc(scores.to_numpy(), is_wrong) > 0.8 and abs(scores.mean()) < 1e-9
    assert "loss_average aligned: epoch 6/6" in capsys.readouterr().out


def test_loss_average_is_noisy_label_without_its_ideas(tmp_path):
    task, _ = planted(tmp_path / "a")
    plain = NoisyLabelSettings(
        **averaged(epochs=2).model_dump(), attention=False, consistency_weight=5.0, cycle_training=False, nets=1,
        warmup_epochs=3, select_threshold=0.9, score="trajectory",
    )  # fmt: skip
    expected = noisy_label.noisy_label(replace(task, folder=tmp_path / "b"), plain)
    pd.testing.assert_series_equal(loss_average(task, averaged(epochs=2)), expected, check_exact=True)


def test_loss_average_has_no_switch_for_the_papers_ideas():
    for key in ("attention", "cycle_training", "nets", "score"):
        with pytest.raises(UserError, match=f"unknown key '{key}'"):
            method_settings("loss_average", "cpu", {key: 1})
