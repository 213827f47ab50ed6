"""What the ablations, controls and sweeps gave: tables from the table of runs and from scores kept after each epoch."""

import pandas as pd

from fer_openset import atomic, metrics
from fer_openset.ablations import ablation_names, load_ablation
from fer_openset.report import summarise
from fer_openset.run_table import KEY, SETTING, finished_runs, merge_rows, truth_of
from fer_openset.settings import results_dir

EPOCH_SCORES = "epoch_scores.csv"
EPOCH_KEY = (*SETTING, "seed", "epoch")
EPOCH_COLUMNS = (*EPOCH_KEY, "n_known", "n_open", "auroc")
PARTS = ["attention", "LR cycle", "cycle training"]  # of Table 5
BASELINES = ("msp", "pseudo_label_ce")  # the paper's Table 5 begins with MSP; the control trains nothing


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
    variants = ablation.in_preset(preset)
    names = ["default", *variants]
    mine = runs[(runs["dataset"] == dataset) & (runs["preset"] == preset) & (runs["method"] == ablation.method)]
    table = _against_default(mine[mine["variant"].isin(names)], mine)
    table["changed"] = [_words(variants.get(v, {})) for v in table["variant"]]
    order = table["variant"].map(names.index)
    columns = ["variant", "alignment", "open_classes", "changed", "n", "mean", "sd", "lo", "hi", "difference"]
    return table.assign(order=order).sort_values(["alignment", "open_classes", "order"])[columns].reset_index(drop=True)


def table5(runs, dataset, preset):
    """Table 5: `ablation_table` with a column for each of the three parts, ticked where it is on; all off first.

    Before them stand the baselines that the method has to beat, with their own difference from it: what the rows mean
    cannot be read without them, least of all `as_released`.
    """
    table = ablation_table(runs, "table5", dataset, preset).assign(method="noisy_label")
    sets = [load_ablation("table5").variants.get(v, {}) for v in table["variant"]]
    table.insert(0, "attention", [s.get("attention", True) for s in sets])
    table.insert(1, "LR cycle", [s.get("schedule", "cycle") == "cycle" for s in sets])
    table.insert(2, "cycle training", [s.get("cycle_training", True) for s in sets])
    table.insert(3, "method", table.pop("method"))
    table = table.assign(count=table[PARTS].sum(axis=1)).drop(columns="changed")
    table[PARTS] = table[PARTS].replace({True: "✓", False: ""}).astype(object)
    mine = runs[(runs["dataset"] == dataset) & (runs["preset"] == preset) & (runs["variant"] == "default")]
    first = _against_default(mine[mine["method"].isin(BASELINES)], mine[mine["method"] == "noisy_label"])
    first = first.merge(table[["alignment", "open_classes"]].drop_duplicates())  # only where the method ran
    first = first.assign(**dict.fromkeys(PARTS, ""), count=-1).reindex(columns=table.columns)
    both = pd.concat([part for part in (first, table) if len(part)] or [table])
    both = both.sort_values(["alignment", "open_classes", "count"], kind="stable")
    return both.drop(columns="count").reset_index(drop=True)


def part_effects(table):
    """What each part of Table 5 adds: mean AUROC of the rows with it minus that of the same rows without it.

    table: as `table5` gives it. Returns: alignment, open_classes, part, difference, n_pairs (rows that differ in this
    part alone; four when all eight combinations ran). Empty without such a pair.
    """
    rows, found = table[table["method"] == "noisy_label"], []
    for (alignment, open_classes), group in rows.groupby(["alignment", "open_classes"]):
        for part in PARTS:
            others = [name for name in PARTS if name != part]
            on, off = (group[group[part] == mark].set_index(others)["mean"] for mark in ("✓", ""))
            gain = (on - off).dropna()
            if len(gain):
                found.append([alignment, open_classes, part, gain.mean(), len(gain)])
    return pd.DataFrame(found, columns=["alignment", "open_classes", "part", "difference", "n_pairs"])


def _against_default(rows, defaults):
    """`report.summarise` of rows, and `difference`: mean over the seeds that both have, minus the default's."""
    key, who = ["alignment", "open_classes", "seed"], ["method", "variant", "alignment", "open_classes"]
    defaults = defaults.loc[defaults["variant"] == "default", [*key, "auroc"]]
    beside = rows.merge(defaults, on=key, suffixes=("", "_default"))
    gain = (beside["auroc"] - beside["auroc_default"]).groupby([beside[k] for k in who]).mean()
    return summarise(rows).join(gain.rename("difference"), on=who)


def epochs_path():
    """Where the table of scores kept after each epoch lies."""
    return results_dir() / "tables" / "epochs.csv"


def read_epochs():
    """AUROC after each epoch, of the runs that kept it; an empty table without the file."""
    path = epochs_path()
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(EPOCH_COLUMNS))


def write_epochs(runs_dir=None):
    """Rebuild the table of AUROC after each epoch from the runs at hand and the rows of others already there; returns
    it."""
    found = []
    for path, row in finished_runs(runs_dir):
        scores_file = path.parent / EPOCH_SCORES
        if scores_file.exists():
            scores = pd.read_csv(scores_file, index_col="sample_id")
            is_open = truth_of(path).loc[scores.index].to_numpy()
            same = {**{k: row[k] for k in (*SETTING, "seed", "n_known", "n_open")}}
            found += [{**same, "epoch": int(e), "auroc": metrics.auroc(scores[e].to_numpy(), is_open)} for e in scores]
    found, committed = pd.DataFrame(found, columns=list(EPOCH_COLUMNS)), read_epochs()
    known, again = (pd.MultiIndex.from_frame(part[list(KEY)]) for part in (committed, found))
    # A run made again replaces all its rows: it may have fewer epochs than before.
    table = merge_rows(committed[~known.isin(again)], found, EPOCH_KEY)
    if len(table):
        atomic.write_csv(epochs_path(), table, float_format="%.6f")
    return table


def sweep(epochs, name, dataset, preset, alignment="aligned"):
    """Fig. 5 as a table: AUROC by consistency weight (rows) and epoch (columns), mean over open classes and seeds.

    epochs: as `read_epochs` gives it. Empty when nothing of this set has run. Of which runs: `swept_runs`.
    """
    chosen = _swept(epochs, name, dataset, preset, alignment)
    weights = {v: s["consistency_weight"] for v, s in load_ablation(name).variants.items()}
    chosen = chosen.assign(weight=chosen["variant"].map(weights))
    return chosen.pivot_table(index="weight", columns="epoch", values="auroc")


def swept_runs(epochs, name, dataset, preset, alignment="aligned"):
    """The runs behind `sweep`, one row each, so that `statistics.sizes` can state their n."""
    return _swept(epochs, name, dataset, preset, alignment).drop_duplicates(list(KEY))


def _swept(epochs, name, dataset, preset, alignment):
    ablation = load_ablation(name)
    chosen = (epochs["dataset"] == dataset) & (epochs["preset"] == preset) & (epochs["alignment"] == alignment)
    return epochs[chosen & (epochs["method"] == ablation.method) & epochs["variant"].isin(ablation.variants)]


def _words(overrides):
    return ", ".join(f"{key}: {value}" for key, value in overrides.items())
