"""The training loop: it learns, it can be killed at any time, and it says when a loss has gone wrong."""

import errno
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from tiny import CPU
from torch import nn

from fer_openset import fit as module
from fer_openset.backbones import new_net
from fer_openset.checkpoint import load_tensors
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, rate_at, stream_seed, training_seconds

ROOT = Path(__file__).resolve().parents[2]
X = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)).astype("float32"))
Y = (X[:, 0] + X[:, 1] > 0).long()


def settings_of(**changes):
    return OptimSettings(**{"lr": 0.01, "epochs": 4, "batch_size": 8, **changes})


def learner(settings, name="net", seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return Learner(name, net, make_optimizer(net, settings))


def loss_of(net, rows, generator, epoch):
    x = X[rows] + 0.1 * torch.randn(len(rows), 6, generator=generator)
    logits = net(x)
    return F.cross_entropy(logits, Y[rows]), {"accuracy": (logits.argmax(1) == Y[rows]).float().mean()}


def run(folder, learners=None, settings=None, rows=None, loss=loss_of, **more):
    settings = settings or settings_of()
    learners = learners or [learner(settings)]
    rows = np.arange(50) if rows is None else rows
    given = {"seed": 0, "label": "toy", **more}
    history = fit(learners, loss, given.pop("rows_of", lambda epoch: {x.name: rows for x in learners}), settings,
                  CPU, folder=folder, **given)  # fmt: skip
    return learners, history


def same(first, second):
    """Weights and optimiser state equal bit for bit."""
    for one, other in zip(first, second, strict=True):
        a, b = one.net.state_dict(), other.net.state_dict()
        assert all(torch.equal(a[k], b[k]) for k in a)
        a, b = one.optimizer.state_dict(), other.optimizer.state_dict()
        assert a["param_groups"] == b["param_groups"] and a["state"].keys() == b["state"].keys()
        for p in a["state"]:
            assert all(
                torch.equal(torch.as_tensor(a["state"][p][k]), torch.as_tensor(b["state"][p][k])) for k in a["state"][p]
            )


def without_seconds(history):
    return history.drop(columns="seconds")


class Killed(Exception):
    pass


def dies_after(epoch):
    def after_epoch(now):
        if now == epoch:
            raise Killed
        return {"watched": float(now)}

    return after_epoch


def test_it_learns(tmp_path):
    _, history = run(tmp_path, settings=settings_of(epochs=12))
    assert history["loss"].iloc[-1] < 0.6 * history["loss"].iloc[0] and history["accuracy"].iloc[-1] > 0.85
    assert history["epoch"].tolist() == list(range(1, 13))


def test_history_has_a_row_per_epoch_and_learner_and_is_written(tmp_path):
    settings = settings_of()
    learners = [learner(settings, "f1", 1), learner(settings, "f2", 2)]
    _, history = run(tmp_path, learners, settings, after_epoch=lambda epoch: {"watched": epoch * 10})
    assert list(zip(history["epoch"], history["learner"], strict=True)) == [
        (e, f) for e in (1, 2, 3, 4) for f in ("f1", "f2")
    ]
    assert list(history.columns) == ["epoch", "learner", "n", "lr", "loss", "accuracy", "watched", "seconds"]
    assert history["watched"].tolist() == [0, 0, 10, 10, 20, 20, 30, 30] and (history["n"] == 50).all()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), history, check_dtype=False)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("killed", [0, 2])
def test_killed_and_resumed_equals_undisturbed(tmp_path, optimizer, killed):
    settings = settings_of(optimizer=optimizer, schedule="one_cycle")
    names = ("f1", "f2")

    def watched(epoch):
        return {"watched": float(epoch)}

    whole, expected = run(tmp_path / "whole", [learner(settings, n) for n in names], settings, after_epoch=watched)
    with pytest.raises(Killed):
        run(tmp_path / "cut", [learner(settings, n) for n in names], settings, after_epoch=dies_after(killed))
    fresh = [learner(settings, n, seed=99) for n in names] if killed else [learner(settings, n) for n in names]
    resumed, history = run(tmp_path / "cut", fresh, settings, after_epoch=watched)
    same(whole, resumed)
    pd.testing.assert_frame_equal(without_seconds(history), without_seconds(expected))
    written = pd.read_csv(tmp_path / "cut" / "history.csv")
    pd.testing.assert_frame_equal(without_seconds(written), without_seconds(expected), check_dtype=False)


