"""DIAS on planted data: fakes get near-uniform predictions, real images stay known, and the real norms stay clean."""

import math
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from rounding import needs_kernel, packs
from tiny import CPU, SmallNet, killed_at_call, tiny_dataset
from torch import nn

from fer_openset import metrics
from fer_openset.augment import clean_view, normalise, resize
from fer_openset.backbones import new_net
from fer_openset.checkpoint import load_tensors
from fer_openset.closed_set import ClosedModel, batch_of
from fer_openset.datasets import Dataset
from fer_openset.errors import UserError
from fer_openset.methods import dias as module
from fer_openset.methods import method_settings
from fer_openset.methods.dias import DiasSettings, Simulator, dias, smoothed, staged
from fer_openset.methods.gan import Discriminator, Generator, new_gan
from fer_openset.methods.predictions import read_predictions
from fer_openset.methods.task import Task
from fer_openset.methods.two_norms import BORROWED, FAKE, TwoNorms, norms, split_norms

KNOWN, OPEN = ("fear", "disgust", "happiness"), "anger"
CLASSES = ("fear", "disgust", OPEN, "happiness")  # by brightness: the open class lies between known ones


class StagedNet(SmallNet):
    """Four stages of one convolution each: 32 px give 16, 8, 4 and 2 pixels a side."""

    def __init__(self, n_classes):
        nn.Module.__init__(self)
        widths = [1, 8, 16, 32, 32]
        self.body = nn.Sequential(*(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in pairwise(widths)
        ))  # fmt: skip
        self.head = nn.Linear(32, n_classes)

    def until(self, x, stage):
        return self.body[:stage](x)

    def since(self, features, stage, last=4):
        return self.body[stage:last](features)


