"""The post-hoc panel on planted features: direction, formulas, who the scores belong to, and what is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import pytorch_ood.detector
import torch
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, logsumexp
from tiny import CPU, small_net, tiny_dataset

from fer_openset import closed_set, metrics
from fer_openset.closed_set import ClosedModel, ClosedSetSettings, closed_outputs, train_closed_set, write_pseudo_labels
from fer_openset.errors import UserError
from fer_openset.methods import POSTHOC, method_settings, posthoc, posthoc_features, run_method
from fer_openset.methods.posthoc import fitting_images
from fer_openset.methods.posthoc_features import principal_dimension
from fer_openset.methods.task import CachedOutputs, Task, make_task
from fer_openset.protocol import make_protocol, output_source

CLASSES = ("fear", "anger", "neutral", "sadness")
K, D, EACH = 4, 32, 60  # six features a class; the last eight are never active in training


def planted(n_open=50, seed=0, **more):
    """Known images light up the features of their class; open ones light up features that no known class has.

    f_close's head adds up each class's features. Returns: (task, who is open).
    """
    rng = np.random.default_rng(seed)

    def features(y):
        z = np.abs(rng.normal(0, 0.3, (len(y), D)))
        z[:, 24:] = 0
        known = np.repeat(np.eye(K + 1)[y][:, :K], 6, axis=1)
        z[:, :24] += known * rng.uniform(1.5, 2.5, (len(y), 1))
        z[y == K, 24:] += rng.uniform(2, 3, ((y == K).sum(), 8))
        return z.astype("float16").astype("float32")

    y_train, y_pool = np.repeat(np.arange(K), EACH), np.append(np.repeat(np.arange(K), 30), np.full(n_open, K))
    head = torch.nn.Linear(D, K)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(np.repeat(np.eye(K), 6, axis=1) @ np.eye(24, D) * 0.5))
        head.weight.add_(torch.tensor(rng.normal(0, 0.02, (K, D))))
        head.bias.copy_(torch.tensor([0.1, -0.1, 0.2, 0.0]))
    z_train, z_pool = features(y_train), features(y_pool)
    ids, train_ids = [f"p{i}" for i in range(len(y_pool))], [f"t{i}" for i in range(len(y_train))]
    logits = [pd.DataFrame(head(torch.tensor(z)).detach().numpy(), index=i) for z, i in
              ((z_train, train_ids), (z_pool, ids))]  # fmt: skip
    outputs = SimpleNamespace(train_logits=logits[0], train_features=pd.DataFrame(z_train, index=train_ids),
                              pool_features=pd.DataFrame(z_pool, index=ids))  # fmt: skip
    net = small_net("small", K, 0)
    net.head = head
    task = Task(tiny_dataset(), CLASSES, pd.DataFrame({"target": y_train}, index=train_ids), pd.DataFrame(), logits[1],
                ClosedModel(net, CLASSES, 32, "small"), CPU, 0, "aligned", "unused", outputs=outputs)  # fmt: skip
    return replace(task, **more), y_pool == K


def scores_of(method, task, **overrides):
    return run_method(method, task, method_settings(method, "smoke", overrides))


# pseudo_label_ce is no detector but a control of this workbook, with tests of its own.
PANEL = [m for m in POSTHOC if m != "pseudo_label_ce"]
ON_OUTPUTS = [m for m in PANEL if m != "odin"]


@pytest.mark.parametrize("method", ON_OUTPUTS)
def test_planted_open_features_score_higher(method):
    task, is_open = planted()
    before = torch.get_default_dtype()
    # A third of sixty images would be no tail: known images in it count as unknown.
    scores = scores_of(method, task, **({"tail_size": 5} if method == "openmax" else {}))
    assert np.isfinite(scores).all() and scores.dtype == "float64" and scores.index.equals(task.pool_ids)
    assert metrics.auroc(scores.to_numpy(), is_open) > (0.9 if method == "openmax" else 0.97)
    assert torch.get_default_dtype() == before


# Each score by hand, in float64. z, w, b: features, head; e: energy; t: of the training images; y: true labels.


def parts(task):
    w, b = (x.detach().numpy().astype("float64") for x in task.f_close.net.head.parameters())
    z, t = (x.to_numpy().astype("float64") for x in (task.pool_features, task.train_features))
    return z, t, task.train["target"].to_numpy(), w, b


def energy_by_hand(z, w, b):
    return -logsumexp(z @ w.T + b, axis=1)


def entropy_by_hand(task):
    log_p = log_softmax(task.pool_logits.to_numpy().astype("float64"), axis=1)
    return -(np.exp(log_p) * log_p).sum(1)


def gen_by_hand(task):
    p = np.exp(log_softmax(task.pool_logits.to_numpy().astype("float64"), axis=1))
    return (p**0.1 * (1 - p) ** 0.1).mean(1)


def klmatching_by_hand(task):
    log_p, log_t = (log_softmax(x.to_numpy().astype("float64"), axis=1) for x in (task.pool_logits, task.train_logits))
    says = log_t.argmax(1)
    typical = np.log([np.exp(log_t[says == k]).mean(0) for k in range(K)])
    return (np.exp(log_p)[:, None] * (log_p[:, None] - typical)).sum(2).min(1)


def distances(z, centres, covariance):
    d = z[:, None] - centres
    return np.einsum("nki,ij,nkj->nk", d, np.linalg.inv(covariance + 1e-6 * np.eye(len(covariance))), d)


def class_distances(task):
    z, t, y, _, _ = parts(task)
    centres = np.array([t[y == k].mean(0) for k in range(K)])
    return distances(z, centres, (t - centres[y]).T @ (t - centres[y]))


def mahalanobis_by_hand(task):
    return class_distances(task).min(1) / 2


def rmd_by_hand(task):
    z, t, _, _, _ = parts(task)
    mean = t.mean(0)
    return (class_distances(task) - distances(z, mean[None], (t - mean).T @ (t - mean))).min(1)


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def knn_by_hand(task):
    z, t, *_ = parts(task)
    return np.sort(cdist(unit(z), unit(t)), axis=1)[:, 4]  # k = 5 in the smoke preset


def nnguide_by_hand(task):
    z, t, _, w, b = parts(task)
    similar = unit(z) @ (unit(t) * -energy_by_hand(t, w, b)[:, None]).T
    return np.sort(similar, axis=1)[:, -10:].mean(1) * energy_by_hand(z, w, b)


def vim_by_hand(task):
    z, t, _, w, b = parts(task)
    origin = -np.linalg.pinv(w) @ b
    values, vectors = np.linalg.eigh((t - origin).T @ (t - origin))
    rest = vectors[:, np.argsort(values)[: D - D // 2]]
    alpha = (t @ w.T + b).max(1).mean() / np.linalg.norm((t - origin) @ rest, axis=1).mean()
    return alpha * np.linalg.norm((z - origin) @ rest, axis=1) + energy_by_hand(z, w, b)


def she_by_hand(task):
    z, t, y, w, b = parts(task)
    right = (t @ w.T + b).argmax(1) == y
    pattern = np.array([t[right & (y == k)].mean(0) for k in range(K)])
    return -(z * pattern[(z @ w.T + b).argmax(1)]).sum(1)


def dice_by_hand(task):
    z, t, _, w, b = parts(task)
    contribution = t.mean(0) * w
    return energy_by_hand(z, np.where(contribution > np.quantile(contribution, 0.9), w, 0), b)


def react_by_hand(task):
    z, t, _, w, b = parts(task)
    return energy_by_hand(np.minimum(z, np.quantile(t, 0.9)), w, b)


def kept(z):
    """The largest 35 % of each image's activations, and zeros."""
    n = D - round(D * 0.65)
    return np.where(z >= np.sort(z, axis=1)[:, -n][:, None], z, 0)


