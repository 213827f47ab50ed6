"""Post-hoc scores on f_close's logits, computed by pytorch-ood: nothing is trained.

Shapes: pool_logits (M, K) float32 -> open_score (M,) float64. Direction: larger = more open.
"""

import pandas as pd
import torch
from pydantic import Field
from pytorch_ood.detector import EnergyBased, MaxLogit, MaxSoftmax

from fer_openset.settings import Settings


class PosthocSettings(Settings):
    """MSP and MaxLogit have no settings."""


class EnergySettings(Settings):
    """temperature T of the free energy."""

    temperature: float = Field(gt=0)


def msp(task, settings):
    """Negative maximum softmax probability, the paper's baseline. Range: [-1, -1/K]. Source: Hendrycks, Gimpel 2017."""
    return _scored(task, MaxSoftmax.score(_logits(task)))


def maxlogit(task, settings):
    """Negative maximum logit. Range: all reals. Source: Hendrycks et al. (2022)."""
    return _scored(task, MaxLogit.score(_logits(task)))


def energy(task, settings):
    """Free energy -T log sum exp(z / T). Range: all reals. Source: Liu et al. (2020)."""
    return _scored(task, EnergyBased.score(_logits(task), t=settings.temperature))


def _logits(task):
    # float64: confident models round to the same float32 probability and would tie.
    return torch.tensor(task.pool_logits.to_numpy(), dtype=torch.float64)


def _scored(task, values):
    return pd.Series(values.numpy(), index=task.pool_ids)
