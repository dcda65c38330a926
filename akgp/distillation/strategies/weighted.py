"""Strategies whose weight of the teacher is known for every sample before the training.

A weight is a function of (params, profile, logits, labels), see `teacher_weights`. Several teachers are taken
as one, by the mean of their probabilities. N: samples.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from akgp.distillation.profile.data_profile import DataProfile
from akgp.distillation.strategies.inputs import Loss, LossInputs
from akgp.distillation.teacher_weight.per_sample import wrong_label_probability
from akgp.params import Distill

Weights = Callable[[Distill, DataProfile, Tensor, Tensor], Tensor]
"""(params, profile, logits [N, C], labels [N]) -> the teacher's weight of every sample, [N]."""


def weighted(inputs: LossInputs) -> Tensor:
    """(1 − w)·CE + w·T²·KL(p_t ‖ p_s), w by sample and fixed before training."""
    if inputs.weight_B is None:
        raise ValueError(
            f"distill.strategy {inputs.params.strategy!r} needs the teacher's weight of each sample"
        )
    return inputs.mixed(inputs.weight_B)


def _labels(params: Distill, profile: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w = 0: ordinary training."""
    return torch.zeros(len(labels))


def _teacher(params: Distill, profile: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w = 1: the teacher alone."""
    return torch.ones(len(labels))


def _fixed(params: Distill, profile: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w = w0 for all (Zhao et al. 2022)."""
    return torch.full((len(labels),), params.w0_or_default)


def _akgp(params: Distill, profile: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w_i = 1 − (1 − w0)(1 − q_i): w0, and of the label's part the probability q_i that it is wrong."""
    if not params.noise_posterior:
        return _fixed(params, profile, logits, labels)
    return 1 - (1 - params.w0_or_default) * (1 - wrong_label_probability(profile, logits, labels))


WEIGHTS: dict[str, Weights] = {"labels": _labels, "teacher": _teacher, "fixed": _fixed, "akgp": _akgp}
LOSSES: dict[str, Loss] = dict.fromkeys(WEIGHTS, weighted)