def staged_net(backbone, n_classes, seed):
    """Stands in for `backbones.new_net`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StagedNet(n_classes)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "new_net", staged_net)


def settings_of(**changes):
    given = dict(
        image_size=32, init="scratch", copycat_init="scratch", gan_weight=0.1, copycat_weight=0.1,
        copycat_smoothing=0.5, imitation_weight=1.0, copycat_norms="real", generator_size=32, gan_width=4,
        noise_size=16, gan_lr=2e-3, gan_beta1=0.5, lr=3e-3, epochs=6, batch_size=16, flip=0.0,
    )  # fmt: skip
    return DiasSettings(**given | changes)


def planted(folder, seed=0, dataset=None, valid=0, **f_close):
    """Known training images of three classes, a pool with a fourth. Returns: (task, who is open)."""
    dataset = dataset or tiny_dataset({"train": 30, "valid": valid, "test": 15}, CLASSES)
    table = dataset.table
    target = pd.Series(pd.Index(KNOWN).get_indexer(table["label"]), index=table.index, name="target")
    train, valid = (target[(table["split"] == s) & (target >= 0)].to_frame() for s in ("train", "valid"))
    pool = table[table["split"] == "test"]
    logits = pd.DataFrame(np.zeros((len(pool), 3), "float32"), index=pool.index, columns=list(KNOWN))
    model = ClosedModel(f_close.get("net") or staged_net("small", 3, 7), KNOWN, 32, "small")
    task = Task(dataset, KNOWN, train, valid, logits, model, CPU, seed, "aligned", folder)
    return task, (pool["label"] == OPEN).to_numpy()


def simulator_of(task, settings):
    rows = task.dataset.rows(task.train.index)
    targets = np.full(len(task.dataset.table), -1)
    targets[rows] = task.train["target"]
    return Simulator(task, settings, targets), rows


def entropy(logits):
    p = logits.softmax(1)
    return float(-(p * p.clamp_min(1e-30).log()).sum(1).mean())


def trained(task, settings):
    """The simulator as `dias` left it, from its checkpoint."""
    dias(task, settings)
    simulator, rows = simulator_of(task, settings)
    tensors, _ = load_tensors(task.folder / "checkpoint.safetensors")
    for x in simulator.learners:
        prefix = f"{x.name}/net/"
        x.net.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return simulator, rows


def real_set(net):
    """Statistics, scale and shift of the real norms."""
    return {f"{n}.{k}": v.clone() for n, m in net.named_modules() if isinstance(m, TwoNorms)
            for k, v in m.real.state_dict().items()}  # fmt: skip


def equal(a, b):
    return [k for k in a if torch.equal(a[k], b[k])]


# The method as a whole


@pytest.mark.parametrize("change", [{}, {"init": "f_close", "copycat_norms": "fake"}, {"generator_size": 64}])
def test_images_of_an_unseen_class_get_the_high_scores(tmp_path, change):
    task, is_open = planted(tmp_path)
    scores = dias(task, settings_of(**change))
    assert scores.index.equals(task.pool_ids) and scores.dtype == "float64"
    assert scores.between(-1, -1 / 3).all()
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.9
    labels = task.dataset.table.loc[task.pool_ids, "label"].to_numpy()
    assert (np.array(task.known_classes)[read_predictions(task)] == labels)[~is_open].mean() > 0.9


def test_fakes_get_near_uniform_predictions_and_real_images_certain_ones(tmp_path):
    """The mechanism itself; without the weights of the fakes the same networks are certain about them."""
    found = {}
    for weight in (1.0, 0.0):
        task, _ = planted(tmp_path / str(weight))
        # A slow Copycat: where it equals net2, its features are real ones and cannot be uniform.
        settings = settings_of(epochs=10, gan_weight=weight, copycat_weight=weight, imitation_weight=0.1,
                               copycat_norms="fake")  # fmt: skip
        simulator, rows = trained(task, settings)
        net2 = simulator.net2.net
        x = clean_view(batch_of(task.dataset, rows), 32, CPU.torch_device)
        y = torch.tensor(task.train["target"].to_numpy())
        with torch.no_grad():
            simulator.generator.net.train()
            fakes = resize(normalise(simulator.generate(90, torch.Generator().manual_seed(0))), 32)
            copied = staged(simulator.net1.net.train(), x)
            with norms(net2.train(), FAKE):
                generated = entropy(net2(fakes))
            first, second, easy = (entropy(z) for z in simulator.copycat_logits(copied))
            logits = net2.eval()(x)
        assert (logits.argmax(1) == y).float().mean() > 0.95
        found[weight] = {"generated": generated, "easy": easy, "hard": (first, second), "real": entropy(logits)}
    on, off = found[1.0], found[0.0]
    assert on["generated"] > 0.9 * math.log(3) and on["easy"] > 0.9 * math.log(3)
    assert on["real"] < 0.5 * math.log(3)
    half = 2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(6)  # entropy of what LS(.5) asks for: 2/3, 1/6, 1/6
    assert on["hard"] == pytest.approx((half, half), abs=0.12)
    assert on["generated"] > off["generated"] + 0.2 and on["hard"][0] > off["hard"][0] + 0.3, found


def test_it_learns_from_known_training_images_alone(tmp_path):
    task, _ = planted(tmp_path / "a")
    first = dias(task, settings_of(epochs=1))
    images = task.dataset.images.copy()
    pool = task.dataset.rows(task.pool_ids)
    images[pool[1:]] = 255 - images[pool[1:]]
    table = task.dataset.table.copy()
    table.loc[task.pool_ids, "label"] = "unknown to the method"
    logits = task.pool_logits + 5 * np.eye(3)[np.arange(len(pool)) % 3]
    other = Task(**{**vars(task), "dataset": Dataset("tiny", CLASSES, table, images), "pool_logits": logits,
                    "folder": tmp_path / "b"})  # fmt: skip
    second = dias(other, settings_of(epochs=1))
    weights = [load_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("a", "b")]
    assert len(equal(*weights)) == len(weights[0])
    assert first.iloc[0] == second.iloc[0] and not np.allclose(first[1:], second[1:])


def test_killed_and_resumed_gives_the_same_scores_and_weights(tmp_path, monkeypatch):
    settings = settings_of(epochs=3, schedule="one_cycle", images_per_epoch=48, flip=0.5)
    expected = dias(planted(tmp_path / "whole")[0], settings)
    cut, _ = planted(tmp_path / "cut")
    # Three steps a pass, six an epoch: batch 17 is in the Copycat pass of the third epoch.
    killed_at_call(17, monkeypatch, module, "train_view", lambda: dias(cut, settings))
    assert len(pd.read_csv(tmp_path / "cut" / "history.csv")) == 4
    pd.testing.assert_series_equal(dias(cut, settings), expected, check_exact=True)
    whole, again = (load_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "cut"))
    assert whole.keys() == again.keys() and len(equal(whole, again)) == len(whole)
    for name in ("net2", "net1", "generator", "discriminator"):  # weights and optimiser of all four
        assert any(k.startswith(f"{name}/net/") for k in whole) and any(k.startswith(f"{name}/opt/") for k in whole)
    assert any(".fake.running_mean" in k for k in whole)


def test_the_history_shows_both_passes_and_the_validation_accuracy(tmp_path):
    task, _ = planted(tmp_path, valid=6)
    dias(task, settings_of(images_per_epoch=50))
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["learner"].tolist() == ["net2", "net1"] * 6 and (history["n"] == 50).all()
    gan, copycat = (history[history["learner"] == name] for name in ("net2", "net1"))
    assert gan[["loss_d", "loss_g", "told_apart"]].notna().all().all() and gan["distance"].isna().all()
    assert copycat["distance"].iloc[-1] < copycat["distance"].iloc[0]
    assert history["valid_accuracy"].iloc[-1] > 0.9


def test_each_epoch_draws_other_images_and_every_draw_is_of_known_training_images(tmp_path, monkeypatch):
    task, _ = planted(tmp_path)
    seen = []
    original = module.batch_of
    monkeypatch.setattr(module, "batch_of", lambda dataset, rows: seen.append(rows) or original(dataset, rows))
    dias(task, settings_of(epochs=2, images_per_epoch=32))
    passes = [frozenset(np.concatenate(seen[i : i + 2])) for i in (0, 2, 4, 6)]
    assert passes[0] == passes[1] != passes[2] == passes[3] and all(len(p) == 32 for p in passes)
    assert frozenset.union(*passes) <= set(task.dataset.rows(task.train.index))


def test_a_net_starts_from_f_close_with_two_equal_sets(tmp_path):
    task, _ = planted(tmp_path)
    with torch.no_grad():  # an f_close whose norms are not those of a fresh network
        for p in [*task.f_close.net.parameters(), task.f_close.net.body[0][1].running_mean]:
            p.add_(0.05)
    simulator, rows = simulator_of(task, settings_of(init="f_close"))
    x = clean_view(batch_of(task.dataset, rows[:4]), 32, CPU.torch_device)
    net2, f_close = simulator.net2.net.eval(), task.f_close.net.eval()
    torch.testing.assert_close(net2(x), f_close(x))
    with norms(net2, FAKE):
        torch.testing.assert_close(net2(x), f_close(x))
    assert not torch.allclose(simulator.net1.net.eval()(x), f_close(x), atol=1e-3)
    copied, _ = simulator_of(task, settings_of(copycat_init="f_close"))
    torch.testing.assert_close(copied.net1.net.eval()(x), f_close(x))
    assert not torch.allclose(copied.net2.net.eval()(x), f_close(x), atol=1e-3)


def test_the_mirrored_score_sees_the_mirror_image(tmp_path):
    columns = tiny_dataset({"train": 30, "test": 15}, CLASSES)
    ramp = np.linspace(0.4, 1.6, 32)
    lopsided = Dataset("tiny", CLASSES, columns.table, (columns.images * ramp).clip(0, 255).astype(np.uint8))
    task, _ = planted(tmp_path, dataset=lopsided)
    assert not np.allclose(dias(task, settings_of(epochs=1)), dias(task, settings_of(epochs=1, mirror=True)))


# The two passes


def test_a_discriminator_learns_to_tell_and_a_generator_to_pass(tmp_path):
    """The generator stands still: the discriminator must win. Then the discriminator does: the generator must."""
    task, _ = planted(tmp_path)
    simulator, rows = simulator_of(task, settings_of(gan_weight=0.0))
    generator = torch.Generator().manual_seed(0)
    still = torch.optim.SGD(simulator.generator.net.parameters(), lr=0.0)
    moving, simulator.generator.optimizer = simulator.generator.optimizer, still
    steps = [simulator.gan_step(rows[:32], generator, 0) for _ in range(25)]
    assert steps[-1]["told_apart"] > 0.95 and steps[-1]["loss_d"] < 0.5 * steps[0]["loss_d"]
    simulator.generator.optimizer = moving
    simulator.discriminator.optimizer = torch.optim.SGD(simulator.discriminator.net.parameters(), lr=0.0)
    passing = [simulator.gan_step(rows[:32], generator, 0)["loss_g"] for _ in range(25)]
    assert passing[-1] < 0.5 * passing[0]


@pytest.fixture
def kept_gradients(monkeypatch):
    """A step lets go of its gradients; here they stay, to be looked at."""
    monkeypatch.setattr(module, "take_step", lambda learner: learner.optimizer.step())


@pytest.mark.usefixtures("kept_gradients")
def test_the_generator_is_pushed_towards_what_net2_takes_for_known(tmp_path):
    """Its gradient is that of BCE(real) - b LS(1), written out with plain autograd; net2's that of CE + b LS(1)."""
    task, _ = planted(tmp_path)
    simulator, rows = simulator_of(task, settings_of(gan_weight=2.0))
    twin, _ = simulator_of(task, settings_of(gan_weight=2.0))
    for x in (*simulator.learners, *twin.learners):
        x.optimizer = torch.optim.SGD(x.net.parameters(), lr=0.0)
    simulator.gan_step(rows[:16], torch.Generator().manual_seed(5), 0)
    x, y = twin._batch(rows[:16], torch.Generator().manual_seed(5), 0)
    z = torch.randn(16, 16, generator=torch.Generator().manual_seed(5))
    generator, net2, net_d = twin.generator.net, twin.net2.net, twin.discriminator.net
    fakes = normalise(generator(z))
    loss_real = F.cross_entropy(net2(x), y)
    with norms(net2, FAKE):
        loss_fake = smoothed(net2(fakes), y, 1.0)
    loss_g = F.softplus(-net_d(fakes)).mean() - 2.0 * loss_fake
    for learner, loss in ((twin.generator, loss_g), (twin.net2, loss_real + 2.0 * loss_fake)):
        mine = dict(getattr(simulator, learner.name).net.named_parameters())
        names, weights = zip(*learner.net.named_parameters(), strict=True)
        for name, grad in zip(names, torch.autograd.grad(loss, weights, retain_graph=True), strict=True):
            torch.testing.assert_close(mine[name].grad, grad, rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("kept_gradients")
def test_copycat_gets_no_gradient_from_net2_and_net2_none_from_the_imitation(tmp_path):
    task, _ = planted(tmp_path)
    grads = {}
    for name, change in {"plain": {}, "imitation": {"imitation_weight": 9.0}, "fakes": {"copycat_weight": 9.0}}.items():
        simulator, rows = simulator_of(task, settings_of(**change))
        simulator.copycat_step(rows[:16], torch.Generator().manual_seed(1), 0)
        grads[name] = [[p.grad for p in x.net.parameters() if p.grad is not None]
                       for x in (simulator.net1, simulator.net2)]  # fmt: skip

    def same(a, b):
        return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))

    assert grads["plain"][0] and grads["plain"][1]
    assert same(grads["plain"][1], grads["imitation"][1]) and not same(grads["plain"][0], grads["imitation"][0])
    assert same(grads["plain"][0], grads["fakes"][0]) and not same(grads["plain"][1], grads["fakes"][1])


