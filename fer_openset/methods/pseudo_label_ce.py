"""The zero-training control: how badly does the pseudo label fit what f_close itself says about the image?

With labels that belong to their images this ranks like MSP. With the released order an open training image carries the
label of another image, and a label that does not fit gives the image away: the published level without any training.
"""

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from fer_openset.settings import Settings


class PseudoLabelCeSettings(Settings):
    """The control has no settings."""


def pseudo_label_ce(task, settings):
    """Cross-entropy of f_close's output for the image itself against the image's pseudo label under the alignment.

    Shapes: open_score (M,) float64. Range: >= 0. Direction: larger = more open. Source: the protocol audit of this
    workbook. Differs: not a method of the paper, which has no such control.
    """
    own = log_softmax(task.need_own_logits().to_numpy(np.float64), axis=1)
    return pd.Series(-own[np.arange(len(own)), task.pseudo_labels], index=task.pool_ids)