def test_a_real_network_resumes_bit_for_bit(tmp_path):
    """ResNet-18, channels last: optimiser state comes back in another memory layout and must not matter."""
    images = torch.randn(12, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = settings_of(epochs=2, batch_size=6, lr=1e-3)

    def loss(net, rows, generator, epoch):
        return F.cross_entropy(net(images[rows].contiguous(memory_format=torch.channels_last)), Y[rows])

    def net_learner(seed):
        net = CPU.place(new_net("resnet18", 2, seed))
        return Learner("net", net, make_optimizer(net, settings))

    whole, expected = run(tmp_path / "whole", [net_learner(0)], settings, np.arange(12), loss)
    with pytest.raises(Killed):
        run(tmp_path / "cut", [net_learner(0)], settings, np.arange(12), loss, after_epoch=dies_after(1))
    resumed, history = run(tmp_path / "cut", [net_learner(5)], settings, np.arange(12), loss)
    same(whole, resumed)
    pd.testing.assert_series_equal(history["loss"], expected["loss"])


SIGKILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {unit!r}]
from test_fit import run
def kill(epoch):
    if epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {{}}
run({folder!r}, after_epoch=kill)
"""


def test_a_run_ended_by_sigkill_is_resumed(tmp_path):
    folder = tmp_path / "cut"
    code = SIGKILLED.format(tests=str(ROOT / "tests"), unit=str(ROOT / "tests" / "unit"), folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_tensors(folder / "checkpoint.safetensors")[1]["history"][-1]["epoch"] == 2
    whole, expected = run(tmp_path / "whole", after_epoch=lambda epoch: {})
    resumed, history = run(folder, after_epoch=lambda epoch: {})
    same(whole, resumed)
    pd.testing.assert_frame_equal(without_seconds(history), without_seconds(expected))


def test_resuming_says_so_and_a_finished_run_trains_nothing(tmp_path, capsys):
    with pytest.raises(Killed):
        run(tmp_path, after_epoch=dies_after(2))
    capsys.readouterr()
    run(tmp_path)
    assert "toy: resuming after epoch 2 of 4" in capsys.readouterr().out

    def never(*args):
        raise AssertionError("trained again")

    _, history = run(tmp_path, loss=never)
    assert len(history) == 4


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("net", {"settings": settings_of(lr=0.02)}),
        ("net", {"settings": settings_of(epochs=5)}),
        ("net", {"seed": 1}),
        ("net", {"identity": {"alignment": "as_released"}}),
        ("other", {}),
    ],
)
def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path, capsys, name, change):
    run(tmp_path / "cut")
    capsys.readouterr()
    first, again = (run(tmp_path / place, [learner(settings_of(), name)], **change)[1] for place in ("fresh", "cut"))
    assert "resuming" not in capsys.readouterr().out and again["epoch"].iloc[0] == 1
    pd.testing.assert_frame_equal(without_seconds(again), without_seconds(first))


def test_the_same_identity_is_resumed(tmp_path, capsys):
    identity = {"dataset": "tiny", "n": 50, "data": 3}
    run(tmp_path, identity=identity)
    capsys.readouterr()
    run(tmp_path, identity=dict(identity))
    assert "resuming after epoch 4 of 4" in capsys.readouterr().out


def test_a_record_of_another_training_does_not_outlive_its_start(tmp_path):
    record = tmp_path / "run.json"
    run(tmp_path)
    record.write_text("{}")
    run(tmp_path)  # nothing left to train
    assert record.exists()

    def spy(*_):
        assert not record.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings=settings_of(lr=0.02), loss=spy)
    assert not record.exists()


def test_extra_tensors_travel_with_the_run(tmp_path):
    def counting(total, kill=None):
        def after_epoch(epoch):
            total.add_(epoch + 1)
            if epoch == kill:
                raise Killed
            return {}

        return after_epoch

    whole, cut, resumed = (torch.zeros(2, dtype=torch.float64) for _ in range(3))
    run(tmp_path / "whole", after_epoch=counting(whole), extra={"total": whole})
    with pytest.raises(Killed):
        run(tmp_path / "cut", after_epoch=counting(cut, kill=2), extra={"total": cut})
    run(tmp_path / "cut", after_epoch=counting(resumed), extra={"total": resumed})
    assert torch.equal(whole, resumed) and whole.tolist() == [10.0, 10.0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tmp_path, bad):
    seen = []

    def turns_bad(net, rows, generator, epoch):
        seen.append(len(rows))
        loss = F.cross_entropy(net(X[rows]), Y[rows])
        return loss * bad if len(seen) == 15 else loss  # third step of the third epoch of six steps

    with pytest.raises(UserError, match=r"toy: the loss became (nan|inf) in epoch 3; lower lr \(now 0.01\)") as caught:
        run(tmp_path, loss=turns_bad)
    assert "\n" not in str(caught.value)
    tensors, header = load_tensors(tmp_path / "checkpoint.safetensors")
    assert header["history"][-1]["epoch"] == 2
    assert all(torch.isfinite(t.float()).all() for t in tensors.values())


def test_a_last_step_that_spoils_the_weights_stops_too(tmp_path):
    """The loss is measured before the step: a run can end with a fine loss and useless weights."""
    settings = settings_of(epochs=1, batch_size=50, optimizer="sgd", lr=1e10)
    with pytest.raises(UserError, match="a weight became infinite or NaN in epoch 1"):
        run(tmp_path, settings=settings, loss=lambda net, rows, generator, epoch: net(X[rows]).mean() * 1e30)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_no_gradients_are_held_during_a_forward_pass(tmp_path):
    """They are as large as the network, and needed least where memory is tightest."""
    settings, seen = settings_of(epochs=2), []
    learners = [learner(settings, name) for name in ("one", "two")]

    def watching(net, rows, generator, epoch):
        seen.append([p.grad for x in learners for p in x.net.parameters()])
        return loss_of(net, rows, generator, epoch)

    run(tmp_path, learners, settings, loss=watching)
    assert len(seen) == 2 * 2 * 6
    assert all(grad is None for grads in seen for grad in grads)


def test_what_the_loss_leaves_in_the_gradients_is_not_learned(tmp_path):
    def leaving(net, rows, generator, epoch):
        net[0].weight.grad = torch.full_like(net[0].weight, 1e3)
        return loss_of(net, rows, generator, epoch)

    (left, _), (plain, _) = (run(tmp_path / name, loss=loss) for name, loss in (("a", leaving), ("b", loss_of)))
    same(left, plain)


def test_the_seconds_of_a_training_are_those_of_its_histories(tmp_path):
    assert training_seconds(tmp_path) == 0
    for name, seconds in (("round1", [1.5, 2.0]), (".", [3.0, 4.25])):
        (tmp_path / name).mkdir(exist_ok=True)
        table = pd.DataFrame({"epoch": [1, 1, 2, 2], "learner": ["a", "b"] * 2, "seconds": np.repeat(seconds, 2)})
        table.to_csv(tmp_path / name / "history.csv", index=False)
    assert training_seconds(tmp_path) == 10.75


def turns(settings, spoil=None):
    """Two networks that take turns: the step of `pupil` trains both, `teacher` has no epochs of its own."""
    pupil, teacher = learner(settings, "pupil", 1), learner(settings, "teacher", 2)

    def step(rows, generator, epoch):
        lr = pupil.optimizer.param_groups[0]["lr"]
        assert lr == rate_at(settings, epoch, 0) and pupil.net.training and teacher.net.training
        for x in (teacher, pupil):
            x.optimizer.zero_grad()
            loss, parts = loss_of(x.net, rows, generator, epoch)
            loss.backward()
            x.optimizer.step()
        if epoch == spoil:
            with torch.no_grad():
                teacher.net[0].weight[0, 0] = float("nan")
        return {"loss": loss, **parts}

    pupil.step = step
    return [pupil, teacher]


def one_trains_both(epoch):
    return {"pupil": np.arange(50), "teacher": None}


def test_a_learner_s_own_step_trains_others_too_and_all_of_them_are_resumed(tmp_path):
    settings = settings_of(schedule="exponential")

    def evaluates(epoch):  # what a method does between epochs must not reach the next one
        for x in started:
            x.net.eval()
        return {}

    started = turns(settings)
    first = [{k: v.clone() for k, v in x.net.state_dict().items()} for x in started]
    whole, expected = run(tmp_path / "whole", started, settings, rows_of=one_trains_both, after_epoch=evaluates)
    assert (expected["learner"] == "pupil").all() and len(expected) == 4
    assert expected["loss"].iloc[-1] < expected["loss"].iloc[0]
    for x, before in zip(whole, first, strict=True):
        assert not any(torch.equal(before[k], v) for k, v in x.net.state_dict().items())
    with pytest.raises(Killed):
        run(tmp_path / "cut", turns(settings), settings, rows_of=one_trains_both, after_epoch=dies_after(2))
    fresh = turns(settings)
    with torch.no_grad():
        for x in fresh:
            x.net[0].weight.zero_()
    resumed, history = run(tmp_path / "cut", fresh, settings, rows_of=one_trains_both)
    same(whole, resumed)
    pd.testing.assert_series_equal(history["loss"], expected["loss"])


def test_weights_that_another_learner_s_step_spoils_are_noticed(tmp_path):
    settings = settings_of()
    with pytest.raises(UserError, match=r"a weight became infinite or NaN in epoch 2 \(teacher\); lower lr"):
        run(tmp_path, turns(settings, spoil=1), settings, rows_of=one_trains_both)
    tensors, header = load_tensors(tmp_path / "checkpoint.safetensors")
    assert header["history"][-1]["epoch"] == 1 and all(torch.isfinite(t.float()).all() for t in tensors.values())


def test_a_learner_that_rows_of_forgets_is_an_error(tmp_path):
    with pytest.raises(KeyError, match="teacher"):
        run(tmp_path, turns(settings_of()), rows_of=lambda epoch: {"pupil": np.arange(50)})


def test_full_disk_while_saving_keeps_the_epoch_before(tmp_path, monkeypatch):
    save, calls = module.save_tensors, []

    def fills_up(path, tensors, **header):
        calls.append(path)
        if len(calls) == 3:
            tensors = {"nothing that can be stored": Full()}
        return save(path, tensors, **header)

    class Full:
        """A tensor whose bytes no longer fit on the disk."""

        dtype, shape = torch.float32, ()
        numel, element_size = (lambda self: 1), (lambda self: 4)

        def detach(self):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_tensors", fills_up)
        with pytest.raises(UserError, match="the disk is full"):
            run(tmp_path / "cut")
    assert sorted(p.name for p in (tmp_path / "cut").iterdir()) == ["checkpoint.safetensors", "history.csv"]
    whole, _ = run(tmp_path / "whole")
    resumed, history = run(tmp_path / "cut")
    same(whole, resumed)
    assert history["epoch"].tolist() == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_one_sentence(tmp_path):
    run(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"junk")
    with pytest.raises(UserError, match="delete it and run the step again"):
        run(tmp_path)


def test_rows_are_asked_for_once_an_epoch_and_nothing_else_is_trained_on(tmp_path):
    asked, used = [], {}

    def rows_of(epoch):
        asked.append(epoch)
        return {"net": np.arange(epoch * 10, epoch * 10 + 16)}

    def spy(net, rows, generator, epoch):
        assert epoch == asked[-1]
        used.setdefault(epoch, []).extend(rows.tolist())
        return loss_of(net, rows, generator, epoch)

    _, history = run(tmp_path, rows_of=rows_of, loss=spy, settings=settings_of(epochs=3))
    assert asked == [0, 1, 2] and history["n"].tolist() == [16, 16, 16]
    for epoch in asked:
        assert sorted(used[epoch]) == list(range(epoch * 10, epoch * 10 + 16))
        assert used[epoch] != sorted(used[epoch])  # in random order


def test_each_epoch_has_its_own_order_and_views_and_learners_do_not_share_them(tmp_path):
    settings = settings_of(epochs=2, batch_size=50)
    seen = {}

    def spy(net, rows, generator, epoch):
        seen.setdefault(id(net), []).append((tuple(rows), float(torch.rand(1, generator=generator))))
        return loss_of(net, rows, generator, epoch)

    run(tmp_path, [learner(settings, "f1"), learner(settings, "f2")], settings, loss=spy)
    drawn = [pair for pairs in seen.values() for pair in pairs]
    assert len({order for order, _ in drawn}) == 4 and len({value for _, value in drawn}) == 4


@pytest.mark.parametrize(("n", "batch", "expected"), [(5, 8, [5]), (8, 8, [8]), (17, 8, [8, 8]), (2, 1, [1, 1])])
def test_short_batches(tmp_path, n, batch, expected):
    sizes = []

    def spy(net, rows, generator, epoch):
        sizes.append(len(rows))
        return net[0](X[rows]).square().mean()

    _, history = run(tmp_path, settings=settings_of(epochs=1, batch_size=batch), rows=np.arange(n), loss=spy)
    assert sizes == expected and history["n"].tolist() == [n]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [0.01] * 4),
        ({"schedule": "exponential", "gamma": 0.5}, [0.01, 0.005, 0.0025, 0.00125]),
        ({"schedule": "cycle", "gamma": 0.5, "cycle_length": 2}, [0.01, 0.005, 0.01, 0.005]),
        ({"schedule": "cycle", "gamma": 0.9, "cycle_length": 10}, [0.01, 0.009, 0.0081, 0.00729]),
        ({"schedule": "steps", "gamma": 0.5, "milestones": [1, 3]}, [0.01, 0.005, 0.005, 0.0025]),
        ({"schedule": "steps", "gamma": 0.5}, [0.01, 0.01, 0.01, 0.01]),
        ({"schedule": "one_cycle", "warmup": 0.5}, [1e-5, 0.005, 0.01, 0.005]),
        ({"schedule": "one_cycle", "warmup": 0.0}, [0.01, 0.0075, 0.005, 0.0025]),
    ],
)
def test_rates_at_the_start_of_each_epoch(changes, expected):
    settings = settings_of(**changes)
    assert [rate_at(settings, epoch, 0.0) for epoch in range(4)] == pytest.approx(expected)


def test_one_cycle_moves_within_an_epoch_and_the_others_do_not():
    settings = settings_of(schedule="one_cycle", warmup=0.5)
    assert [rate_at(settings, 1, s) for s in (0.25, 0.5, 0.75)] == pytest.approx([0.00625, 0.0075, 0.00875])
    assert rate_at(settings, 3, 0.999) == pytest.approx(0.01 * 0.001, rel=1)
    for schedule in ("constant", "exponential", "cycle", "steps"):
        settings = settings_of(schedule=schedule)
        assert rate_at(settings, 2, 0.0) == rate_at(settings, 2, 0.9)


def test_the_paper_cycle_comes_back_every_ten_epochs():
    settings = settings_of(schedule="cycle", lr=2e-4, epochs=40)
    rates = [rate_at(settings, epoch, 0.0) for epoch in range(40)]
    assert rates[0] == rates[10] == rates[20] == rates[30] == 2e-4
    assert rates[9] == rates[39] == pytest.approx(2e-4 * 0.9**9)


def test_the_rate_reaches_the_optimizer(tmp_path):
    seen = []
    settings = settings_of(schedule="one_cycle", warmup=0.5, epochs=2, batch_size=25)
    one = learner(settings)

    def spy(net, rows, generator, epoch):
        seen.append([group["lr"] for group in one.optimizer.param_groups])
        return loss_of(net, rows, generator, epoch)

    run(tmp_path, [one], settings, loss=spy)
    assert [s[0] for s in seen] == pytest.approx([1e-5, 0.005, 0.01, 0.005])


def test_optimizers_and_what_they_decay():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    adam = make_optimizer(net, settings_of(weight_decay=0.3))
    assert type(adam) is torch.optim.Adam and [g["weight_decay"] for g in adam.param_groups] == [0.3]
    for name, kind in (("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)):
        made = make_optimizer(net, settings_of(optimizer=name, weight_decay=0.3))
        assert type(made) is kind
        decayed = {id(p) for g in made.param_groups if g["weight_decay"] == 0.3 for p in g["params"]}
        assert decayed == {id(net[0].weight)}
        assert sum(len(g["params"]) for g in made.param_groups) == 4
    assert make_optimizer(net, settings_of(optimizer="sgd")).param_groups[0]["nesterov"]
    assert not make_optimizer(net, settings_of(optimizer="sgd", momentum=0.0)).param_groups[0]["nesterov"]


def test_stream_seeds_are_the_same_everywhere():
    assert stream_seed(0, "f_close") == 7104799345360174170
    assert len({stream_seed(0, "a", 1), stream_seed(0, "a", 2), stream_seed(1, "a", 1), stream_seed(0, 1, "a")}) == 4


def test_header_of_the_checkpoint_is_plain_json(tmp_path):
    run(tmp_path, identity={"dataset": "tiny"})
    header = load_tensors(tmp_path / "checkpoint.safetensors")[1]
    assert header["run"]["settings"]["lr"] == 0.01 and header["run"]["dataset"] == "tiny"
    json.dumps(header)


def test_progress_is_shown_within_a_long_epoch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fer_openset.fit.PROGRESS_SECONDS", -1)
    run(tmp_path, settings=settings_of(epochs=1))
    lines = capsys.readouterr().out.splitlines()
    assert "toy: epoch 1, net, step 1 of 6" in lines
    assert lines[-1].startswith("toy: epoch 1/1 ") and "loss" in lines[-1] and "accuracy" in lines[-1]
