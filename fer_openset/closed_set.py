"""The closed-set model f_close: its recipe, its outputs on any images, and the pseudo labels of the pool."""

import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field

from fer_openset import atomic
from fer_openset.augment import AugmentSettings, SizeSettings, clean_view, train_view
from fer_openset.backbones import new_net
from fer_openset.checkpoint import load_tensors, save_tensors
from fer_openset.errors import UserError
from fer_openset.fit import Learner, OptimSettings, fit, make_optimizer, stream_seed
from fer_openset.numpy_files import DAMAGED
from fer_openset.pretrained import KNOWN_ONLY, WITH_POOL, StartSettings, place_of, pretrained_net, start_record
from fer_openset.protocol import align
from fer_openset.settings import ALIGNMENTS, ROOT, load

PARAMS = ROOT / "params" / "closed_set.yaml"
MODEL = "model.safetensors"
OUTPUTS = "outputs.npz"
KEPT = (torch.float32, torch.float16)  # logits, and the 512 features of tens of thousands of images


class ClosedSetSettings(OptimSettings, AugmentSettings, SizeSettings, StartSettings):
    """Recipe of f_close; origins of the values stand in params/closed_set.yaml.

    `mirror`: outputs are the mean of the logits of an image and of its mirror image; the paper's model sees the image
    alone.
    """

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    mirror: bool = False
    eval_batch_size: int = Field(512, ge=1)


def closed_set_settings(preset, overrides=None):
    """Settings of f_close for a preset."""
    return load(ClosedSetSettings, PARAMS, preset, overrides)


@dataclass(frozen=True)
class ClosedModel:
    """A trained f_close: the network (on the device), the names of its outputs, and the image size it expects."""

    net: torch.nn.Module
    classes: tuple
    image_size: int
    backbone: str


def batch_of(dataset, rows):
    """uint8 images (n, C, H, W) of these positions, as a tensor of their own."""
    return torch.from_numpy(np.ascontiguousarray(dataset.images[rows]))


def data_digest(dataset, rows):
    """A number that changes with these images and their ids: a checkpoint of other data must not be resumed.

    Shapes: rows (n,) int64 positions; every sixteenth image is looked at.
    """
    digest, some = 0, rows[::16]
    for start in range(0, len(some), 512):  # never all of them in memory
        digest = zlib.crc32(np.ascontiguousarray(dataset.images[some[start : start + 512]]), digest)
    return zlib.crc32("\n".join(dataset.table.index[rows]).encode(), digest)


def train_closed_set(dataset, protocol, settings, device, seed, folder, each_epoch=None):
    """Train f_close on the known training images; last epoch kept; resumes from `folder`.

    each_epoch(epoch, net), if given, is called after every epoch, for who wants to watch it learn.
    Writes `folder/model.safetensors` and `folder/history.csv`. Returns: (ClosedModel, history DataFrame).
    Paper: "Implementation Details". Source: recipe values in params/closed_set.yaml.
    Raises: UserError for pretrained weights that cannot be used.
    """
    place = place_of(dataset, protocol.known_classes, seed)
    n, net_seed, backbone = len(protocol.known_classes), stream_seed(seed, "f_close"), settings.backbone
    if settings.init == "pretrained":
        net, backbone = pretrained_net(settings, n, net_seed, place)
    else:
        net = new_net(backbone, n, net_seed)
    net = device.place(net)
    learner = Learner("f_close", net, make_optimizer(net, settings))
    rows = dataset.rows(protocol.train.index)
    targets = np.full(len(dataset.table), -1)
    targets[rows] = protocol.train["target"]
    valid = dataset.rows(protocol.valid.index)

    def loss_of(net, batch, generator, epoch):
        x = train_view(batch_of(dataset, batch), settings.size_at(epoch), settings, device.torch_device, generator)
        y = torch.from_numpy(targets[batch]).to(device.torch_device)
        with device.autocast():
            logits = net(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=settings.label_smoothing)
        return loss, {"train_accuracy": (logits.argmax(1) == y).float().mean()}

    def after_epoch(epoch):
        if each_epoch:
            each_epoch(epoch, net)
        if not len(valid):
            return {}
        mirror = settings.mirror and epoch + 1 == settings.epochs  # on the way there the cheaper figure will do
        logits = predict(net, dataset, valid, settings.size_at(epoch), settings.eval_batch_size, device, mirror)
        return {"valid_accuracy": float((logits.argmax(1) == protocol.valid["target"].to_numpy()).mean())}

    start = start_record(settings, place)
    identity = {"dataset": dataset.name, "open": protocol.name, "data": data_digest(dataset, rows),
                "targets": zlib.crc32(targets[rows]), **start}  # fmt: skip
    history = fit(
        [learner], loss_of, lambda epoch: {"f_close": rows}, settings, device, seed, folder,
        f"f_close {dataset.name} open={protocol.name}", identity, after_epoch,
    )  # fmt: skip
    model = ClosedModel(net, protocol.known_classes, settings.image_size, backbone)
    saw_pool = start.get("weights", {}).get("trained_on") == WITH_POOL
    save_model(model, Path(folder) / MODEL, dataset=dataset.name, source=dataset.source, open=protocol.name,
               images=WITH_POOL if saw_pool else KNOWN_ONLY)  # fmt: skip
    return model, history