def test_copycat_comes_closer_to_net2(tmp_path):
    task, _ = planted(tmp_path)
    simulator, rows = simulator_of(task, settings_of(imitation_weight=10.0))
    generator = torch.Generator().manual_seed(0)
    distance = [simulator.copycat_step(rows[:32], generator, 0)["distance"].item() for _ in range(30)]
    assert distance[-1] < 0.6 * distance[0]


def test_the_copycat_pass_uses_net2_s_rate_of_its_own_step(tmp_path):
    simulator, rows = simulator_of(planted(tmp_path)[0], settings_of())
    simulator.net1.optimizer.param_groups[0]["lr"] = 0.0123
    simulator.copycat_step(rows[:16], torch.Generator().manual_seed(0), 0)
    assert simulator.net2.optimizer.param_groups[0]["lr"] == 0.0123


# Two sets of norms


def test_fake_batches_never_change_the_real_set(tmp_path):
    task, _ = planted(tmp_path)
    simulator, _ = simulator_of(task, settings_of())
    net2 = simulator.net2.net.train()
    before = real_set(net2)
    with norms(net2, FAKE):
        net2(torch.randn(8, 1, 32, 32) * 40).square().sum().backward()
    assert all(m.real.weight.grad is None for m in net2.modules() if isinstance(m, TwoNorms))
    assert all(m.fake.weight.grad.abs().sum() > 0 for m in net2.modules() if isinstance(m, TwoNorms))
    simulator.copycat_logits([40 * torch.randn(8, c, s, s) for c, s in ((8, 16), (16, 8), (32, 2))])
    assert len(equal(before, real_set(net2))) == len(before)
    net2(torch.randn(8, 1, 32, 32))
    assert not any("running" in k for k in equal(before, real_set(net2)))


