"""The protocol audit: do the pseudo labels of open training images belong to their images? Tests on counts and files.

Nothing here needs a network. `audit_runs` applies it to runs at hand, `audit_epochs` follows f_close while it learns.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fer_openset.errors import UserError
from fer_openset.labels import BASIC
from fer_openset.protocol import released_source
from fer_openset.settings import ROOT

COUNTS = ROOT / "results" / "paper" / "released_counts.csv"
RECORDED = ROOT / "results" / "paper" / "released_replay.csv"
TRUE_LABELS = "true labels of the training split"
ALPHA = 0.05  # below this p two label distributions are called different
COMPONENTS, FOLDS, SHRINK = 40, 5, 0.05  # of the probe


def released_counts():
    """Pseudo labels in the authors' published file, parts by labels, and the true labels of RAF-DB's training split."""
    table = pd.read_csv(COUNTS)
    return table.pivot(index="part", columns="label", values="n").reindex(columns=list(BASIC)).fillna(0).astype(int)


def count_published(published, label_list, open_class="surprise"):
    """The same table as `released_counts`, counted anew from the authors' file and RAF-DB's own list.

    published, label_list: as in `replay`. Lines of the published file for known training images, which no pool holds,
    are not counted. Returns: parts by every basic label, int. Raises: UserError as `replay`, and for an image that the
    list lacks.
    """
    true, given = _labels_of(published, label_list, open_class)
    of_train = pd.Series([true[name] for name in true if name.startswith("train_")]).value_counts()
    rows = {TRUE_LABELS: of_train}
    parts = pd.Series({name: _part(name, true[name] == open_class) for name in given})
    for part in ("closed test", "open test", "open train"):
        rows[part] = pd.Series([given[name] for name in parts.index[parts == part]], dtype=object).value_counts()
    return pd.DataFrame(rows).T.reindex(columns=list(BASIC)).fillna(0).astype(int).rename_axis("part")


def _part(name, is_open):
    return f"{'open' if is_open else 'closed'} {name.split('_')[0]}"


def random_image_shares(true_counts, open_test, open_classes):
    """What the pseudo labels of *random* training images look like: shares by known label.

    A known image is given its own label (f_close has learned it), an open one what open test images are given.
    Shapes: true_counts by every label, open_test by known label (Series).
    """
    known = open_test.index
    share_open = true_counts.loc[list(open_classes)].sum() / true_counts.sum()
    return true_counts.loc[known] / true_counts.sum() + share_open * open_test / open_test.sum()


def chi_square_fit(counts, shares):
    """Do these counts look drawn with these shares? Returns: (chi-square, degrees of freedom, p)."""
    counts, shares = counts[shares > 0], shares[shares > 0]
    found = stats.chisquare(counts, shares / shares.sum() * counts.sum())
    return float(found.statistic), len(counts) - 1, float(found.pvalue)


def chi_square_two(first, second):
    """Do two rows of counts look drawn from one distribution? Returns: (chi-square, degrees of freedom, p)."""
    table = np.array([first, second])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 0.0, 0, 1.0
    found = stats.chi2_contingency(table, correction=False)
    return float(found.statistic), int(found.dof), float(found.pvalue)


def verdict(p):
    """What a p of the tests above says in words, to stand before the name of the other labels."""
    if np.isnan(p):
        return "not comparable with"
    return "not labelled like" if p < ALPHA else "labelled like"


def entropy_share(counts):
    """Entropy of label counts as a share of its maximum, 0 (one label) to 1 (all equally often)."""
    counts = np.asarray(counts, float)
    return float(stats.entropy(counts / counts.sum()) / np.log(len(counts)))


@dataclass(frozen=True)
class Replay:
    """What the sampler replay found; counts of open training images (see `replay`)."""

    open_train: int
    at_own_place: int
    hits_open: int
    hits_known: int
    agree: int
    best_random: float


def replay(published, label_list, open_class="surprise", permutations=200):
    """Replay the released notebook's shuffled loader and compare the published pseudo labels with what it predicts.

    published: path of the authors' `predicted_labels_openN.txt` (lines: image path, class number 0..K-1).
    label_list: path of RAF-DB's `list_patition_label.txt` (lines: file name, 1..7). If the outputs were read by dataset
    position, the image at position p carries the label of the image at permutation[p]: its true label, if it is known.
    Returns: Replay; `best_random` is the largest agreement of `permutations` random ones. Raises: UserError.
    """
    true, given = _labels_of(published, label_list, open_class)
    train = pd.Index([name for name in true if name.startswith("train_")], name="sample_id")
    is_open = np.array([true[name] == open_class for name in train])
    at = np.flatnonzero(is_open)
    labels = np.array([given[train[p]] for p in at])
    truth = np.array([true[name] for name in train])
    source = train.get_indexer(released_source(train).to_numpy())[at]
    hits_known = ~is_open[source]
    rng = np.random.default_rng(0)
    random = [_agreement(labels, truth, is_open, rng.permutation(len(train))[at]) for _ in range(permutations)]
    agree = int((labels == truth[source])[hits_known].sum())
    return Replay(
        len(at), int((source == at).sum()), int((~hits_known).sum()), int(hits_known.sum()), agree, max(random)
    )


def _labels_of(published, label_list, open_class):
    """True label of every image in the list, and the published pseudo label of every image in the authors' file."""
    true = {name: BASIC[number - 1] for name, number in _lines(label_list, 1, 7)}
    known = [name for name in BASIC if name != open_class]
    given = {name: known[number] for name, number in _lines(published, 0, len(known) - 1)}
    strange = [name for name in given if name not in true]
    if strange:
        raise UserError(f"{label_list}: no line for {len(strange)} images that {published} names (first: "
                        f"{strange[0]}); are both files of RAF-DB?")  # fmt: skip
    wanted = [name for name, label in true.items() if name.startswith("train_") and label == open_class]
    missing = [name for name in wanted if name not in given]
    if not wanted or missing:
        raise UserError(f"{published}: {len(missing)} of {len(wanted)} training images of {open_class} have no line in "
                        "it; are these the two files of the same open class?")  # fmt: skip
    return true, given


