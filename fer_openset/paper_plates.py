"""Figures 1 to 7 of the paper with their captions.

Numbers come from `paper_data`, ink from `paper_figures`. Each sentence about agreement is decided by the rule that the
function's docstring states, so that it stays true when the tables change.
"""

import numpy as np

from fer_openset import ablation_report, arrays, paper_data, paper_figures, report, variants
from fer_openset.metrics import auroc
from fer_openset.plates import NAMES, Plate, about_rows, agreement, missing, source

ARRAYS = "`python -m fer_openset arrays`"
ABLATION = "A grid like `params/grids/ablation_ferplus.yaml`"


def class_distance(where):
    """Fig. 1. Agrees when the faces' classes lie closer together than the objects'."""
    faces, digits = arrays.read_arrays("features", where), arrays.read_arrays("digits")
    if not (faces and digits):
        return missing("fig1_class_distance", where, ARRAYS)
    title = NAMES.get(where.dataset, where.dataset)
    panels = [(title, *_classes(faces, 0)), ("digits, for objects", *_classes(digits))]
    about, near, far = faces.about, float(faces["ratio"][0]), float(digits["ratio"])
    text = (
        f"{agreement(near < far)}: in units of their own spread, classes of faces lie {near:.2f} apart, those of "
        f"objects {far:.2f}. Not comparable: these are the features of each closed model, and digits stand in for "
        f"CIFAR-10; the paper shows CLIP features. {source(about)}"
    )
    return Plate("fig1_class_distance", paper_figures.embedding_classes(panels), text, about)


def _classes(found, panel=None):
    place, ratio = (found[name] if panel is None else found[name][panel] for name in ("place", "ratio"))
    return place, found["label"], float(ratio), float(found["pixel_ratio"])