@pytest.mark.parametrize("which", ["real", "fake"])
def test_the_real_statistics_after_both_passes_are_those_of_the_real_batches_alone(tmp_path, which):
    """The same real batches through a network that never saw a fake, no weight moving: the statistics must agree."""
    task, _ = planted(tmp_path)
    simulator, rows = simulator_of(task, settings_of(copycat_norms=which))
    for x in simulator.learners:
        x.optimizer = torch.optim.SGD(x.net.parameters(), lr=0.0)
    alone = staged_net("small", 3, 0)
    alone.load_state_dict({k.replace(".real.", "."): v.clone() for k, v in simulator.net2.net.state_dict().items()
                           if ".fake." not in k})  # fmt: skip
    for step in (simulator.gan_step, simulator.copycat_step, simulator.gan_step):
        step(rows[:16], torch.Generator().manual_seed(0), 0)
        alone(simulator._batch(rows[:16], torch.Generator().manual_seed(0), 0)[0])
    ours, theirs = real_set(simulator.net2.net), dict(alone.state_dict())
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])
    assert any(not torch.allclose(m.fake.running_mean, m.real.running_mean)
               for m in simulator.net2.net.modules() if isinstance(m, TwoNorms))  # fmt: skip


def test_borrowed_norms_use_the_batch_and_the_real_scale():
    norm = split_norms(nn.Sequential(nn.BatchNorm2d(3)))
    with torch.no_grad():
        norm[0].real.weight.fill_(2.0)
        norm[0].real.bias.fill_(-1.0)
    norm.eval()
    x = 5 + 3 * torch.randn(16, 3, 4, 4)
    with norms(norm, BORROWED):
        out = norm(x)
    expected = 2 * (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True, correction=0) - 1
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)


