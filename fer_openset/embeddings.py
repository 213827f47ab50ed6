"""What networks see: features of images, how far classes lie apart in them, their t-SNE places, attention maps.

Everything here is made for figures, from networks that are trained already; nothing is fitted but the small closed
model of the digits. Labels of the pool are read for colouring alone.
"""

import zlib

import numpy as np
import torch

from fer_openset.arrays import about
from fer_openset.augment import clean_view
from fer_openset.backbones import attention_maps, copy_weights, new_net
from fer_openset.checkpoint import CHECKPOINT, load_tensors
from fer_openset.clip_features import clip_features, clip_tower
from fer_openset.closed_set import batch_of, load_model
from fer_openset.device import pick_device
from fer_openset.methods.folds import pool_folds
from fer_openset.protocol import reopened
from fer_openset.runs import is_done, load_record

SHOWN = 1200  # images in a t-SNE figure
OVERLAYS = 7  # synthetic faces in the figure of attention maps: one of each basic expression
DIGITS_OPEN = 4  # the digit left out of the model whose features are shown


def class_distance_ratio(features, labels):
    """Inter-class over intra-class distance: how far classes lie apart, in units of their own spread.

    Mean Euclidean distance between the classes' mean features, over the mean distance of an image to its class's mean.
    Shapes: features (N, D), labels (N,), two classes or more. Range: >= 0. Direction: larger = classes further apart.
    Paper: Fig. 1 ("inter-class distance"). Differs: the paper shows the picture alone; this measure is ours.
    """
    features, labels = np.asarray(features, float), np.asarray(labels)
    classes = np.unique(labels)
    means = np.stack([features[labels == c].mean(0) for c in classes])
    intra = np.linalg.norm(features - means[np.searchsorted(classes, labels)], axis=1).mean()
    gaps = np.linalg.norm(means[:, None] - means[None], axis=2)
    return float(gaps[np.triu_indices(len(classes), 1)].mean() / intra)


def tsne(features, seed=0):
    """Places in the plane: float32 (N, 2). Source: van der Maaten and Hinton (2008), scikit-learn's, PCA start."""
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features).astype("float32")


def pooled_features(net, dataset, rows, image_size, device, batch=256):
    """Pooled features of the clean view, evaluation mode: float32 (n, D)."""
    net.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            x = clean_view(batch_of(dataset, rows[start : start + batch]), image_size, device.torch_device)
            out.append(net.pooled(net.feature_map(x)).cpu())
    return torch.cat(out).numpy()


def trained_net(folder, method, learner, device):
    """A network of a finished run of `method` (aligned, default) and its record; None without that run."""
    where = folder.method(method)
    path = where / CHECKPOINT
    if not (is_done(where) and path.exists()):
        return None
    record = load_record(where)
    settings = record["settings"][method]
    prefix = f"{learner}/net/"
    state = {k.removeprefix(prefix): v for k, v in load_tensors(path)[0].items() if k.startswith(prefix)}
    started = {"pretrained": record, "f_close": load_record(folder.closed_set)}.get(settings.get("init"), {})
    backbone = started.get("weights", {}).get("backbone", settings["backbone"])  # its layout is the weights' own
    net = new_net(backbone, len(state["head.bias"]), 0)
    copy_weights(net, state, f"{path}: the weights of {learner}", settings["backbone"])
    return device.place(net), settings, record


def _opened(folder, data_root=""):
    return *reopened(load_record(folder.closed_set), data_root), pick_device()


def _by_hash(ids, n):
    """n of the ids, chosen by a hash of the id: the same ones wherever and in whatever order they come."""
    return sorted(ids, key=lambda i: (zlib.crc32(str(i).encode()), i))[:n]


def feature_arrays(folder, data_root=""):
    """t-SNE places of the same pool images in the features of f_close, noisy_label, pool_novelty and, if any, `clip`.

    The images are test images that pool_novelty's first network held out; noisy_label trains on all of the pool.
    Arrays: label (n,), is_open (n,), panel (P,), place (P, n, 2) float32, ratio (P,) class distance ratio, pixel_ratio
    () that of the grey pixels; `about` says which CLIP (`clip`). Returns: (arrays, about), or None.
    """
    if not is_done(folder.closed_set):
        return None
    dataset, protocol, device = _opened(folder, data_root)
    model = load_model(folder.closed_set, device)
    nets = [("f_close", model.net, model.image_size)]
    commits = [load_record(folder.closed_set)["commit"]]
    held_out = np.ones(len(protocol.pool), bool)
    for method, learner in (("noisy_label", "f1"), ("pool_novelty", "r0f0")):
        found = trained_net(folder, method, learner, device)
        if found:
            nets.append((method, found[0], found[1]["image_size"]))
            commits.append(found[2]["commit"])
            if method == "pool_novelty":
                held_out = pool_folds(dataset, protocol.pool.index, found[1]["folds"], folder.seed) == 0
    pool = protocol.pool[held_out & (protocol.pool["split"] == "test").to_numpy()]
    pool = pool.loc[_by_hash(pool.index, SHOWN)]
    rows = dataset.rows(pool.index)
    features = {name: pooled_features(net, dataset, rows, size, device) for name, net, size in nets}
    tower, more = clip_tower(device), {}
    if tower:
        features["clip"], more["clip"] = clip_features(tower[0], dataset.images[rows], device), tower[1]
    labels = pool["label"].to_numpy(str)
    pixels = batch_of(dataset, rows).float().mean(1).flatten(1).numpy()
    arrays = {"label": labels, "is_open": pool["is_open"].to_numpy(), "panel": np.array(list(features)),
              "place": np.stack([tsne(f) for f in features.values()]),
              "ratio": np.array([class_distance_ratio(f, labels) for f in features.values()]),
              "pixel_ratio": class_distance_ratio(pixels, labels)}  # fmt: skip
    return arrays, {**about(folder, commits, len(pool)), **more}


