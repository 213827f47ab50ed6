"""Whether a run of the `paper` preset stands beside the paper's number: did its networks start as the authors' did?

The published numbers come from networks that started from one face-pretrained file. A run is compared with them only
if its own f_close (of its dataset, preset, open class and seed) started from that file by the shipped recipe, and the
method's network from that f_close or from that file; the paper's own method also from scratch, as its text says.
Everything else has a reason why not.
"""

from pathlib import PurePath

from fer_openset.errors import UserError
from fer_openset.methods import POSTHOC
from fer_openset.variants import CLOSED_SET, DEFAULT, read_variants

AUTHORS_START = "resnet18_msceleb.pth"  # the authors' initial weights, see docs/weights.md
COMPARED = "paper"  # the preset
FROM_SCRATCH = ("noisy_label", "noisy_label_online")  # the paper's text: its two networks start from random weights
START_KEYS = ("init", "weights", "weights_sha256")  # where f_close may differ from the shipped recipe


def with_reasons(runs, variants=None):
    """The runs with a column `why_not`: empty for one that may be compared, else the reason in a few words.

    runs: rows of the tidy table; presets other than `paper` are not looked at, theirs is empty. variants: as
    `read_variants` gives it (default).
    """
    variants = read_variants() if variants is None else variants
    at = [tuple(row) for row in variants[["dataset", "preset", "open_classes", "seed", "method", "variant"]].to_numpy()]
    told = dict(zip(at, zip(variants["settings"], variants["weights"], strict=True), strict=True))
    return runs.assign(why_not=[why_not(row, told) for row in runs.itertuples()])


def why_not(run, told):
    """Why a run cannot be compared with the paper; empty if it can.

    told: {(dataset, preset, open classes, seed as text, method, variant): (settings, the record of its weights)}.
    """
    if run.preset != COMPARED:
        return ""
    place = run.dataset, run.preset, run.open_classes, str(run.seed)
    f_close = told.get((*place, CLOSED_SET, DEFAULT))
    if f_close is None:
        return "f_close of this open class and seed has no record"
    fault = _start(f_close, "f_close") or _recipe(f_close[0], run.preset)
    if fault or run.method in POSTHOC:
        return fault
    own = told.get((*place, run.method, run.variant))
    if own is None:
        return f"{run.method} of this open class and seed has no record"
    if own[0].get("init", "f_close") == "f_close":  # one without it has no network or, `disagreement`, f_close's recipe
        return ""
    if run.method in FROM_SCRATCH and own[0]["init"] == "scratch":
        return ""
    return _start(own, run.method)


def _start(of, name):
    """What is wrong with the weights that a network started from; empty if they are the authors'."""
    settings, record = of
    if settings.get("init") != "pretrained":
        return f"{name} started from random weights"
    weights = str(settings.get("weights", ""))
    if PurePath(weights).name != AUTHORS_START:
        return f"{name} started from {weights or 'unknown weights'}"
    if record.get("path") != weights:
        return f"{name} has no record of its initial weights"
    if record.get("trained_on"):  # only files that this workbook wrote say so
        return f"{name} started from weights pretrained here on images {record['trained_on']}"
    return ""


def _recipe(settings, preset):
    """The first setting of f_close that is not the shipped one; empty if there is none."""
    from fer_openset.closed_set import (
        ClosedSetSettings,
        closed_set_settings,
    )  # here: it imports torch, tables need none

    try:
        usual = closed_set_settings(preset).model_dump(mode="json")
        mine = ClosedSetSettings.build(settings, "f_close").model_dump(mode="json")
    except UserError:
        return "f_close has settings of another version"
    odd = [key for key in usual if key not in START_KEYS and usual[key] != mine[key]]
    return f"f_close with {odd[0]} {mine[odd[0]]}" if odd else ""