def test_after_an_error_the_real_set_is_back_in_use():
    net = split_norms(nn.Sequential(nn.BatchNorm2d(3)))
    with pytest.raises(ZeroDivisionError), norms(net, FAKE):
        raise ZeroDivisionError
    assert net[0].used == "real"
    with norms(net, FAKE), norms(net, BORROWED):
        assert net[0].used == "borrowed"
    with pytest.raises(UserError, match="did you mean 'fake'"), norms(net, "fakes"):
        pass


def test_every_norm_of_a_resnet_is_split():
    net = split_norms(new_net("resnet18", 3, 0))
    assert sum(isinstance(m, TwoNorms) for m in net.modules()) == 20
    assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == 40
    with torch.no_grad(), norms(net, BORROWED):
        assert net(torch.randn(2, 1, 32, 32)).isfinite().all()


# Label smoothing, the generator, the discriminator


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
def test_smoothing_is_the_formula(a):
    logits, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1])
    target = (1 - a) * torch.eye(4, dtype=torch.float64)[y] + a / 4
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert float(smoothed(logits, y, a)) == pytest.approx(float(expected), rel=1e-12)
    assert float(smoothed(torch.zeros(6, 4), y, a)) == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_sizes_and_range_of_the_generated_images(size, channels):
    generator, discriminator = new_gan(size, channels, channels, 10, seed=0)  # a width equal to the channels is fine
    images = generator(torch.randn(5, 10))
    assert images.shape == (5, channels, size, size) and images.dtype == torch.float32
    assert images.min() > 0 and images.max() < 255
    assert discriminator(normalise(images)).shape == (5,)