def map_arrays(folder):
    """Attention maps of the pseudo class and what mirroring does to them, for f_close and noisy_label.

    Synthetic faces only: the arrays hold pictures. Arrays: image (m, C, H, W) uint8, title (m,), net (P,), map and
    mirrored (P, m, h, w) float32 (the mirror image's map, turned back), inconsistency (P, n): mean squared difference
    of all classes' maps over their mean square (0 = the same), is_open (n,). Returns: (arrays, about), or None.
    """
    if folder.dataset != "synthetic" or not is_done(folder.closed_set):
        return None
    dataset, protocol, device = _opened(folder)
    model = load_model(folder.closed_set, device)
    nets, commits = [("f_close", model.net, model.image_size)], [load_record(folder.closed_set)["commit"]]
    found = trained_net(folder, "noisy_label", "f1", device)
    if found:
        nets.append(("noisy_label", found[0], found[1]["image_size"]))
        commits.append(found[2]["commit"])
    pool = protocol.pool[protocol.pool["split"] == "test"]
    rows = dataset.rows(pool.index)
    maps = [_maps(net, dataset, rows, size, device) for _, net, size in nets]
    labels = pool["label"].to_numpy(str)
    order = sorted(set(labels), key=lambda c: (c not in protocol.open_classes, c))
    shown = np.array([np.flatnonzero(labels == c)[0] for c in order[:OVERLAYS]])
    chosen = [(m[0][shown], m[1][shown]) for m in maps]
    arrays = {"image": np.asarray(dataset.images[rows[shown]]), "title": labels[shown],
              "net": np.array([name for name, *_ in nets]),
              "map": np.stack([m for m, _ in chosen]), "mirrored": np.stack([m for _, m in chosen]),
              "inconsistency": np.stack([m[2] for m in maps]), "is_open": pool["is_open"].to_numpy()}  # fmt: skip
    return arrays, about(folder, commits, len(pool))


def _maps(net, dataset, rows, size, device, batch=256):
    """Maps of the highest class (n, h, w), those of the mirror image turned back, and the inconsistency (n,)."""
    net.eval()
    out = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            x = clean_view(batch_of(dataset, rows[start : start + batch]), size, device.torch_device)
            features = net.feature_map(x)
            top = net.classify(features).argmax(1)
            maps = attention_maps(features, net.head.weight)
            back = attention_maps(net.feature_map(x.flip(3)), net.head.weight).flip(3)
            wrong = (maps - back).square().mean((1, 2, 3)) / maps.square().mean((1, 2, 3)).clamp_min(1e-12)
            each = torch.arange(len(x), device=top.device)
            out.append([t.float().cpu() for t in (maps[each, top], back[each, top], wrong)])
    return [torch.cat(parts).numpy() for parts in zip(*out, strict=True)]


def digit_arrays(seed=0):
    """The same questions asked of objects: scikit-learn's digits, each digit in turn left out of a small network.

    Arrays: labels (10, 10) counts: row d = what a network that never saw digit d takes the images of d for; label (n,),
    is_open (n,), place (n, 2), ratio (), pixel_ratio (): test images in the features (hidden layer) of the network
    without digit DIGITS_OPEN; where CLIP is at hand, clip_place and clip_ratio: in its features. Paper: Figs. 1 and 2,
    where CIFAR-10 has this part. Differs: digits, and a network of one hidden layer, so that nothing is downloaded.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier

    x, y = load_digits(return_X_y=True)
    x = x / 16 - 0.5
    train, test = train_test_split(np.arange(len(y)), test_size=0.4, stratify=y, random_state=seed)
    counts = np.zeros((10, 10), np.int64)
    for digit in range(10):
        net = MLPClassifier(64, max_iter=60, early_stopping=True, random_state=seed)
        known = train[y[train] != digit]
        net.fit(x[known], y[known])
        counts[digit] = np.bincount(net.predict(x[y == digit]), minlength=10)
        if digit == DIGITS_OPEN:
            hidden = np.maximum(x[test] @ net.coefs_[0] + net.intercepts_[0], 0)
    names = y[test].astype(str)
    arrays = {"labels": counts, "label": names, "is_open": y[test] == DIGITS_OPEN, "place": tsne(hidden),
              "ratio": class_distance_ratio(hidden, names),
              "pixel_ratio": class_distance_ratio(x[test], names)}  # fmt: skip
    made = {"dataset": "digits", "open_classes": str(DIGITS_OPEN), "seed": seed, "n": len(test)}
    tower = clip_tower(pick_device())
    if tower:
        images = ((x[test] + 0.5) * 255).round().astype(np.uint8).reshape(-1, 1, 8, 8)
        features = clip_features(tower[0], images, pick_device())
        arrays |= {"clip_place": tsne(features), "clip_ratio": class_distance_ratio(features, names)}
        made["clip"] = tower[1]
    return arrays, made