def ash_by_hand(task):
    z, _, _, w, b = parts(task)
    return energy_by_hand(kept(z) * np.exp(z.sum(1) / kept(z).sum(1))[:, None], w, b)


def scale_by_hand(task):
    z, _, _, w, b = parts(task)
    return energy_by_hand(z * np.exp(z.sum(1) / kept(z).sum(1))[:, None], w, b)


def fdbd_by_hand(task):
    z, t, _, w, b = parts(task)
    logits = z @ w.T + b
    out = np.zeros(len(z))
    for i, row in enumerate(logits):
        top = row.argmax()
        to_others = [(row[top] - row[c]) / np.linalg.norm(w[top] - w[c]) for c in range(K) if c != top]
        out[i] = -np.mean(to_others) / np.linalg.norm(z[i] - t.mean(0))
    return out


BY_HAND = {name.removesuffix("_by_hand"): value for name, value in globals().items() if name.endswith("_by_hand")}
del BY_HAND["energy"]  # a helper here; test_posthoc.py has its formula


@pytest.mark.parametrize("method", BY_HAND)
def test_scores_equal_the_formula(method):
    task, _ = planted()
    # ViM takes the difference of two numbers of a size, in float32.
    atol = 1e-3 if method == "vim" else 1e-6
    np.testing.assert_allclose(scores_of(method, task), BY_HAND[method](task), rtol=2e-4, atol=atol)