def pseudo_labels(where):
    """Fig. 2. Agrees when the labels of open faces are spread more evenly than those of nine in ten left-out digits."""
    faces, digits = arrays.read_arrays("labels", where), arrays.read_arrays("digits")
    if not (faces and digits):
        return missing("fig2_pseudo_labels", where, ARRAYS)
    counts, about = faces["aligned"][np.char.startswith(faces["part"], "open")].sum(0), faces.about
    spread = paper_data.evenness(counts)
    by_digit = [paper_data.evenness(np.delete(row, d)) for d, row in enumerate(digits["labels"])]
    typical = int(np.argsort(by_digit)[4])
    row, others = np.delete(digits["labels"][typical], typical), [str(d) for d in range(10) if d != typical]
    panels = [
        (f"{NAMES.get(where.dataset, where.dataset)}: {where.open_classes}\nevenness {spread:.2f}",
         paper_data.label_shares(counts, faces["label"])),
        (f"digits: {typical} (median digit)\nevenness {by_digit[typical]:.2f}", paper_data.label_shares(row, others)),
    ]  # fmt: skip
    below = sum(value < spread for value in by_digit)
    text = (
        f"{agreement(below >= 9)}: labels of open faces are more evenly spread than those of {below} of ten "
        f"left-out digits (evenness, entropy over its maximum: {spread:.2f} against {min(by_digit):.2f} to "
        f"{max(by_digit):.2f}). Not comparable: digits stand in for CIFAR-10. Aligned labels. {source(about)}"
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
    shown = [(f"{method}\nAUROC {values[method]:.3f}", scores, is_open) for method, scores, is_open in items]
    text = f"noisy_label has not run beside another of the paper's methods yet. {source(found.about)}"
    rivals = {m: v for m, v in values.items() if m in report.PAPER_METHODS}
    if "noisy_label" in rivals and len(rivals) > 1:
        place = sum(v > rivals["noisy_label"] for v in rivals.values()) + 1
        text = (
            f"{agreement(place == 1)}: with labels that belong to their images noisy_label comes {place} of "
            f"{len(rivals)} among the paper's methods that ran (paper: 1 of 5). {source(found.about)}"
        )
    return Plate("fig4_confidence", paper_figures.confidence_histograms(shown), text, found.about)


def sweeps(where):
    """Fig. 5. Agrees when the weight of the consistency moves the AUROC by less than 0.05."""
    runs, changed, published = report.read_runs(), variants.read_variants(), report.targets()
    mine = published[(published["table"] == "1") & (published["metric"] == "auroc")]
    mine = mine[(mine["dataset"] == where.dataset) & (mine["open_classes"] == where.open_classes)]
    line = mine.set_index("method")["value"].get("noisy_label")
    weights = paper_data.weight_sweep(runs, changed, where)
    epochs = paper_data.epoch_sweep(ablation_report.read_epochs(), changed, where)
    name = "fig5_sweeps_synthetic" if where.dataset == "synthetic" else "fig5_sweeps"  # never in one figure
    panels = [("consistency weight λ", weights, line), ("epochs", epochs, line)]
    panels = [panel for panel in panels if len(panel[1])]
    if not panels:
        return missing(name, where, ABLATION)
    rows = paper_data.rows_of(runs, where, method="noisy_label", open_classes=where.open_classes)
    about = about_rows(where, rows, open_classes=where.open_classes)
    text = f"No runs with other weights yet. {source(about)}"
    if len(weights):
        moved = (weights.groupby("group")["mean"].max() - weights.groupby("group")["mean"].min()).max()
        text = (
            f"{agreement(moved < 0.05)}: over the weights that ran the AUROC moves by {moved:.3f} (paper: little). "
            f"{source(about)}"
        )
    return Plate(name, paper_figures.sweep_panels(panels), text, about)


def comparison_group(where):
    """Fig. 6. Agrees when the AUROC rises from the baseline over the comparison group to the method."""
    runs = report.read_runs()
    table = paper_data.comparison(runs, variants.read_variants(), where)
    rows = paper_data.rows_of(runs, where, open_classes=where.open_classes, method=("msp", "noisy_label"))
    about = about_rows(where, rows, open_classes=where.open_classes)
    ran = table.dropna(subset="mean")
    if ran.empty:
        return missing("fig6_comparison_group", where, ABLATION)
    text = f"No runs yet: {', '.join(table.loc[table['mean'].isna(), 'name'])}"
    if len(ran) == len(table):
        low, *middle, high = table["mean"]
        rises = all(low < value < high for value in middle)
        text = f"{agreement(rises)}: the paper's order is baseline, comparison group, method"
    text += f"; the marks are RAF-DB's published values (surprise open) and not comparable. {source(about)}"
    return Plate("fig6_comparison_group", paper_figures.comparison_group(ran), text, about)


def open_features(where):
    """Fig. 7. Agrees when open images keep together more, by 0.02, in the method's features than in f_close's."""
    found = arrays.read_arrays("features", where)
    if found is None:
        return missing("fig7_open_features", where, ARRAYS)
    is_open = found["is_open"]
    kept = [paper_data.open_neighbours(place, is_open) for place in found["place"]]
    notes = [f"{k:.0%} of an open image's\n10 nearest are open" for k in kept]
    panels = list(zip(found["panel"], found["place"], [is_open] * len(kept), notes, strict=True))
    by_net = dict(zip(found["panel"], kept, strict=True))
    text = "noisy_label has not run here."
    if "noisy_label" in by_net:
        shares = ", ".join(f"{value:.0%} in {name}'s" for name, value in by_net.items())
        text = (
            f"{agreement(by_net['noisy_label'] > by_net['f_close'] + 0.02)}: of an open image's ten nearest in the "
            f"plane these are open: {shares} features (by chance {is_open.mean():.0%}). Aligned labels."
        )
    return Plate(
        "fig7_open_features", paper_figures.embedding_open(panels), f"{text} {source(found.about)}", found.about
    )


def all_plates(where):
    """Figures 1 to 7 for one folder of runs."""
    return [class_distance(where), pseudo_labels(where), pipeline(), confidence(where), sweeps(where),
            comparison_group(where), open_features(where)]  # fmt: skip
