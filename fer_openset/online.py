"""Online detection: images arrive one by one and are scored by networks that were trained once, on other images.

A detector is read back from what `noisy_label_online` or `pool_novelty_online` left; nothing is trained here.
"""

import copy
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from fer_openset import atomic, metrics, runs
from fer_openset.augment import clean_view
from fer_openset.backbones import copy_weights, new_net
from fer_openset.checkpoint import CHECKPOINT, load_tensors
from fer_openset.closed_set import ClosedModel
from fer_openset.device import Device
from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.methods import method_settings
from fer_openset.methods.noisy_label_online import halves
from fer_openset.open_fraction import estimate_open_fraction
from fer_openset.packed import can_pack, pack
from fer_openset.pipeline import detect, evaluate, save_scores
from fer_openset.pretrained import trained_backbone
from fer_openset.report import cell, summarise, targets
from fer_openset.run_table import merge_rows
from fer_openset.settings import results_dir
from fer_openset.traced import Traced, can_trace

ONLINE = {"noisy_label_online": "noisy_label", "pool_novelty_online": "pool_novelty"}  # and the offline form
LATENCY_KEY = ("dataset", "preset", "open_classes", "method", "device")
LATENCY_COLUMNS = (*LATENCY_KEY, "n", "median_ms", "p95_ms", "images_per_s", "commit")


@dataclass(frozen=True)
class Detector:
    """Networks that score one image at a time; f_close is None for a method that does not ask it for a label.

    mirror: whether the networks, and f_close, look at an image and its mirror image.
    """

    nets: tuple
    image_size: int
    mirror: bool
    device: Device
    f_close: ClosedModel | None = None
    f_close_mirror: bool = False

    def score(self, image):
        """Open score of one image: uint8 (C, H, W) -> float, larger = more open; as the method scores a pool."""
        with torch.inference_mode(), self.device.autocast():
            view = self._view(image, self.image_size)
            logits = torch.stack([_logits(net, view, self.mirror) for net in self.nets]).double()
            if self.f_close is None:
                return float((logits[:, -1] - logits[:, :-1].logsumexp(1)).mean())
            if self.f_close.image_size != self.image_size:
                view = self._view(image, self.f_close.image_size)
            said = _logits(self.f_close.net, view, self.f_close_mirror).argmax()
            return float(-logits.log_softmax(1)[:, said].mean())

    def _view(self, image, size):
        return clean_view(torch.from_numpy(np.array(image))[None], size, self.device.torch_device)


def _logits(net, view, mirror):
    """Logits (K,) of one image, the mean over it and its mirror image if `mirror`. view: (1, C, H, W)."""
    return net(torch.cat([view, view.flip(3)]) if mirror else view).mean(0)


def need_detector(step, task, half):
    """The detector that never saw this half of the pool (0 or 1); in the smoke preset its method is run if it has not.

    Raises: UserError when the method has not run.
    """
    p = step.parameters
    check_name(p.method, tuple(ONLINE), "online method")
    if p.preset == "smoke" and not runs.is_done(task.folder):
        found = detect(step, {p.method: task})[p.method]
        save_scores(step, found, evaluate(step, found))
    if not runs.is_done(task.folder):
        raise UserError(f'{task.folder}: {p.method} has not run yet; run notebook 03 with method = "{p.method}", or '
                        "a grid that lists it, as params/grids/online.yaml does.")  # fmt: skip
    settings = method_settings(p.method, p.preset, p.overrides)
    if p.method == "noisy_label_online":
        nets = _nets(task.folder / f"scores_half{half}", ("f1", "f2")[: settings.nets], task)
        f_close = task.f_close
        mirrored = runs.load_record(step.folder.pseudo_labels)["settings"]["closed_set"]["mirror"]
        own = replace(f_close, net=_ready(copy.deepcopy(f_close.net), task.device))
        return Detector(nets, settings.image_size, False, task.device, own, mirrored)
    nets = _nets(task.folder, [f"r{repeat}f{half}" for repeat in range(settings.repeats)], task)
    return Detector(nets, settings.image_size, settings.mirror, task.device)


def _nets(folder, names, task):
    tensors, header = load_tensors(folder / CHECKPOINT)
    backbone, nets = trained_backbone(header["run"], task.f_close.backbone), []
    for name in names:
        state = {k.removeprefix(f"{name}/net/"): v for k, v in tensors.items() if k.startswith(f"{name}/net/")}
        if "head.bias" not in state:
            raise UserError(
                f"{task.folder}: its checkpoint holds no network {name}; delete the folder and run it again."
            )
        net = new_net(backbone, len(state["head.bias"]), 0)
        copy_weights(net, state, f"{task.folder}: its networks", backbone)
        nets.append(_ready(net, task.device))
    return tuple(nets)


