"""The figures that the paper lacks, with their captions. Numbers come from `paper_data`, ink from `our_figures`."""

import numpy as np

from fer_openset import arrays, our_figures, paper_data, report
from fer_openset.methods import ORACLE
from fer_openset.metrics import auroc
from fer_openset.plates import Plate, about_rows, agreement, grid_for, missing, source
from fer_openset.variants import DEFAULT


def roc(where):
    """ROC curves with bands: the headline methods and the best of the others."""
    found = arrays.read_arrays("scores", where)
    name = f"roc_bands_{where.dataset}_{where.preset}"
    items = {method: (scores, is_open) for method, scores, is_open in paper_data.scored_runs(found)}
    if not items:
        return missing(name, where, "`python -m fer_openset arrays`")
    values = {method: auroc(*item) for method, item in items.items()}
    chosen = [m for m in items if m in paper_data.HEADLINE]
    # An online form beside its offline one would lie on the same curve.
    others = sorted((m for m in items if m not in chosen and m.removesuffix("_online") not in chosen), key=values.get)
    curves = []
    for method in sorted(chosen + others[-1:], key=values.get, reverse=True):
        curves.append((method, f"{method} {values[method]:.3f}", paper_data.GRID, *paper_data.roc_band(*items[method])))
    text = (
        f"Open positive, AUROC in the legend, 95 % bands over images. {_best_of(values, [c[0] for c in curves])} "
        f"{_on_one_curve(curves)}The paper shows no curves. {source(found.about)}"
    )
    return Plate(name, our_figures.roc_bands(curves), text, found.about)


def _best_of(values, drawn):
    """Which method that reads no true label ranks best, over all that ran: an undrawn one is named too."""
    best = max((m for m in values if m != ORACLE), key=values.get, default=None)
    if best is None:
        return "Only the oracle has run, which reads the true labels."
    undrawn = "" if best in drawn else f"; {best.removesuffix('_online')}'s curve stands for it"
    value = f"{values[best]:.3f}{undrawn}"
    return f"Of {len(values)} methods that ran, {best} is the best that reads no true label ({value})."


def _on_one_curve(curves):
    """Names curves that hide one another. With labels f_close's own, cross-entropy to them is a function of msp."""
    by_curve = {}
    for method, _, _, tpr, *_ in curves:
        by_curve.setdefault(tpr.tobytes(), []).append(method)
    hidden = [sorted(names) for names in by_curve.values() if len(names) > 1]
    texts = [f"{', '.join(names[:-1])} and {names[-1]} lie on one curve" for names in hidden]
    why = ": with aligned labels both rank alike" if ["msp", "pseudo_label_ce"] in hidden else ""
    return f"{'; '.join(texts)}{why}. " if texts else ""


def auroc_of_methods(where):
    """AUROC of the headline methods in each open class, on labels in order and in the released code's scrambled one."""
    runs = paper_data.rows_of(report.same_seeds(report.read_runs()), where, variant=DEFAULT)
    shown, name = runs[runs["method"].isin(paper_data.HEADLINE)], f"auroc_{where.dataset}_{where.preset}"
    if shown.empty:
        return missing(name, where, "A grid of `make batch`")
    about = about_rows(where, shown)
    hollow = "Hollow: pseudo labels in the scrambled order of the released code, no result. "
    text = (
        f"AUROC with 95 % intervals over images, {shown['method'].nunique()} of {runs['method'].nunique()} methods "
        "that ran; all stand in the table of runs. "
        f"{hollow if 'as_released' in set(shown['alignment']) else ''}An empty row has not run there. {source(about)}"
    )
    order = [m for m in paper_data.HEADLINE if m in set(shown["method"])]
    return Plate(name, our_figures.auroc_panels(report.summarise(shown), order), text, about)


def open_share(where):
    """AUROC against the share of open images in the pool."""
    runs = report.same_seeds(report.read_runs())
    table, name = paper_data.by_open_share(runs, where), f"auroc_by_open_share_{where.dataset}_{where.preset}"
    if table.empty:
        return missing(name, where, grid_for(where, "stress"))
    chosen = {"method": tuple(table["method"].unique()), "variant": tuple(table["variant"].unique())}
    rows = paper_data.rows_of(runs, where, open_classes=where.open_classes, alignment="aligned", **chosen)
    about = about_rows(where, rows, open_classes=where.open_classes)
    text = (
        "Pools with fewer open images, on a logarithmic axis; methods stand slightly apart at each share, and the "
        f"smallest pool holds {table['n_open'].min()} open images. The paper has one pool only, so there is nothing to "
        f"compare. A score that learns nothing from the pool stays level, up to chance. {source(about)}"
    )
    return Plate(name, our_figures.auroc_by_share(table), text, about)


