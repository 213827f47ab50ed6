"""What the audit notebook says in words: every number and every verdict computed from tables, nothing asserted.

Nothing here loads torch.
"""

from fer_openset import audit, report
from fer_openset.audit_tables import BASELINES, PAIR, order_differences, paired
from fer_openset.labels import BASIC
from fer_openset.settings import ALIGNMENTS


def summary(counts, replay, labels, runs, differences, own_files):
    """One page in Markdown, every number computed from the arguments: what was seen, how to repeat it, what it changes.

    counts: `audit.released_counts` or `audit.count_published`; replay: Replay; labels: the table audit_labels; runs:
    the table of runs; differences: `statistics.read_differences`; own_files: whether counts and replay were made here,
    from the reader's own files.
    """
    known = list(BASIC[1:])
    train, test = counts.loc["open train", known], counts.loc["open test", known]
    fit = audit.chi_square_fit(train, audit.random_image_shares(counts.loc[audit.TRUE_LABELS], test, ["surprise"]))
    two = audit.chi_square_two(train, test)
    first, second = audit.verdict(two[2]), audit.verdict(fit[2])
    word = "and" if first == second else "but"
    share = train.sum() / (train.sum() + test.sum())
    lines = [
        f"1. **Published file, RAF-DB, surprise open ({'counted here' if own_files else 'counts as recorded'}).** The "
        f"{train.sum():,} open training images ({share:.0%} of all open images) are {first} the {test.sum()} open test "
        f"images (chi-square {two[0]:.0f} on {two[1]} degrees of freedom, p = {two[2]:.2g}) {word} {second} random "
        f"training images (chi-square {fit[0]:.1f}, p = {fit[2]:.2g}).",
        f"2. **Replay ({'replayed here' if own_files else 'as recorded'}).** {replay.agree:,} of {replay.hits_known:,} "
        "labels equal the true label of the image at the shuffled position; random permutations reach "
        f"{replay.best_random:.0%}.",
        *_label_lines(labels),
        *_run_lines(runs, differences),
    ]
    return "\n".join(lines)


def _label_lines(labels):
    if labels.empty:
        return [f"3. **Dependence of label and image in our runs:** {report.NO_RUNS}."]
    mean = labels.groupby(["dataset", "preset", "alignment"])["bits"].agg(["mean", "size"])
    found = []
    for (dataset, preset), part in mean.groupby(level=[0, 1]):
        part = part.droplevel([0, 1])
        said = ", ".join(f"{name} {row['mean']:.3f} bits" for name, row in part.iterrows())
        found.append(f"{dataset} ({preset}, n = {int(part['size'].iloc[0])} runs): {said}")
    return ["3. **Dependence of label and image in our runs** (probe on pixels): " + "; ".join(found) + "."]


def _run_lines(runs, differences):
    lines, order = [], order_differences(differences)
    for (dataset, preset), rows in paired(runs).groupby(["dataset", "preset"]):
        mean = rows.pivot_table(index="method", columns="alignment", values="auroc")[list(ALIGNMENTS)]
        beside = rows.loc[rows["alignment"] == "as_released", PAIR].merge(order, on=PAIR)
        n = rows.groupby("method").size() // len(ALIGNMENTS)
        said = "; ".join(f"{m} {row.aligned:.3f} aligned, {row.as_released:.3f} as released "
                         f"({_difference(beside[beside['method'] == m])}, n = {n[m]})"
                         for m, row in mean.iterrows())  # fmt: skip
        lines.append(f"{len(lines) + 4}. **Effect on {dataset}, preset {preset}** (mean AUROC over n pools and seeds; "
                     f"in brackets as released minus aligned, 95 % interval of DeLong's test): {said}.")  # fmt: skip
    return lines or [f"4. **Effect on methods:** {report.NO_RUNS} under both alignments."]


def _difference(rows):
    """Mean difference over pools and seeds; the interval is over images, its ends averaged."""
    if rows.empty:
        return "no paired test"
    mean = rows[["difference", "lo", "hi"]].mean()
    few = f" of {len(rows)} paired tests" if len(rows) > 1 else ""
    return f"{mean.difference:+.3f} [{mean.lo:+.3f}, {mean.hi:+.3f}]{few}"


def baseline_lines(runs):
    """How the scrambled baselines stand to chance (0.5): a sentence a dataset and preset, pools and seeds averaged.

    runs: the table of runs. The interval is the bootstrap interval over images, its ends averaged.
    """
    rows = runs[(runs["alignment"] == "as_released") & (runs["variant"] == "default")]
    rows = rows[rows["method"].isin(BASELINES)]
    lines = []
    for (dataset, preset), part in rows.groupby(["dataset", "preset"]):
        mean = part.groupby("method")[["auroc", "auroc_lo", "auroc_hi"]].mean()
        n = part.groupby("method").size()
        said = "; ".join(f"{m} {r.auroc:.3f} [{r.auroc_lo:.3f}, {r.auroc_hi:.3f}], {_beside_chance(r)}, n = {n[m]}"
                         for m, r in mean.iterrows())  # fmt: skip
        lines.append(f"{dataset}, preset {preset}, as released: {said}")
    return lines


def _beside_chance(row):
    if row.auroc_hi < 0.5:
        return "below chance"
    return "above chance" if row.auroc_lo > 0.5 else "not distinguishable from chance"


def learning_lines(epochs):
    """What happens under the released order while f_close learns: first and last epoch of each method, from one table.

    epochs: the table audit_epochs. One sentence a dataset, preset, open class and length; seeds averaged.
    """
    lines = []
    rows = epochs[epochs["alignment"] == "as_released"]
    for (dataset, preset, open_classes, length), part in rows.groupby(["dataset", "preset", "open_classes", "epochs"]):
        wide = part.pivot_table(index="epoch", columns="method", values="auroc").iloc[[0, -1]]
        accuracy = part.groupby("epoch")["train_accuracy"].mean().iloc[[0, -1]]
        said = "; ".join(f"{m} {first:.3f} to {last:.3f} ({_way(first, last)})" for m, (first, last) in wide.items())
        lines.append(f"{dataset}, preset {preset}, open = {open_classes}, {length} epochs: accuracy on its training "
                     f"images {accuracy.iloc[0]:.3f} to {accuracy.iloc[1]:.3f}; as released {said}")  # fmt: skip
    return lines


def _way(first, last):
    return "unchanged" if abs(last - first) < 0.005 else "falls" if last < first else "rises"
