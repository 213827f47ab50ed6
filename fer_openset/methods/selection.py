"""Which images of the pool does a network take for rightly labelled: two Gaussians on its losses."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

MIXED_FROM = 10  # images; a smaller pseudo class is kept whole, two Gaussians would only follow single images


def select_clean(values, threshold, labels):
    """Which images belong to the low-loss component of a two-component Gaussian mixture: boolean array (M,).

    values: cross-entropies (M,), min-max normalised here. Source: Li, Socher and Hoi (2020), as the paper cites it.
    Differs: a selection of under 10 % or over 99 % is degenerate and keeps everything, and says so; a pseudo class that
    would lose its last image keeps all of its images, for a net that no longer sees a class cannot tell it at all.
    """
    spread = np.ptp(values)
    if spread == 0:
        print("noisy_label: every image has the same loss: keeping all", flush=True)
        return np.ones(len(values), bool)
    scaled = ((values - values.min()) / spread).reshape(-1, 1)
    mixture = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the recipe is ten steps, converged or not
        mixture.fit(scaled)
    kept = mixture.predict_proba(scaled)[:, mixture.means_.argmin()] > threshold
    if not 0.10 <= kept.mean() <= 0.99:
        print(f"noisy_label: keeping all, the selection is degenerate ({kept.mean():.1%})", flush=True)
        return np.ones(len(values), bool)
    return kept | ~np.isin(labels, labels[kept])


def select_clean_per_class(values, threshold, labels):
    """As `select_clean`, with a mixture of its own for each pseudo class: boolean array (M,).

    Why: a class that is hard as a whole has high losses throughout and would be selected away by one mixture for all.
    Differs: not in the paper; a switch of this workbook.
    """
    kept = np.ones(len(values), bool)
    for label in np.unique(labels):
        of_class = labels == label
        if of_class.sum() >= MIXED_FROM:
            kept[of_class] = select_clean(values[of_class], threshold, labels[of_class])
    return kept
