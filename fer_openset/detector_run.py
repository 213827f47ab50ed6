"""From the folder of a finished run to a detector: networks, and a threshold that reads no open label."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fer_openset import runs
from fer_openset.checkpoint import CHECKPOINT, load_tensors
from fer_openset.closed_set import load_model
from fer_openset.closed_step import check_same_data
from fer_openset.datasets import dataset_values
from fer_openset.detector import LOGIT_SCORES, NOVELTY, SCORES, OpenSetDetector, Use, novelty_net, under
from fer_openset.errors import UserError
from fer_openset.labels import check_name
from fer_openset.methods import method_settings
from fer_openset.pretrained import trained_backbone
from fer_openset.protocol import reopened
from fer_openset.settings import results_dir

RULES = ("known_95", "open_share")
KEPT = 0.95  # share of the known validation images that pass as known, as in FPR@TPR95
# Of the faces that a reader stores; `folder` has its key `colour` besides.
CHANNELS = {"synthetic": 1, "ferplus": 1, "folder": 1, "rafdb": 3, "rafdb_compound": 3, "affectnet": 3}
VALIDATION = 1000  # known validation images looked at, at most: the share kept is then good to 0.7 points (one sd)


def from_run(path, method, data_root, rule, device):
    """See `OpenSetDetector.load`."""
    folder = find_run(path)
    record = runs.load_record(folder / "closed_set")
    novelty = folder / "methods" / NOVELTY / "aligned" / "default"
    if method is None:
        method = NOVELTY if runs.is_done(novelty) and (novelty / CHECKPOINT).exists() else "energy"
    check_name(method, SCORES, "score for new images")
    rule = check_name(rule or ("open_share" if method == NOVELTY else "known_95"), RULES, "rule")
    shape, known = face_shape(record), None
    if rule == "known_95" or shape is None:  # otherwise the detector works without its dataset
        known = reopened(record, data_root)
        shape = known[0].images.shape[1:]
    bare = _without_threshold(folder, record, shape, method, device)
    if known:
        check_same_data(folder / "closed_set", bare.use.classes, record, *known)
    if method == NOVELTY:
        bare = _with_novelty(bare, novelty)
    threshold = _open_share_threshold(novelty, method) if rule == "open_share" else _known_threshold(bare, *known)
    return replace(bare, use=replace(bare.use, threshold=threshold, rule=rule))


def find_run(path):
    """The run's folder, given as it is or by its part after `runs/`. Raises: UserError that lists the runs at hand."""
    home = results_dir() / "runs"
    for folder in (Path(path), home / path):
        if (folder / "closed_set").is_dir():
            return folder
    there = sorted(p.parent.parent.relative_to(home).as_posix() for p in home.glob("*/*/*/*/closed_set/run.json"))
    hint = f"choose one of {', '.join(there)}" if there else f"there is no finished run in {home} either"
    raise UserError(f"{path}: neither a saved detector nor the folder of a run; {hint}.")


def face_shape(record):
    """(channels, height, width) of a run's faces as the settings of its dataset say; None where they do not."""
    try:
        reader, values = dataset_values((record.get("source") or record)["dataset"], record["preset"])
    except UserError:  # a settings file that moved
        return None
    size, channels = values.get("image_size"), 3 if values.get("colour") else CHANNELS.get(reader)
    return (channels, size, size) if isinstance(size, int) and channels else None


def _without_threshold(folder, record, shape, method, device):
    model = load_model(folder / "closed_set", device)
    model.net.eval()
    settings = record["settings"]["closed_set"]
    values = {}
    if method in LOGIT_SCORES:
        values = method_settings(method, record["preset"]).model_dump()
    run = {key: record[key] for key in ("dataset", "preset", "open_classes", "seed", "commit")}
    use = Use(model.classes, method, values, float("inf"), "", shape[1], shape[0], model.image_size,
              settings["mirror"], model.backbone, run)  # fmt: skip
    return OpenSetDetector(use, model.net, {}, device)


def _with_novelty(detector, folder):
    runs.load_record(folder)
    tensors, header = load_tensors(folder / CHECKPOINT)
    try:
        seen = header["run"]["settings"]
        use = replace(detector.use, novelty_image_size=seen["image_size"], novelty_mirror=seen["mirror"],
                      novelty_backbone=trained_backbone(header["run"], detector.use.backbone))  # fmt: skip
        names = header["run"]["learners"]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / CHECKPOINT}: no checkpoint of {NOVELTY} ({error} is missing); run it again."
        ) from None
    nets = {name: novelty_net(use, under(tensors, f"{name}/net/"), detector.device) for name in names}
    return replace(detector, use=use, novelty=nets)


def _open_share_threshold(folder, method):
    if method != NOVELTY:
        raise UserError(f"rule open_share goes with {NOVELTY} only, not with {method}; take known_95.")
    share = runs.load_record(folder).get("open_share") or {}
    if "threshold" not in share:
        raise UserError(f"{folder / runs.RECORD}: holds no estimated open share; take rule known_95, or run it again.")
    return float(share["threshold"])


def _known_threshold(detector, dataset, protocol):
    """The smallest threshold that keeps 95 % of the known validation images."""
    ids = protocol.valid.index
    if not len(ids):
        raise UserError(f"{dataset.name}: no known validation image to choose a threshold on; run pool_novelty, whose "
                        "rule open_share needs none, or give a dataset of your own a split valid.")  # fmt: skip
    if len(ids) > VALIDATION:
        chosen = np.random.default_rng(0).choice(len(ids), VALIDATION, replace=False)
        ids = ids[np.sort(chosen)]
    scores = detector.predict(np.asarray(dataset.images[dataset.rows(ids)]), ids)["open_score"]
    return threshold_keeping(scores)


def threshold_keeping(known_scores, kept=KEPT):
    """The smallest threshold below which at least the share `kept` of these known images scores.

    Shapes: known_scores (N,) -> float. An image counts as open from the threshold on.
    """
    scores = pd.Series(known_scores).to_numpy(float)
    return float(np.nextafter(np.quantile(scores, kept, method="inverted_cdf"), np.inf))
