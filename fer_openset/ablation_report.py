"""What the ablations, controls and sweeps gave: tables from the table of runs and from scores kept after each epoch."""

import pandas as pd

from fer_openset import atomic, metrics
from fer_openset.ablations import ablation_names, load_ablation
from fer_openset.report import summarise
from fer_openset.run_table import SETTING, finished_runs, merge_rows, truth_of
from fer_openset.settings import results_dir

EPOCH_SCORES = "epoch_scores.csv"
EPOCH_KEY = (*SETTING, "seed", "epoch")
EPOCH_COLUMNS = (*EPOCH_KEY, "n_known", "n_open", "auroc")


def is_ablation(runs):
    """Which rows of the table of runs are variants of an ablation: bool Series."""
    named = {(a.method, v) for a in map(load_ablation, ablation_names()) for v in a.variants}
    pairs = pd.Series(list(zip(runs["method"], runs["variant"], strict=True)), index=runs.index, dtype=object)
    return pairs.isin(named)


def ablation_table(runs, name, dataset, preset):
    """One row a variant, alignment and open class, `default` first: AUROC and what it loses or gains.

    runs: the tidy table. Returns: variant, alignment, open_classes, changed (the overrides), n (seeds), mean, sd, lo,
    hi as in `report.summarise`, and difference (mean over the seeds that both have, minus `default`; NaN without it).
    """
    ablation = load_ablation(name)
    names = ["default", *ablation.variants]
    rows = runs[(runs["dataset"] == dataset) & (runs["preset"] == preset) & (runs["method"] == ablation.method)]
    rows = rows[rows["variant"].isin(names)]
    table = summarise(rows)
    table["changed"] = [_words(ablation.variants.get(v, {})) for v in table["variant"]]
    key = ["alignment", "open_classes", "seed"]
    beside = rows.merge(rows.loc[rows["variant"] == "default", [*key, "auroc"]], on=key, suffixes=("", "_default"))
    gain = (beside["auroc"] - beside["auroc_default"]).groupby([beside[k] for k in ("variant", *key[:2])]).mean()
    table = table.join(gain.rename("difference"), on=["variant", *key[:2]])
    order = table["variant"].map(names.index)
    columns = ["variant", "alignment", "open_classes", "changed", "n", "mean", "sd", "lo", "hi", "difference"]
    return table.assign(order=order).sort_values(["alignment", "open_classes", "order"])[columns].reset_index(drop=True)


def table5(runs, dataset, preset):
    """Table 5: `ablation_table` with a column for each of the three parts, ticked where it is on; all off first."""
    table = ablation_table(runs, "table5", dataset, preset)
    sets = [load_ablation("table5").variants.get(v, {}) for v in table["variant"]]
    table.insert(0, "attention", [s.get("attention", True) for s in sets])
    table.insert(1, "LR cycle", [s.get("schedule", "cycle") == "cycle" for s in sets])
    table.insert(2, "cycle training", [s.get("cycle_training", True) for s in sets])
    ticks = table[["attention", "LR cycle", "cycle training"]]
    table = table.assign(count=ticks.sum(axis=1)).sort_values(["alignment", "open_classes", "count"], kind="stable")
    return table.drop(columns=["changed", "count"]).replace({True: "✓", False: ""}).reset_index(drop=True)


def epochs_path():
    """Where the table of scores kept after each epoch lies."""
    return results_dir() / "tables" / "epochs.csv"


def read_epochs():
    """AUROC after each epoch, of the runs that kept it; an empty table without the file."""
    path = epochs_path()
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(EPOCH_COLUMNS))


def write_epochs(runs_dir=None):
    """Rebuild the table of AUROC after each epoch from the runs at hand and the rows already there; returns it."""
    found = []
    for path, row in finished_runs(runs_dir):
        scores_file = path.parent / EPOCH_SCORES
        if scores_file.exists():
            scores = pd.read_csv(scores_file, index_col="sample_id")
            is_open = truth_of(path).loc[scores.index].to_numpy()
            same = {**{k: row[k] for k in (*SETTING, "seed", "n_known", "n_open")}}
            found += [{**same, "epoch": int(e), "auroc": metrics.auroc(scores[e].to_numpy(), is_open)} for e in scores]
    table = merge_rows(read_epochs(), pd.DataFrame(found, columns=list(EPOCH_COLUMNS)), EPOCH_KEY)
    if len(table):
        atomic.write_csv(epochs_path(), table, float_format="%.6f")
    return table


def sweep(epochs, name, dataset, preset, alignment="aligned"):
    """Fig. 5 as a table: AUROC by consistency weight (rows) and epoch (columns), mean over open classes and seeds.

    epochs: as `read_epochs` gives it. Empty when nothing of this set has run.
    """
    ablation = load_ablation(name)
    chosen = epochs[(epochs["dataset"] == dataset) & (epochs["preset"] == preset) & (epochs["alignment"] == alignment)]
    chosen = chosen[chosen["variant"].isin(ablation.variants)]
    weight = chosen["variant"].map({v: s["consistency_weight"] for v, s in ablation.variants.items()})
    return chosen.assign(weight=weight).pivot_table(index="weight", columns="epoch", values="auroc")


def _words(overrides):
    return ", ".join(f"{key}: {value}" for key, value in overrides.items())
