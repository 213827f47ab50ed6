"""Figures 1 to 7 of the paper with their captions.

Numbers come from `paper_data`, ink from `paper_figures`. Each sentence about agreement is decided by the rule that the
function's docstring states, so that it stays true when the tables change. Figs. 5 and 6 lie in `ablation_plates`.
"""

import numpy as np

from fer_openset import arrays, paper_data, paper_figures, report, variants
from fer_openset.ablation_plates import comparison_group, sweeps
from fer_openset.metrics import auroc
from fer_openset.plates import NAMES, Plate, agreement, missing, source

ARRAYS = "`python -m fer_openset arrays`"


def class_distance(where):
    """Fig. 1. Agrees when the faces' classes lie closer together than the objects'."""
    faces, digits = arrays.read_arrays("features", where), arrays.read_arrays("digits")
    if not (faces and digits):
        return missing("fig1_class_distance", where, ARRAYS)
    clip = faces.about.get("clip")
    if clip and clip == digits.about.get("clip"):  # else the two panels would stand for different networks
        place, faces_ratio = (faces[name][list(faces["panel"]).index("clip")] for name in ("place", "ratio"))
        digits_place, digits_ratio = digits["clip_place"], digits["clip_ratio"]
        seen = f"the features are CLIP's ({clip}), as in the paper, but digits stand in for CIFAR-10"
    else:
        place, faces_ratio = faces["place"][0], faces["ratio"][0]
        digits_place, digits_ratio = digits["place"], digits["ratio"]
        seen = (
            "no CLIP weights at hand, so these are the features of each closed model, and digits stand in for "
            "CIFAR-10; the paper shows CLIP features"
        )
    panels = [(NAMES.get(where.dataset, where.dataset), place, faces, faces_ratio),
              ("digits, for objects", digits_place, digits, digits_ratio)]  # fmt: skip
    panels = [(title, at, x["label"], float(ratio), float(x["pixel_ratio"])) for title, at, x, ratio in panels]
    text = (
        f"{agreement(faces_ratio < digits_ratio)}: in units of their own spread, classes of faces lie "
        f"{faces_ratio:.2f} apart, those of objects {digits_ratio:.2f}. Not comparable: {seen}. {source(faces.about)}"
    )
    return Plate("fig1_class_distance", paper_figures.embedding_classes(panels), text, faces.about)


def pseudo_labels(where):
    """Fig. 2. Agrees when the labels of open faces are spread more evenly than those of nine in ten left-out digits."""
    faces, digits = arrays.read_arrays("labels", where), arrays.read_arrays("digits")
    if not (faces and digits):
        return missing("fig2_pseudo_labels", where, ARRAYS)
    counts = faces["aligned"][np.char.startswith(faces["part"], "open")].sum(0)
    about = {**faces.about, "n": int(counts.sum())}  # the bars count open images, not the whole pool
    spread = paper_data.evenness(counts)
    by_digit = [paper_data.evenness(np.delete(row, d)) for d, row in enumerate(digits["labels"])]
    typical = int(np.argsort(by_digit)[4])
    row, others = np.delete(digits["labels"][typical], typical), [str(d) for d in range(10) if d != typical]
    panels = [
        (f"{NAMES.get(where.dataset, where.dataset)}: {where.open_classes}, n = {about['n']:,}\nevenness {spread:.2f}",
         paper_data.label_shares(counts, faces["label"])),
        (f"digits: {typical} (median digit), n = {row.sum():,}\nevenness {by_digit[typical]:.2f}",
         paper_data.label_shares(row, others)),
    ]  # fmt: skip
    below = sum(value < spread for value in by_digit)
    text = (
        f"{agreement(below >= 9)}: labels of open faces are more evenly spread than those of {below} of ten "
        f"left-out digits (evenness, entropy over its maximum: {spread:.2f} against {min(by_digit):.2f} to "
        f"{max(by_digit):.2f}). Bars: {about['n']} open faces, {row.sum()} images of the digit. Not comparable: "
        f"digits stand in for CIFAR-10. Aligned labels. {source(about)}"
    )
    return Plate("fig2_pseudo_labels", paper_figures.pseudo_label_shares(panels), text, about)