def save_model(model, path, **origin):
    """Write f_close's weights with its class names, image size and backbone."""
    head = {"classes": list(model.classes), "image_size": model.image_size, "backbone": model.backbone}
    save_tensors(path, model.net.state_dict(), **head, **origin)


def load_model(folder, device):
    """Read what `save_model` wrote. Raises: UserError when f_close has not been trained or the file is damaged."""
    tensors, header = load_tensors(Path(folder) / MODEL)
    try:
        net = new_net(header["backbone"], len(header["classes"]), 0)
        net.load_state_dict(tensors)
        model = ClosedModel(net, tuple(header["classes"]), header["image_size"], header["backbone"])
    except (KeyError, TypeError, RuntimeError, UserError) as error:
        reason = shorten(str(error), 200, placeholder=" ...")
        raise UserError(f"{folder}/{MODEL}: not a model of this workbook ({reason}); train f_close again.") from None
    device.place(net)
    return model


def predict(net, dataset, rows, image_size, batch_size, device, mirror=False):
    """Logits of the clean view (with `mirror`: mean of it and its mirror image), evaluation mode: float32 (n, K)."""
    return _forward(lambda x: (net(x),), net, dataset, rows, image_size, batch_size, device, mirror)[0]


def predict_with_features(net, dataset, rows, image_size, batch_size, device, mirror=False):
    """As `predict`, and from the same pass the features that the head reads: the last maps, averaged over space.

    Returns: logits float32 (n, K), features float16 (n, D). With `mirror` both are means over the two views; the head
    is linear, so logits = head(features) up to rounding. Raises: UserError for a feature above float16's 65,504.
    """

    def outputs_of(x):
        maps = net.feature_map(x)
        return net.classify(maps), net.pooled(maps)

    logits, features = _forward(outputs_of, net, dataset, rows, image_size, batch_size, device, mirror, KEPT)
    if not np.isfinite(features).all():
        raise UserError("f_close has features that are not finite in float16; train it again with a lower lr.")
    return logits, features