def _agreement(labels, truth, is_open, source):
    hits = ~is_open[source]
    return float((labels == truth[source])[hits].mean())


def _lines(path, low, high):
    """(name, number) of each line; the name without folder, ending and `_aligned`."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as text ({error}); name the file that the authors published.") from None
    for number, line in enumerate(lines, 1):
        found = re.fullmatch(r"(?:.*[/\\])?(\w+?)(?:_aligned)?\.\w+\s+(\d+)\s*", line) or re.fullmatch(
            r"(\w+)\s+(\d+)", line
        )
        if line.strip() and not (found and low <= int(found[2]) <= high):
            raise UserError(f"{path}, line {number}: expected an image's name and a number from {low} to {high}.")
        if found:
            yield found[1], int(found[2])


def recorded_replay():
    """The result of the replay on the authors' files as it was recorded, for readers who do not have them: Replay."""
    values = pd.read_csv(RECORDED).set_index("quantity")["value"]
    return Replay(*(int(values[k]) for k in list(values.index)[:-1]), best_random=float(values["best_random"]))


def probe_information(images, labels, seed=0):
    """How many bits a simple look at the pixels tells about an image's label; 0 for labels that do not depend on it.

    A probe that f_close has no part in: principal components of the pixels and a logistic regression, cross-validated.
    The gain in log-likelihood over the label frequencies bounds their mutual information from below.
    Shapes: images (N, C, H, W) uint8, labels (N,). Returns: (bits, lo, hi), the mean gain with its 95 % interval.
    One label for all images tells nothing, 0 bits; too few images of any two labels give NaN. Source: predictive
    information of Xu et al. (2020).
    """
    labels = np.asarray(labels)
    names, counts = np.unique(labels, return_counts=True)
    often = np.isin(labels, names[counts >= FOLDS])  # each fold needs one of each
    labels, images = labels[often], images[often]
    if len(np.unique(labels)) < 2:
        return (0.0, 0.0, 0.0) if often.all() and len(labels) else (float("nan"),) * 3
    flat = _small(images)
    gain = np.empty(len(labels))
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(flat, labels):
        steps = [PCA(min(COMPONENTS, len(train) // 4), random_state=seed), StandardScaler(), LogisticRegression(C=0.02)]
        probe = make_pipeline(*steps).fit(flat[train], labels[train])
        column = np.searchsorted(probe.classes_, labels[test])
        plain = np.bincount(np.searchsorted(probe.classes_, labels[train]))[column] / len(train)
        seen = probe.predict_proba(flat[test])[np.arange(len(test)), column]
        gain[test] = np.log2((1 - SHRINK) * seen + SHRINK * plain) - np.log2(plain)
    half = stats.norm.ppf(0.975) * gain.std(ddof=1) / np.sqrt(len(gain))
    return float(gain.mean()), float(gain.mean() - half), float(gain.mean() + half)


def _small(images):
    """Grey images of about 24 pixels a side, one row each."""
    grey = images.mean(axis=1, dtype=np.float32)
    step = max(grey.shape[1] // 24, 1)
    side = grey.shape[1] // step * step
    grey = grey[:, :side, :side].reshape(len(grey), side // step, step, side // step, step).mean((2, 4))
    return grey.reshape(len(grey), -1) / 255
