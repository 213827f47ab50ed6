"""What the audit notebook reads: committed tables, and the two-by-two of method and alignment.

Nothing here loads torch: the report is drawn from tables alone (`audit_summary` puts it into words).
"""

import pandas as pd

from fer_openset import report
from fer_openset.settings import ALIGNMENTS, results_dir

POOL = ("dataset", "preset", "open_classes", "seed", "alignment")
SIZES = ("n_open_train", "n_open_test", "n_training_split")
TESTS = ("entropy", "own_label", "chi2_test", "p_test", "chi2_split", "p_split", "bits", "bits_lo", "bits_hi")
EPOCHS_KEY = ("dataset", "preset", "open_classes", "seed", "epochs", "epoch", "alignment", "method")
EPOCHS_VALUES = ("n_known", "n_open", "train_accuracy", "closed_accuracy", "auroc", "auroc_lo", "auroc_hi")
TABLES = {  # name: (key, columns after it)
    "audit_counts": ((*POOL, "part", "label"), ("n",)),
    "audit_labels": (POOL, (*SIZES, *TESTS)),
    "audit_epochs": (EPOCHS_KEY, EPOCHS_VALUES),
}
BASELINES = ("msp", "maxlogit", "energy")
METHODS = (*BASELINES, "pseudo_label_ce", "noisy_label")
PAIR = ["dataset", "preset", "open_classes", "method", "seed"]  # what a run under one alignment shares with the other


def table_path(name):
    """Where one of the audit's tables lies."""
    return results_dir() / "tables" / f"{name}.csv"


def read_table(name):
    """One of the audit's tables; empty, with its columns, without the file."""
    key, values = TABLES[name]
    path = table_path(name)
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*key, *values])


def read_epochs():
    """Baselines after each epoch of f_close (see `audit_epochs`)."""
    return read_table("audit_epochs")


def paired(runs):
    """Rows of METHODS, default variant, whose pool and seed ran under both alignments with one f_close (where it is
    not recorded for either it is taken for one); the others are left out."""
    rows = runs[(runs["variant"] == "default") & runs["method"].isin(METHODS)]
    pairs = rows.groupby(PAIR)
    both, same = pairs["alignment"].transform("nunique") == len(ALIGNMENTS), pairs["f_close"].transform("nunique") == 1
    return rows[both & same]


def order_differences(differences):
    """What the order of the labels alone makes: rows of `statistics.read_differences`, as released minus aligned."""
    chosen = (differences["alignment"] == "as_released") & (differences["alignment_b"] == "aligned")
    same = (differences["method"] == differences["method_b"]) & (differences["variant_b"] == "default")
    return differences[chosen & same & (differences["variant"] == "default")]


def two_by_two(runs):
    """AUROC of baseline, control and paper's method under both alignments, as text, over the same pools and seeds.

    runs: rows of one dataset and preset. Returns: open_classes, method, aligned, as_released; empty without such rows.
    """
    rows = paired(runs)
    if rows.empty:
        return pd.DataFrame(columns=["open_classes", "method", *ALIGNMENTS])
    dataset, preset = rows["dataset"].iloc[0], rows["preset"].iloc[0]
    wide = report.summary_table(rows, dataset, preset).droplevel("variant").stack()
    table = wide[wide != ""].unstack("alignment").reset_index()
    table = table.assign(order=table["method"].map(METHODS.index)).sort_values(["open_classes", "order"])
    return table[["open_classes", "method", *ALIGNMENTS]].reset_index(drop=True).rename_axis(columns=None)