def _forward(outputs_of, net, dataset, rows, image_size, batch_size, device, mirror, kept=KEPT[:1]):
    """`outputs_of(x)`, a tuple of tensors, for the clean views of these rows: an array each, of the type in `kept`."""
    was_training = net.training
    net.eval()
    parts, batch_size = [], device.at_once(batch_size)
    with torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            x = clean_view(batch_of(dataset, rows[start : start + batch_size]), image_size, device.torch_device)
            with device.autocast():
                out = outputs_of(x)
                if mirror:
                    out = [(a + b) / 2 for a, b in zip(out, outputs_of(x.flip(3)), strict=True)]
            parts.append([value.to("cpu", dtype) for value, dtype in zip(out, kept, strict=True)])
    net.train(was_training)
    return [torch.cat(values).numpy() for values in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Outputs:
    """What f_close says and sees, by sample id: logits (float32, K columns) and features (float16, D columns)."""

    logits: pd.DataFrame
    features: pd.DataFrame


def closed_outputs(model, dataset, protocol, settings, device):
    """f_close's logits and features of the pool and the whole training split, keyed by sample id, in one pass.

    Returns: Outputs. The training split is needed to fit post-hoc detectors on its known images, and for the
    `as_released` alignment, which hands out other images' outputs. The image size is the one the model was trained at.
    """
    ids = protocol.pool.index.union(protocol.train_split, sort=False)
    rows = dataset.rows(ids)
    logits, features = predict_with_features(
        model.net, dataset, rows, model.image_size, settings.eval_batch_size, device, settings.mirror
    )
    return Outputs(pd.DataFrame(logits, index=ids, columns=list(model.classes)), pd.DataFrame(features, index=ids))


def write_pseudo_labels(outputs, protocol, seed, folder):
    """Write f_close's outputs and the pool's pseudo labels, `aligned` and `as_released`, into `folder`.

    Files: outputs.npz (ids, logits, features), pseudo_labels.csv (sample_id, part, aligned, as_released), and, per
    alignment, the authors' two text formats: `predicted_labels_openN.txt` (line: sample id, space, class number 0..K-1,
    the test split first, then the open training images) and `predicted_labels_openN_openset_index.txt` (0-based
    positions of the open images in it), N = numbers of the open classes joined by `_`. Returns: the table of labels.
    Paper: "Pipeline". Differs: the first field of a line is the sample id, not a path on the authors' disk.
    """
    folder, logits = Path(folder), outputs.logits
    with atomic.atomic_path(folder / OUTPUTS) as path:
        with open(path, "wb") as handle:
            np.savez(handle, sample_id=logits.index.to_numpy(str), logits=logits.to_numpy("float32"),
                     classes=np.array(logits.columns, dtype=str), features=outputs.features.to_numpy())  # fmt: skip
    table = protocol.pool[["part"]].copy()
    for alignment in ALIGNMENTS:
        names = align(logits, protocol, alignment, seed).idxmax(axis=1)
        table[alignment] = names
        _write_authors_format(names, protocol, folder / f"authors_format_{alignment}", logits.columns)
    atomic.write_csv(folder / "pseudo_labels.csv", table.reset_index())
    return table


def _write_authors_format(names, protocol, folder, known):
    test_first = protocol.pool["split"].map({"test": 0, "train": 1}).sort_values(kind="stable").index
    numbers = pd.Index(known).get_indexer(names.loc[test_first])
    lines = [f"{sample} {number}\n" for sample, number in zip(test_first, numbers, strict=True)]
    where = np.flatnonzero(protocol.pool["is_open"].loc[test_first].to_numpy())
    stem = "predicted_labels_open" + "_".join(protocol.open_numbers())
    atomic.write_text(folder / f"{stem}.txt", "".join(lines))
    atomic.write_text(folder / f"{stem}_openset_index.txt", "".join(f"{i}\n" for i in where))


def read_outputs(folder):
    """Read f_close's logits back: DataFrame indexed by sample id. Raises: UserError if the step has not run."""
    with _opened(Path(folder) / OUTPUTS) as (file, ids):
        return pd.DataFrame(file["logits"], index=ids, columns=list(file["classes"]))


def read_features(folder):
    """Read f_close's features back: float16 DataFrame indexed by sample id. Raises: UserError if there are none."""
    with _opened(Path(folder) / OUTPUTS) as (file, ids):
        if "features" not in file:
            raise UserError(f"{folder}/{OUTPUTS}: holds no features; run the pseudo-label notebook (02) again.")
        return pd.DataFrame(file["features"], index=ids)


@contextmanager
def _opened(path):
    """The arrays of outputs.npz, each read when it is asked for, never unpickled, and the sample ids of their rows."""
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file, pd.Index(file["sample_id"].astype(object), name="sample_id")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; run the pseudo-label notebook (02) first.") from None
    except DAMAGED as error:
        reason = shorten(str(error), 200, placeholder=" ...")
        raise UserError(f"{path}: not readable ({reason}); run the pseudo-label notebook (02) again.") from None