def test_norms_are_in_all_but_the_outermost_layers():
    generator, discriminator = Generator(64, 1, 4, 10), Discriminator(64, 1, 4)
    for net, norm_count in ((generator, 4), (discriminator, 3)):
        assert sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == norm_count
    assert not isinstance(discriminator.body[1], nn.BatchNorm2d) and isinstance(generator.body[1], nn.BatchNorm2d)


def test_a_gan_depends_on_its_seed_alone():
    first, again, other = (new_gan(32, 1, 4, 10, seed)[0].state_dict() for seed in (1, 1, 2))
    assert len(equal(first, again)) == len(first) and not torch.equal(first["body.0.weight"], other["body.0.weight"])


# Settings and errors


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_the_three_that_train_on_known_images_start_alike(preset):
    assert {method_settings(name, preset).init for name in ("eow", "proser", "dias")} == {"f_close"}


def test_the_paper_preset_holds_the_authors_values_and_the_cpu_preset_fine_tunes():
    paper, cpu = (method_settings("dias", preset) for preset in ("paper", "cpu"))
    assert (paper.gan_weight, paper.copycat_weight, paper.copycat_smoothing) == (0.1, 0.1, 0.5)
    assert (paper.optimizer, paper.lr, paper.batch_size, paper.epochs) == ("sgd", 0.1, 64, 200)
    assert (paper.schedule, paper.milestones, paper.gamma) == ("steps", (60, 120, 180), 0.1)
    assert (paper.gan_lr, paper.gan_beta1, paper.noise_size, paper.init) == (2e-4, 0.5, 100, "f_close")
    assert (cpu.init, cpu.optimizer, cpu.lr) == ("f_close", "adam", 2e-4)


def test_colour_images_of_another_size_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "new_net", new_net)
    dataset = tiny_dataset({"train": 4, "test": 2}, CLASSES, size=40, channels=3)
    task, _ = planted(tmp_path, dataset=dataset)
    scores = dias(task, settings_of(backbone="resnet18", image_size=48, epochs=1, batch_size=6))
    assert np.isfinite(scores).all() and scores.nunique() > 1


def test_errors_say_what_is_wrong(tmp_path):
    task, _ = planted(tmp_path)
    with pytest.raises(UserError, match="dias: an epoch has 1 known training images, expected two or more"):
        dias(task, settings_of(images_per_epoch=1))
    other, _ = planted(tmp_path, net=new_net("resnet18", 3, 0))
    with pytest.raises(UserError, match="dias: the weights of f_close do not fit resnet18"):
        dias(other, settings_of(init="f_close"))
    with pytest.raises(UserError, match=r"generator_size = 48"):
        DiasSettings.build({**settings_of().model_dump(), "generator_size": 48}, "dias.yaml")
    with pytest.raises(UserError, match=r"dias: (the loss|a weight) became"):
        dias(task, settings_of(gan_lr=1e30, epochs=2))


def test_a_network_without_stages_is_refused_before_anything_trains(tmp_path):
    task, _ = planted(tmp_path)
    with pytest.raises(UserError, match="timm:resnet10t does not name; take resnet18 or resnet50"):
        dias(task, settings_of(backbone="timm:resnet10t"))
    assert not list(tmp_path.iterdir())


@needs_kernel
def test_forms_of_weights_that_are_kept_for_a_step_change_no_number(tmp_path, monkeypatch):
    """A weight that changed between two passes, its old form in use, would show here."""
    monkeypatch.setattr(module, "new_net", new_net)
    done, found = packs(monkeypatch), []
    for kept in (True, False):
        if not kept:
            monkeypatch.setattr(module, "same_weights", lambda net: nullcontext())
        simulator, rows = simulator_of(planted(tmp_path)[0], settings_of(backbone="resnet18", image_size=48))
        for learner in simulator.learners:
            learner.net.train()
        for step in (simulator.gan_step, simulator.copycat_step) * 2:
            step(rows[:8], torch.Generator().manual_seed(0), 0)
        found.append((simulator, len(done)))
    (ours, n), (plain, both) = found
    assert 0 < n < both - n
    for mine, other in zip(ours.learners, plain.learners, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine.net.parameters(), other.net.parameters(), strict=True))
