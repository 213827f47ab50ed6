"""Which settings the trials on a make-believe open class speak for: the same number of them for every trained method.

Source: the protocol of `datasets.trial`; the sets of overrides are params/ablations/trials_METHOD.yaml.
"""

import pandas as pd

from fer_openset.ablations import ablation_names, load_ablation
from fer_openset.report import summarise
from fer_openset.run_table import read_runs, trials_path

PREFIX = "trials_"
COLUMNS = ["method", "variant", "changed", "n", "mean", "sd", "lo", "hi", "chosen"]


def trial_sets():
    """The sets of trials there are: {method: the set}."""
    found = (load_ablation(name) for name in ablation_names() if name.startswith(PREFIX))
    return {one.method: one for one in found}


def read_trials():
    """The committed table of trials, a row a run, columns as of runs.csv; empty without the file."""
    return read_runs(trials_path())


def trial_table(rows, dataset, preset):
    """One row a trial: what it changes, AUROC over n seeds with interval, and whether it is its method's best.

    rows: as `read_trials` gives them. Larger AUROC is better; of equal ones the settings as they are win. Methods
    without trials of their own stand first, to compare with; nothing is chosen for them. A method's column `chosen` is
    empty as long as one of its trials is missing, so that no method is chosen for from fewer than the others.
    """
    rows = summarise(rows[(rows["dataset"] == dataset) & (rows["preset"] == preset)])
    parts = [rows[~rows["method"].isin(trial_sets())].assign(changed="", chosen="")]
    for method, found in sorted(trial_sets().items()):
        variants = {"default": {}, **found.in_preset(preset)}
        mine = rows[(rows["method"] == method) & rows["variant"].isin(variants)]
        mine = mine.assign(order=mine["variant"].map(list(variants).index)).sort_values("order")
        mine["changed"] = [", ".join(f"{k}: {v}" for k, v in variants[name].items()) for name in mine["variant"]]
        complete = len(mine) == len(variants)
        mine["chosen"] = ["✓" if complete and i == mine["mean"].idxmax() else "" for i in mine.index]
        parts.append(mine)
    return pd.concat([part for part in parts if len(part)] or parts[:1])[COLUMNS].reset_index(drop=True)