def pipeline():
    """Fig. 3: drawn, not measured."""
    text = (
        "Agrees with the paper in its parts: pseudo labels, two networks, map consistency, cyclic rate, mutual "
        "selection; the released code differs, it trains one network without selection. Drawn by code from no run."
    )
    return Plate("fig3_pipeline", paper_figures.pipeline_diagram(), text, {})


def confidence(where):
    """Fig. 4. Agrees when the paper's method has the highest AUROC of the paper's five methods that ran."""
    found = arrays.read_arrays("scores", where)
    items = paper_data.scored_runs(found)
    if not items:
        return missing("fig4_confidence", where, ARRAYS)
    values = {method: auroc(scores, is_open) for method, scores, is_open in items}
    rows = paper_data.rows_of(
        report.same_seeds(report.read_runs()), where, open_classes=where.open_classes, alignment="aligned"
    )
    rows = rows[(rows["variant"] == variants.DEFAULT) & (rows["seed"] == where.seed)].set_index("method")
    logs = [method for method, scores, _ in items if paper_data.is_skewed(scores)]
    shown = [(f"{method}\n{_with_interval(values[method], rows, method)}", scores, is_open, method in logs)
             for method, scores, is_open in items]  # fmt: skip
    absent = ", ".join(m for m in report.PAPER_METHODS if m not in values)
    text = "noisy_label has not run beside another of the paper's methods yet."
    rivals = {m: v for m, v in values.items() if m in report.PAPER_METHODS}
    if "noisy_label" in rivals and len(rivals) > 1:
        place = sum(v > rivals["noisy_label"] for v in rivals.values()) + 1
        text = (
            f"{agreement(place == 1)}: with labels that belong to their images noisy_label comes {place} of "
            f"{len(rivals)} among the paper's methods that ran (paper: 1 of 5)."
        )
    log = f"; logarithmic axis: {', '.join(logs)}" if logs else ""
    text += (
        f"{f' Not run: {absent}.' if absent else ''} Above each panel: AUROC [95 % interval]. Bars: share of the "
        f"known, line: of the open images, in bins of equal width on the axis; 99 % of the scores are in view{log}. "
        f"{source(found.about)}"
    )
    return Plate("fig4_confidence", paper_figures.confidence_histograms(shown), text, found.about)


def _with_interval(value, rows, method):
    """`0.590 [0.576, 0.604]`; the interval is that of the table of runs, left out where the run is not in it."""
    if method not in rows.index or rows.loc[method, ["auroc_lo", "auroc_hi"]].isna().any():
        return f"{value:.3f}"
    return f"{value:.3f} [{rows.loc[method, 'auroc_lo']:.3f}, {rows.loc[method, 'auroc_hi']:.3f}]"


def open_features(where):
    """Fig. 7. Agrees when open images keep together more, by 0.02, in the method's features than in f_close's."""
    found = arrays.read_arrays("features", where)
    if found is None:
        return missing("fig7_open_features", where, ARRAYS)
    is_open = found["is_open"]
    places = {name: place for name, place in zip(found["panel"], found["place"], strict=True) if name != "clip"}
    by_net = {name: paper_data.open_neighbours(place, is_open) for name, place in places.items()}
    notes = {name: f"{share:.0%} of an open image's\n10 nearest are open" for name, share in by_net.items()}
    panels = [(name, place, is_open, notes[name]) for name, place in places.items()]
    text = "noisy_label has not run here."
    if "noisy_label" in by_net:
        shares = ", ".join(f"{value:.0%} in {name}'s" for name, value in by_net.items())
        text = (
            f"{agreement(by_net['noisy_label'] > by_net['f_close'] + 0.02)}: of an open image's ten nearest in the "
            f"plane these are open: {shares} features (by chance {is_open.mean():.0%}). Aligned labels."
        )
    text += " The paper's left panel is trained on the pseudo labels; ours is f_close, which saw none of them."
    return Plate(
        "fig7_open_features", paper_figures.embedding_open(panels), f"{text} {source(found.about)}", found.about
    )


def all_plates(where):
    """Figures 1 to 7 for one folder of runs."""
    return [class_distance(where), pseudo_labels(where), pipeline(), confidence(where), sweeps(where),
            comparison_group(where), open_features(where)]  # fmt: skip
