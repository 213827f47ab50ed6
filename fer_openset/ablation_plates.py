"""Figures 5 and 6 of the paper, from runs of the grids `ablation` and `controls`, with captions; see `paper_plates`."""

import numpy as np

from fer_openset import ablation_report, arrays, paper_data, paper_figures, report, variants
from fer_openset.plates import Plate, about_rows, agreement, grid_for, missing, source

STEADY = 0.06  # by how much the AUROC of the paper's Fig. 5 moves, "from 0.87 to 0.93"


def sweeps(where):
    """Fig. 5. Agrees when neither weights of 1 or more nor epochs from the tenth on move the AUROC by more than STEADY.

    These are the ranges of the paper, which gives 0.87 to 0.93 over both.
    """
    runs, changed, published = report.same_seeds(report.read_runs()), variants.read_variants(), report.targets()
    mine = published[(published["table"] == "1") & (published["metric"] == "auroc")]
    mine = mine[(mine["dataset"] == where.dataset) & (mine["open_classes"] == where.open_classes)]
    line = mine.set_index("method")["value"].get("noisy_label")
    weights = paper_data.weight_sweep(runs, changed, where)
    epochs = paper_data.epoch_sweep(ablation_report.read_epochs(), changed, where)
    name = "fig5_sweeps_synthetic" if where.dataset == "synthetic" else "fig5_sweeps"  # never in one figure
    panels = [("consistency weight λ", weights, line), ("epoch within one run", epochs, line)]
    panels = [panel for panel in panels if len(panel[1])]
    if not panels:
        return missing(name, where, grid_for(where, "ablation"))
    shown = tuple(dict.fromkeys([*weights["variant"], *epochs["variant"]]))
    rows = paper_data.rows_of(runs, where, method="noisy_label", open_classes=where.open_classes, variant=shown)
    about = about_rows(where, rows[rows["alignment"] == "aligned"], open_classes=where.open_classes)
    settings = variants.settings_by_variant(changed, where.dataset, where.preset, "noisy_label")
    text = f"{_steady(weights, epochs)} {_sweep_runs('Weights', weights, settings)}"
    if len(epochs):
        text += (
            f"{_sweep_runs('Epochs', epochs, settings)}AUROC after each epoch within one run; the paper trains anew "
            "for each number of epochs. "
        )
    return Plate(name, paper_figures.sweep_panels(panels), text + source(about), about)


def _steady(weights, epochs):
    """The sentence on agreement, over the panels that there are."""
    moved = []
    for table, first, words in ((weights, 1, "over weights {:g} to {:g}"), (epochs, 10, "from epoch {:g} to {:g}")):
        table = table[table["x"] >= first]
        if table["x"].nunique() > 1:
            means = table.groupby("group")["mean"]
            moved.append((words.format(table["x"].min(), table["x"].max()), (means.max() - means.min()).max()))
    if not moved:
        return "No runs with other weights or more epochs yet."
    texts = [f"{words} by {by:.3f}" for words, by in moved]
    steady = all(by <= STEADY + 5e-7 for _, by in moved)
    return f"{agreement(steady)}: the AUROC moves {' and '.join(texts)} (paper: {STEADY} in all, 0.87 to 0.93)."


def _sweep_runs(panel, table, settings):
    """`Weights: variants a, b, of 40 epochs (default: 4). `: which runs a panel shows; empty for a panel left out."""
    names = list(dict.fromkeys(table.sort_values("x")["variant"]))
    lengths = {settings[v].get("epochs") for v in names} - {None}
    usual = settings.get(variants.DEFAULT, {}).get("epochs")
    length = f", of {' or '.join(map(str, sorted(lengths)))} epochs (default: {usual})" if lengths - {usual} else ""
    return f"{panel}: variant{'s' * (len(names) > 1)} {', '.join(names)}{length}. " if names else ""


def comparison_group(where):
    """Fig. 6. Agrees when the AUROC falls once all open images have one pseudo label.

    Before such a run: agrees, as far as it ran, when the method lies above the baseline.
    """
    runs = report.same_seeds(report.read_runs())
    table = paper_data.comparison(runs, variants.read_variants(), where)
    name = "fig6_comparison_group_synthetic" if where.dataset == "synthetic" else "fig6_comparison_group"
    if table["mean"].isna().all():
        return missing(name, where, grid_for(where, "controls"))
    chosen = {"method": ("msp", "noisy_label"), "variant": tuple(table["variant"])}
    rows = paper_data.rows_of(runs, where, open_classes=where.open_classes, alignment="aligned", **chosen)
    about = about_rows(where, rows, open_classes=where.open_classes)
    group, found = table[table["label"] != ""].iloc[0], arrays.read_arrays("labels", where)
    labels = None
    if found:
        counts = found["aligned"][np.char.startswith(found["part"], "open")].sum(0)
        labels = paper_data.label_shares(counts, found["label"])
    scores = arrays.read_arrays("scores", where)
    pair = paper_data.comparison_scores(scores, group["variant"]) if scores else None
    titles = ("method, as it is", group["name"])
    drawn = [(t, s, scores["is_open"], paper_data.is_skewed(s)) for t, s in zip(titles, pair or (), strict=False)]
    text = f"{_falls(table)} "
    if scores and pair is None and not np.isnan(group["mean"]):
        text += "No histograms: their scores wait for `python -m fer_openset arrays`. "
    if table["published"].notna().any():
        text += "The marks are RAF-DB's published values (surprise open) and not comparable. "
    figure = paper_figures.comparison_group(table, labels, group["label"], drawn)
    return Plate(name, figure, text + source(about), about)


def _falls(table):
    """The sentence on agreement; see `comparison_group`."""
    base, *groups, usual = table["mean"]
    waiting = ", ".join(table.loc[table["mean"].isna(), "name"])
    waiting = f" No runs yet: {waiting}." if waiting else ""
    ran = [value for value in groups if not np.isnan(value)]
    if ran and not np.isnan(usual):
        side = "above" if min(ran) > base else "below"
        beside = "" if np.isnan(base) else f"; the baseline has {base:.3f}, and the group lies {side} it (paper: above)"
        names = ", ".join(table.loc[(table["label"] != "") & table["mean"].notna(), "label"])
        return (
            f"{agreement(max(ran) < usual)}: with all open images labelled {names} the AUROC goes from {usual:.3f} to "
            f"{', '.join(f'{value:.3f}' for value in ran)} (paper: it falls){beside}.{waiting}"
        )
    if np.isnan(usual) or np.isnan(base):
        return waiting.strip()
    return (
        f"{agreement(usual > base, 'the paper as far as it ran')}: the method has {usual:.3f}, the baseline {base:.3f} "
        f"(paper: the method is above).{waiting}"
    )