def _ready(net, device):
    """The network made ready for one image at a time; the scores stay the same."""
    net = device.place(net).eval().requires_grad_(False)
    dtype = device.amp or torch.float32
    on_cpu = device.torch_device.type == "cpu"
    if on_cpu and dtype == torch.float32 and can_trace(net):
        return Traced(net)
    if on_cpu and can_pack():
        return pack(net, dtype)
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):  # cast once instead of at every call
            module.weight.data = module.weight.data.to(dtype)
    return net


def arriving(task, half, n, seed=0):
    """Sample ids of `n` images of this half of the pool (all, if it is smaller), in the order in which they arrive."""
    ids = task.pool_ids[halves(task) == half]
    return ids[np.random.default_rng(seed).permutation(len(ids))[:n]]


def images_of(task, ids):
    """The images of these samples: uint8 (n, C, H, W)."""
    return task.dataset.images[task.dataset.rows(ids)]


def stream(detector, images, warm_up=5):
    """Score images one at a time. Returns: open scores (n,), and the milliseconds that each took (n,)."""
    for image in images[:warm_up]:  # the first calls choose kernels and fill caches
        detector.score(image)
    scores, took = [], []
    for image in images:
        began = time.perf_counter()
        scores.append(detector.score(image))
        took.append(1000 * (time.perf_counter() - began))
    return np.array(scores), np.array(took)


def running(scores, is_open, known_scores, every=10):
    """What is known after each `every` images: AUROC so far (NaN until both kinds came), and the open share so far.

    known_scores: of known images outside the pool, scored by the same detector; without any, estimate is NaN.
    Returns: table with columns seen, auroc, estimate (labels unread) and true_share.
    """
    rows = []
    for seen in sorted({*range(every, len(scores) + 1, every), len(scores)}):
        past, truth = scores[:seen], np.asarray(is_open, bool)[:seen]
        auroc = metrics.auroc(past, truth) if 0 < truth.sum() < seen else float("nan")
        share = estimate_open_fraction(past, known_scores, n_boot=0).value if len(known_scores) else float("nan")
        rows.append((seen, auroc, share, truth.mean()))
    return pd.DataFrame(rows, columns=["seen", "auroc", "estimate", "true_share"])


def latency_path():
    """Where the table of latencies lies."""
    return results_dir() / "tables" / "latency.csv"


def read_latency():
    """Measured latencies; an empty table without the file."""
    path = latency_path()
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(LATENCY_COLUMNS))


def save_latency(step, took):
    """Summarise the milliseconds of single calls; kept in results/tables/latency.csv except for smoke runs and trials.

    Returns: one row: n, median and 95th percentile in ms, images per second.
    """
    p = step.parameters
    row = {"dataset": step.dataset.name, "preset": p.preset, "open_classes": step.protocol.name, "method": p.method,
           "device": step.device.name, "n": len(took), "median_ms": float(np.median(took)),
           "p95_ms": float(np.quantile(took, 0.95)), "images_per_s": float(1000 * len(took) / np.sum(took)),
           "commit": runs.commit()}  # fmt: skip
    if runs.is_result(step.dataset.name, p.preset):
        table = merge_rows(read_latency(), pd.DataFrame([row], columns=list(LATENCY_COLUMNS)), LATENCY_KEY)
        atomic.write_csv(latency_path(), table, float_format="%.4g")
    return row


def table4(rows):
    """Offline beside online by open class: AUROC with interval, or mean ± sd over seeds, and the mean difference.

    rows: of one dataset and preset. A method's two forms are compared over the seeds that both have; one that ran in
    one form only is shown alone. Returns: text cells, columns the methods and `METHOD: online - offline`.
    """
    kept = rows[(rows["variant"] == "default") & (rows["alignment"] == "aligned")]
    parts = {}
    for online, offline in ONLINE.items():
        pair = kept[kept["method"].isin((online, offline))]
        both = pair.groupby(["open_classes", "seed"])["method"].transform("nunique") == 2
        found = summarise(pair[both | ~pair["open_classes"].isin(pair.loc[both, "open_classes"])])
        for name in (offline, online):
            mine = found[found["method"] == name].set_index("open_classes")
            parts[name] = pd.Series({row.Index: cell(row) for row in mine.itertuples()}, dtype=object)
        means = pair[both].pivot_table(index="open_classes", columns="method", values="auroc")
        if len(means):
            parts[f"{offline}: online - offline"] = (means[online] - means[offline]).map("{:+.3f}".format)
    order = list(dict.fromkeys(summarise(kept)["open_classes"]))
    table = pd.DataFrame({name: part for name, part in parts.items() if len(part)})
    return table.reindex([name for name in order if name in table.index]).fillna("").rename_axis("open_classes")


def published_table4():
    """Table 4 as published (RAF-DB): open classes by method."""
    found = targets()
    return found[found["table"] == "4"].pivot(index="open_classes", columns="method", values="value")
