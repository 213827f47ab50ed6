"""What the audit notebook reads: committed tables, the two-by-two of method and alignment, and the one-page summary.

Nothing here loads torch: the report is drawn from tables alone.
"""

import pandas as pd

from fer_openset import audit, report
from fer_openset.labels import BASIC
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
METHODS = ("msp", "maxlogit", "energy", "pseudo_label_ce", "noisy_label")


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


def two_by_two(runs):
    """AUROC of baseline, control and paper's method under both alignments, as text, for pools that ran under both.

    runs: rows of one dataset and preset. Returns: open_classes, method, aligned, as_released; empty without such rows.
    """
    rows = runs[(runs["variant"] == "default") & runs["method"].isin(METHODS)]
    both = rows.groupby(["open_classes", "method"])["alignment"].transform("nunique") == len(ALIGNMENTS)
    if not both.any():
        return pd.DataFrame(columns=["open_classes", "method", *ALIGNMENTS])
    dataset, preset = rows["dataset"].iloc[0], rows["preset"].iloc[0]
    wide = report.summary_table(rows[both], dataset, preset).droplevel("variant").stack()
    table = wide[wide != ""].unstack("alignment").reset_index()
    table = table.assign(order=table["method"].map(METHODS.index)).sort_values(["open_classes", "order"])
    return table[["open_classes", "method", *ALIGNMENTS]].reset_index(drop=True).rename_axis(columns=None)


def summary(counts, replay, labels, runs, replayed):
    """One page in Markdown, every number computed from the arguments: what was seen, how to repeat it, what it changes.

    counts: `audit.released_counts`; replay: Replay; labels: the table audit_labels; runs: the table of runs; replayed:
    whether the replay ran on the reader's own files.
    """
    known = list(BASIC[1:])
    train, test = counts.loc["open train", known], counts.loc["open test", known]
    fit = audit.chi_square_fit(train, audit.random_image_shares(counts.loc[audit.TRUE_LABELS], test, ["surprise"]))
    two = audit.chi_square_two(train, test)
    where, share = "replayed here" if replayed else "as recorded", train.sum() / (train.sum() + test.sum())
    lines = [
        f"1. **Published file, RAF-DB, surprise open.** The {train.sum():,} open training images ({share:.0%} of all "
        f"open images) are not labelled like the {test.sum()} open test images (chi-square {two[0]:.0f} on {two[1]} "
        f"degrees of freedom, p = {two[2]:.2g}) but like random training images "
        f"(chi-square {fit[0]:.1f}, p = {fit[2]:.2f}).",
        f"2. **Replay ({where}).** {replay.agree:,} of {replay.hits_known:,} labels equal the true label of the image "
        f"at the shuffled position; random permutations reach {replay.best_random:.0%}.",
        *_label_lines(labels),
        *_run_lines(runs),
    ]
    return "\n".join(lines)


def _label_lines(labels):
    if labels.empty:
        return ["3. **Dependence of label and image in our runs:** no runs yet."]
    mean = labels.groupby(["dataset", "preset", "alignment"])["bits"].agg(["mean", "size"])
    found = []
    for (dataset, preset), part in mean.groupby(level=[0, 1]):
        part = part.droplevel([0, 1])
        said = ", ".join(f"{name} {row['mean']:.3f} bits" for name, row in part.iterrows())
        found.append(f"{dataset} ({preset}, n = {int(part['size'].iloc[0])} runs): {said}")
    return ["3. **Dependence of label and image in our runs** (probe on pixels): " + "; ".join(found) + "."]


def _run_lines(runs):
    lines, number = [], 4
    for (dataset, preset), part in runs.groupby(["dataset", "preset"]):
        rows = part[(part["variant"] == "default") & part["method"].isin(METHODS)]
        pairs = rows.pivot_table(index=["open_classes", "seed", "method"], columns="alignment", values="auroc").dropna()
        if not set(ALIGNMENTS) <= set(pairs.columns) or pairs.empty:
            continue
        mean = pairs.groupby("method")[list(ALIGNMENTS)].mean()
        n = pairs.groupby("method").size()
        said = "; ".join(f"{m} {row.aligned:.3f} aligned, {row.as_released:.3f} as released (n = {n[m]})"
                         for m, row in mean.iterrows())  # fmt: skip
        lines.append(f"{number}. **Effect on {dataset}, preset {preset}** (mean AUROC over pools and seeds): {said}.")
        number += 1
    return lines or ["4. **Effect on methods:** no runs yet under both alignments."]