def test_detectors_that_pytorch_ood_flags_are_checked_by_hand():
    """Its `info.ai_coded` marks implementations that an assistant wrote; an update that marks more must fail here."""
    detectors = {name.lower(): getattr(pytorch_ood.detector, name) for name in pytorch_ood.detector.__all__}
    names = {"msp": "maxsoftmax", "energy": "energybased"}
    flagged = {m for m in PANEL if detectors[names.get(m, m)].info.ai_coded}
    assert flagged == {"gen", "nnguide", "scale", "fdbd"} and flagged <= set(BY_HAND)


# Distances in feature space


@pytest.mark.parametrize("method", ["mahalanobis", "rmd"])
def test_fewer_training_images_than_features(method):
    """The covariance is singular but for pytorch-ood's ridge of 1e-6; a float32 inverse is noise, with negative
    distances. The smoke preset is such a case: 200 images, 512 features."""
    task, _ = planted()
    rng = np.random.default_rng(0)
    train, pool = (
        pd.DataFrame(rng.normal(0.2, 0.3, (len(index), 512)).clip(0).astype("float32"), index=index)
        for index in (task.train.index, task.pool_ids)
    )
    outputs = SimpleNamespace(**{**vars(task.outputs), "train_features": train, "pool_features": pool})
    wide = replace(task, outputs=outputs)
    scores = scores_of(method, wide)
    np.testing.assert_allclose(scores, BY_HAND[method](wide), rtol=1e-4)
    assert method == "rmd" or (scores > 0).all()


@pytest.mark.parametrize(("width", "d"), [(2048, 1000), (1000, 512), (768, 512), (512, 256), (32, 16), (2, 1)])
def test_principal_dimension_of_vim(width, d):
    assert principal_dimension(width) == d < width


def test_vim_with_few_training_images_keeps_its_energy():
    """Fewer images than dimensions lie within the subspace: what is left outside would be rounding errors."""
    task, is_open = planted()
    few = task.train_features.iloc[np.arange(0, K * EACH, 20)]  # twelve images, where the rule takes sixteen dimensions
    outputs = SimpleNamespace(**{**vars(task.outputs), "train_features": few,
                                 "train_logits": task.outputs.train_logits.loc[few.index]})  # fmt: skip
    scarce = replace(task, train=task.train.loc[few.index], outputs=outputs)
    scores, energy = scores_of("vim", scarce), scores_of("energy", scarce)
    assert metrics.auroc(scores.to_numpy(), is_open) > 0.97
    assert scores.abs().max() < 100 * energy.abs().max()  # not scaled by a quotient of rounding errors
    with pytest.raises(UserError, match="vim: d = 12, but f_close has 32 features and 12 training images"):
        scores_of("vim", scarce, d=12)


# OpenMax and SHE: the traps


def test_openmax_says_when_a_class_is_all_tail(capsys):
    task, _ = planted()
    scores_of("openmax", task, tail_size=5)
    assert "openmax" not in capsys.readouterr().out
    scores_of("openmax", task, tail_size=EACH)
    assert f"images to fit, all within its tail of {EACH}" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["tail_size", "alpha", "euclid_weight"])
def test_openmax_hands_each_setting_to_its_own_parameter(monkeypatch, setting):
    seen, library = {}, posthoc.OpenMax
    monkeypatch.setattr(posthoc, "OpenMax", lambda model, **how: seen.update(how) or library(model, **how))
    value = {"tail_size": 7, "alpha": 2, "euclid_weight": 0.25}[setting]
    scores_of("openmax", planted()[0], **{"tail_size": 5, setting: value})
    assert seen[setting.replace("tail_size", "tailsize")] == value


def test_openmax_does_not_depend_on_the_rest_of_the_pool():
    """pytorch-ood measures no distance to a class that no image of its batch is assigned to."""
    task, _ = planted()
    whole = scores_of("openmax", task)
    for k in range(K):
        few = task.pool_logits[task.pool_logits.to_numpy().argmax(1) == k][:7]
        np.testing.assert_allclose(scores_of("openmax", replace(task, pool_logits=few)), whole[few.index], rtol=1e-9)
    assert whole.between(0, 1).all() and whole.nunique() == len(whole)