def methods_by_class(where):
    """Method by open class, the oracle as yardstick."""
    runs = report.same_seeds(report.read_runs())
    table, reached = paper_data.against_oracle(runs, where)
    about = about_rows(where, paper_data.rows_of(runs, where, alignment="aligned", variant=DEFAULT))
    name = f"methods_against_oracle_{where.dataset}_{where.preset}"
    if reached.isna().all(axis=None):
        return missing(name, where, f"The method `{ORACLE}` in a grid of `make batch`")
    shared = paper_data.shared_classes(table)
    alone = ", ".join(table.columns[reached.isna().all()])
    alone = f"; a number on white: no oracle for {alone}" if alone else ""
    text = (
        "AUROC, aligned labels; the colour says how much of the oracle's lead over chance a method reaches, below "
        f"chance it stays that of 0. White: not run there{alone}. Rows by the mean over {', '.join(shared)}, where "
        f"most methods ran. The paper has no upper bound. {source(about)}"
    )
    return Plate(name, our_figures.oracle_heatmap(table, reached), text, about)


def attention(where):
    """Attention maps of synthetic faces and of their mirror images: two plates, or none without arrays.

    Agrees with Eq. 2's aim when mirroring changes the maps of noisy_label less than those of f_close (medians).
    """
    found = arrays.read_arrays("maps", where)
    if found is None:
        return []
    rows = list(zip(found["net"], found["map"], found["mirrored"], strict=True))
    change = dict(zip(found["net"].tolist(), found["inconsistency"], strict=True))
    typical = {name: float(np.median(values)) for name, values in change.items()}
    text = f"Only f_close has run here. {source(found.about)}"
    if "noisy_label" in typical:
        less = typical["noisy_label"] < typical["f_close"]
        text = (
            f"{agreement(less, 'the aim of Eq. 2')}: mirroring changes the maps of noisy_label by "
            f"{typical['noisy_label']:.2f} of their square and those of f_close by {typical['f_close']:.2f} (medians "
            f"over the test images). {source(found.about)}"
        )
    size = " x ".join(map(str, found["map"].shape[2:]))
    shown = (
        f"Maps of {size} cells over synthetic faces; orange speaks for the chosen class, violet against it. A map and "
        f"its mirrored one share a scale, no others do: colours compare within such a pair only. "
        f"{_left_out(found['title'], where)}{text}"
    )
    cut = "The panels have different x ranges; the largest 1 % of the values of each lie beyond its end. "
    overlays = our_figures.attention_overlays(found["image"], found["title"], rows)
    panels = [(name, values, found["is_open"]) for name, values in change.items()]
    histograms = our_figures.inconsistency_histograms(panels)
    return [Plate("attention_overlays_synthetic", overlays, shown, found.about),
            Plate("attention_inconsistency_synthetic", histograms, cut + text, found.about)]  # fmt: skip


def _left_out(titles, where):
    """Which classes of the pool have no face in the figure, as far as the other arrays tell."""
    features = arrays.read_arrays("features", where)
    absent = sorted(set(features["label"]) - set(titles)) if features else []
    reason = f"the arrays hold the first {len(titles)} classes, open ones first, the others by name"
    return f"Not shown: {', '.join(absent)} ({reason}). " if absent else ""


def share_reliability(where):
    """Whether the estimated share of open images is right, all open classes of one dataset and preset."""
    table = paper_data.rows_of(arrays.read_shares(), where, alignment="aligned")
    about, name = about_rows(where, table), f"open_share_reliability_{where.dataset}_{where.preset}"
    if table.empty:
        return missing(name, where, "The method `pool_novelty` in a grid of `make batch`")
    inside = int(((table["lo"] <= table["true_share"]) & (table["true_share"] <= table["hi"])).sum())
    text = (
        f"The interval holds the true share in {inside} of {len(table)} runs; no label of the pool was read for it. "
        f"The paper has no such estimate. {source(about)}"
    )
    return Plate(name, our_figures.share_reliability(table), text, about)


def all_plates(where):
    """The figures that the paper lacks, for one folder of runs."""
    every = (roc, auroc_of_methods, open_share, methods_by_class, share_reliability)
    return [*(make(where) for make in every), *attention(where)]
