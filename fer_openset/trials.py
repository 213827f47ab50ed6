"""Which settings the trials on a make-believe open class speak for: as many of them for one method as for another.

Source: the protocol of `datasets.trial`; the sets of overrides are params/ablations/trials_METHOD.yaml.
"""

import pandas as pd

from fer_openset.ablations import ablation_names, load_ablation
from fer_openset.report import summarise
from fer_openset.run_table import read_runs, trials_path

PREFIX = "trials_"
COLUMNS = ["open_classes", "method", "variant", "changed", "n", "mean", "sd", "lo", "hi", "chosen"]


def trial_sets():
    """The sets of trials there are: {method: the set}."""
    found = (load_ablation(name) for name in ablation_names() if name.startswith(PREFIX))
    return {one.method: one for one in found}


def read_trials():
    """The committed table of trials, a row a run, columns as of runs.csv; empty without the file."""
    return read_runs(trials_path())


def trial_table(rows, dataset, preset):
    """One row a trial and make-believe open class: what it changes, AUROC over n seeds, and whether it is the best.

    rows: as `read_trials` gives them; aligned runs count. `changed` is what the set of trials says today. Of equal
    AUROCs the settings as they are win. `chosen` is empty for methods without trials, which stand first to compare
    with, and for a method of which a trial is missing: it would be chosen from fewer than the others. Trials are
    compared over the seeds that all of the method's trials have.
    """
    rows = rows[(rows["dataset"] == dataset) & (rows["preset"] == preset) & (rows["alignment"] == "aligned")]
    parts = []
    for _, part in rows.groupby("open_classes"):
        parts.append(summarise(part[~part["method"].isin(trial_sets())]).assign(changed="", chosen=""))
        parts += [_of_method(part, method, found.in_preset(preset)) for method, found in sorted(trial_sets().items())]
    return pd.concat([pd.DataFrame(columns=COLUMNS), *parts])[COLUMNS].reset_index(drop=True)


def _of_method(rows, method, overrides):
    """The trials of one method on one pool, the settings as they are first."""
    variants = {"default": {}, **overrides}
    mine = rows[(rows["method"] == method) & rows["variant"].isin(variants)]
    complete = mine.groupby("seed")["variant"].transform("nunique") == len(variants)
    table = summarise(mine[complete] if complete.any() else mine)
    table = table.assign(order=table["variant"].map(list(variants).index)).sort_values("order")
    table["changed"] = [", ".join(f"{k}: {v}" for k, v in variants[name].items()) for name in table["variant"]]
    best = table["mean"].idxmax() if complete.any() else None
    return table.assign(chosen=["✓" if i == best else "" for i in table.index])