@pytest.mark.parametrize("method", ["openmax", "she", "klmatching"])
def test_a_class_that_f_close_never_gets_right_still_has_a_place(method):
    task, _ = planted()
    net = small_net("small", K, 0)
    net.head = torch.nn.Linear(D, K)
    net.head.load_state_dict(task.f_close.net.head.state_dict())
    with torch.no_grad():
        net.head.bias[2] = -50.0  # class 2 is never said
    train, pool = (
        pd.DataFrame(net.head(torch.tensor(x.to_numpy())).detach().numpy(), index=x.index)
        for x in (task.train_features, task.pool_features)
    )
    outputs = SimpleNamespace(**{**vars(task.outputs), "train_logits": train})
    blind = replace(task, outputs=outputs, pool_logits=pool, f_close=replace(task.f_close, net=net))
    scores = scores_of(method, blind)
    assert np.isfinite(scores).all() and scores.nunique() > 100


def test_fitting_images():
    logits = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [2.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0], [2.0, 0, 0]])
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    assert fitting_images(logits, y, at_least=1).tolist() == [True, False, True, False, True, True]
    assert fitting_images(logits, y, at_least=2).tolist() == [True, False, True, True, True, True]


def test_the_head_of_f_close_is_left_alone():
    task, _ = planted()
    head = task.f_close.net.head
    before = {k: v.clone() for k, v in head.state_dict().items()}
    for method in ON_OUTPUTS:
        scores_of(method, task)
    assert all(p.requires_grad for p in head.parameters())
    assert all(torch.equal(before[k], v) for k, v in head.state_dict().items())


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("openmax", {"alpha": 5}, "openmax: alpha = 5, but only 4 classes are known"),
        ("knn", {"k": 241}, "knn: k = 241, but only 240 known training images"),
        ("nnguide", {"k": 1000}, "nnguide: k = 1000, but only 240 known training images"),
        ("vim", {"d": 32}, "vim: d = 32, but f_close has 32 features"),
        ("vim", {"d": 64}, "vim: d = 64, but f_close has 32 features"),
        ("dice", {"p": 1.0}, "p = 1.0"),
        ("ash", {"percentile": 65.0}, "percentile = 65.0"),
        ("ash", {"variant": "ash-x"}, "variant = 'ash-x'"),
        ("odin", {"eps": -1.0}, "eps = -1.0"),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(method, overrides, message):
    task, _ = planted()
    with pytest.raises(UserError, match=message) as caught:
        scores_of(method, task, **overrides)
    assert "\n" not in str(caught.value)


def test_scores_that_are_not_finite_are_refused():
    task, _ = planted()
    dead = task.outputs.pool_features.copy()
    dead.iloc[3] = 0.0  # ASH divides by the sum of the kept activations
    outputs = SimpleNamespace(**{**vars(task.outputs), "pool_features": dead})
    with pytest.raises(UserError, match=r"1 of 170 images have no finite score \(first: p3\)"):
        scores_of("ash", replace(task, outputs=outputs))


def test_a_task_without_cached_outputs_says_so():
    task = replace(planted()[0], outputs=None)
    assert np.isfinite(scores_of("msp", task)).all()
    for method in ("knn", "klmatching", "odin"):
        with pytest.raises(UserError, match="make it with make_task"):
            scores_of(method, task)


