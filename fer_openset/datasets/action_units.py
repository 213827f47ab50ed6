"""Which facial muscles move in which expression: action units of the facial action coding system (FACS).

Source: Du, Tao and Martinez, "Compound facial expressions of emotion", PNAS 2014, prototypical units; a share is the
fraction of subjects who add an optional unit. The paper's table gives no single share for the optional units of the
compound expressions here, so they all take OPTIONAL_SHARE (ours).
"""

import numpy as np

UNITS = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26)
COLUMN = {unit: column for column, unit in enumerate(UNITS)}
OPTIONAL_SHARE = 0.4


def _shares(*units):
    return dict.fromkeys(units, OPTIONAL_SHARE)


# Expression -> (units every subject shows, {optional unit: share of subjects}).
PROTOTYPES = {
    "surprise": ((1, 2, 25, 26), {5: 0.66}),
    "fear": ((1, 4, 20, 25), {2: 0.57, 5: 0.63, 26: 0.33}),
    "disgust": ((9, 10, 17), {4: 0.31, 24: 0.26}),
    "happiness": ((12, 25), {6: 0.51}),
    "sadness": ((4, 15), {1: 0.60, 6: 0.50, 11: 0.26, 17: 0.67}),
    "anger": ((4, 7, 24), {10: 0.26, 17: 0.52, 23: 0.29}),
    "neutral": ((), {}),
    "contempt": ((12, 14), {}),
    "happily_surprised": ((1, 2, 12, 25), _shares(5, 26)),
    "happily_disgusted": ((10, 12, 25), _shares(4, 6, 9)),
    "sadly_fearful": ((1, 4, 20, 25), _shares(2, 5, 6, 15)),
    "sadly_angry": ((4, 15), _shares(6, 7, 11, 17)),
    "sadly_surprised": ((1, 4, 25, 26), _shares(2, 6)),
    "sadly_disgusted": ((4, 10), _shares(1, 6, 9, 11, 15, 17, 25)),
    "fearfully_angry": ((4, 20, 25), _shares(5, 7, 10, 11)),
    "fearfully_surprised": ((1, 2, 5, 20, 25), _shares(4, 10, 11, 26)),
    "angrily_surprised": ((4, 25, 26), _shares(5, 7, 10)),
    "angrily_disgusted": ((4, 10, 17), _shares(7, 9, 24)),
    "disgustedly_surprised": ((1, 2, 5, 10), _shares(4, 9, 17, 24)),
}
ONE_SIDED = ("contempt",)


def shown(expressions, coins):
    """Which units each face shows: the expression's own, and its optional ones where the subject's coin says so.

    Shapes: expressions (B,) str; coins (B, 18) float in [0, 1), one per subject and unit -> (B, 18, 2) float32 of 0 and
    1, the last axis being the left and the right half of the picture.
    Differs: a one-sided expression shows on the side that the subject's first coin names.
    """
    units = np.zeros((len(expressions), len(UNITS), 2), np.float32)
    for row, name in enumerate(expressions):
        always, optional = PROTOTYPES[name]
        for unit in always:
            units[row, COLUMN[unit]] = 1
        for unit, share in optional.items():
            units[row, COLUMN[unit]] = coins[row, COLUMN[unit]] < share
        if name in ONE_SIDED:
            units[row, :, int(coins[row, 0] < 0.5)] = 0
    return units