# From images to scores: the files of notebook 02, both alignments, and ODIN


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A trained small f_close on tiny images, and what the pseudo-label step writes about it."""
    folder = tmp_path_factory.mktemp("panel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closed_set, "new_net", small_net)
        dataset = tiny_dataset({"train": 14, "valid": 1, "test": 5}, noise=40.0)
        protocol = make_protocol(dataset.table, dataset.classes, "surprise")
        recipe = ClosedSetSettings(lr=0.02, epochs=6, batch_size=16, image_size=32)
        model, _ = train_closed_set(dataset, protocol, recipe, CPU, 0, folder / "closed_set")
    model.net.eval().zero_grad()
    outputs = closed_outputs(model, dataset, protocol, recipe, CPU)
    write_pseudo_labels(outputs, protocol, 0, folder / "pseudo_labels")

    def task(alignment, seed=0):
        return make_task(dataset, protocol, model, folder / "pseudo_labels", CPU, seed, alignment, folder / "method")

    return SimpleNamespace(task=task, protocol=protocol, outputs=outputs, model=model, dataset=dataset)


@pytest.mark.parametrize("method", PANEL)
def test_as_released_scores_are_those_of_the_images_whose_outputs_are_handed_over(written, method):
    """Score every image by itself; a task's scores are these, read through the alignment's permutation."""
    ids = written.outputs.logits.index
    aligned = written.task("aligned")
    own = pd.Series(ids, index=ids)
    cached = CachedOutputs(aligned.outputs.folder, aligned.train_logits, own)
    each = scores_of(method, replace(aligned, pool_logits=written.outputs.logits, outputs=cached))
    assert each.nunique() > 0.9 * len(each)
    moved = {}
    for alignment in ("aligned", "as_released"):
        task = written.task(alignment, seed=2)
        source = output_source(written.protocol, alignment, 2)
        moved[alignment] = scores_of(method, task)
        np.testing.assert_allclose(moved[alignment], each.loc[source.to_numpy()], rtol=1e-3, atol=1e-5)
    in_test = (written.protocol.pool["split"] == "test").to_numpy()
    same = np.isclose(moved["aligned"], moved["as_released"], rtol=1e-3, atol=1e-5)
    assert same[in_test].all() and not same[~in_test].all()


def test_a_task_holds_logits_and_features_of_training_images_and_pool(written):
    for alignment in ("aligned", "as_released"):
        task = written.task(alignment)
        assert task.train_logits.index.equals(task.train.index) and task.train_features.index.equals(task.train.index)
        assert task.pool_features.index.equals(task.pool_ids) and task.pool_features.shape[1] == 32
        assert list(task.pool_sources) == list(output_source(written.protocol, alignment))
        for features, logits in ((task.pool_features, task.pool_logits), (task.train_features, task.train_logits)):
            assert (features.dtypes == "float32").all()
            z = task.f_close.net.head(torch.tensor(features.to_numpy())).detach()
            np.testing.assert_allclose(z, logits, atol=2e-2)
    assert task.name == "surprise"


def test_the_second_method_of_a_task_reads_no_file(written, monkeypatch):
    from fer_openset.methods import task as module

    reads, read = [], module.read_features
    monkeypatch.setattr(module, "read_features", lambda folder: reads.append(folder) or read(folder))
    task = written.task("aligned")
    assert not reads  # methods that train read no features at all
    for method in ("knn", "vim", "react"):
        scores_of(method, replace(task, folder=method))
    assert len(reads) == 1


def test_known_training_images_without_outputs_are_refused(written, tmp_path):
    few = written.outputs.logits.drop(written.protocol.train.index[:3])
    np.savez(
        tmp_path / "outputs.npz", sample_id=few.index.to_numpy(str), logits=few, classes=np.array(few.columns, str)
    )
    with pytest.raises(UserError, match="3 known training images have no output of f_close"):
        make_task(written.dataset, written.protocol, written.model, tmp_path, CPU, 0, "aligned", tmp_path)


def test_odin_by_hand(written):
    task, net = written.task("aligned"), written.model.net
    rows = written.dataset.rows(task.pool_ids)
    x = closed_set.clean_view(closed_set.batch_of(written.dataset, rows), 32, torch.device("cpu"))
    for mirror in (False, True):

        def f(x, mirror=mirror):
            return (net(x) + net(x.flip(3))) / 2 if mirror else net(x)

        x = x.detach().requires_grad_()
        p = (f(x).double() / 1000).softmax(1).max(1).values
        step = 0.0014 / 0.226 * torch.autograd.grad(-p.log().sum(), x)[0].sign()
        with torch.no_grad():
            expected = -(f(x - step).double() / 1000).softmax(1).max(1).values
        scores = scores_of("odin", task, mirror=mirror, batch_size=7)
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_odin_without_step_and_temperature_is_msp(written):
    task = written.task("aligned")
    plain = scores_of("odin", task, eps=0.0, temperature=1.0)
    np.testing.assert_allclose(plain, scores_of("msp", task), atol=1e-5)
    assert not np.allclose(scores_of("odin", task, eps=0.02, temperature=1.0), plain, atol=1e-4)
    assert plain.rank().corr(scores_of("odin", task).rank()) > 0.5


def test_odin_leaves_the_network_as_it_was(written):
    net = written.model.net
    for training in (True, False):
        net.train(training)
        before = {k: v.clone() for k, v in net.state_dict().items()}
        scores_of("odin", written.task("aligned"))
        assert net.training is training and all(p.grad is None for p in net.parameters())
        assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_large_pools_are_scored_in_parts(monkeypatch):
    task, _ = planted()
    whole = {m: scores_of(m, task) for m in ("nnguide", "dice")}
    monkeypatch.setattr(posthoc_features, "CHUNK", 7)
    for method, scores in whole.items():
        np.testing.assert_allclose(scores_of(method, task), scores, rtol=1e-5)
