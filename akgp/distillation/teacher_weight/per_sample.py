"""The teacher's weight for every training sample, from the characteristics of the data.

Computed once, before training, from the teacher's logits on the un-augmented training images.
A weight is a function of (params, characteristics, logits, labels); `WEIGHTS` names them. Strategies
that are not in it weigh in every batch, see `strategies`. N: samples, C: classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from akgp.distillation.profile.checks import checked
from akgp.distillation.profile.data_profile import DataProfile
from akgp.params import Distill

Weight = Callable[[Distill, DataProfile, Tensor, Tensor], Tensor]


def teacher_weights(
    params: Distill, characteristics: DataProfile, logits: Tensor, labels: Tensor
) -> Tensor | None:
    """The teacher's weight w of every training sample by `params.strategy`; 1 − w is the label's.

    Args:
        characteristics: of the network by which wrong labels are found: the teacher, or one that
            knows the labels better.
        logits: [N, C], the same network's.
        labels: int64 [N], in [0, C), as given, wrong ones included.

    Returns:
        float32 [N] in [0, 1], on the labels' device. None where the strategy has no weight before
        training: annealed, wsld, dkd, confidence, learned and self.

    Raises:
        ValueError: logits and labels do not fit each other or the characteristics, or a logit is not finite.
    """
    _check(characteristics, logits, labels)
    if params.strategy not in WEIGHTS:
        return None
    weights = WEIGHTS[params.strategy](params, characteristics, logits, labels)
    return weights.clamp(0, 1).to(labels.device, torch.float32)


def wrong_label_probability(characteristics: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """q: the probability that a given label is wrong, float64 [N]; 0 where labels are not noisy.

    With p the calibrated teacher, which predicts *given* labels, and T the transition from true
    to given ones: the posterior of the true class is π_i ∝ max(10⁻³, T^{−⊤} p_i) (the backward
    correction of Patrini et al. 2017 applied to predictions), and by Bayes' rule
    q_i = 1 − π_{i,y} T_yy / Σ_c π_{i,c} T_cy.

    Raises:
        ValueError: as for `teacher_weights`.
    """
    _check(characteristics, logits, labels)
    if not characteristics.noisy:
        return torch.zeros(len(labels), dtype=torch.float64)
    labels = labels.cpu()
    probability = (logits.detach().cpu().double() / characteristics.label_temperature).softmax(1)
    transition = characteristics.transition()
    true = (probability @ torch.linalg.pinv(transition)).clamp_min(1e-3)
    joint = true * transition.T[labels]  # [N, C]: true class c and the given label; true's scale cancels
    return 1 - joint.gather(1, labels[:, None])[:, 0] / joint.sum(1)


def log_prior(params: Distill, characteristics: DataProfile) -> Tensor | None:
    """log π, float32 [C], added to the student's logits in training only; None: no shift.

    Logit adjustment (Menon et al. 2021, eq. 10, τ = 1): trained on z + log π, the student
    predicts with z as if all classes were equally frequent. Every strategy has it where
    `params.logit_adjustment` is on; auto is for `akgp` alone, where the imbalance exceeds 3.
    """
    wanted = params.logit_adjustment == "on" or (
        params.logit_adjustment == "auto" and params.strategy == "akgp" and characteristics.imbalanced
    )
    return characteristics.prior().log().float() if wanted else None


def weights_by_class(weights: Tensor, labels: Tensor, num_classes: int) -> list[dict[str, float]]:
    """The weights of each class: rows of class, mean, p10, p90 and n; classes without samples left out."""
    weights, labels = weights.cpu().double(), labels.cpu()
    rows = []
    for k in range(num_classes):
        group = weights[labels == k]
        if len(group):
            low, high = torch.quantile(group, torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
            rows.append({"class": k, "mean": float(group.mean()), "p10": low, "p90": high, "n": len(group)})
    return rows


def _check(characteristics: DataProfile, logits: Tensor, labels: Tensor) -> None:
    if logits.shape[1:] != (characteristics.classes,):
        raise ValueError(
            f"logits must be [N, {characteristics.classes}] and labels [N], "
            f"got {list(logits.shape)} and {list(labels.shape)}"
        )
    checked(logits, labels, "logits, labels")


def _labels(params: Distill, characteristics: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w = 0: ordinary training."""
    return torch.zeros(len(labels))


def _teacher(params: Distill, characteristics: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w = 1: the teacher alone."""
    return torch.ones(len(labels))


def _fixed(params: Distill, characteristics: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w = w0 for all (Zhao et al. 2022)."""
    return torch.full((len(labels),), params.w0_or_default)


def _akgp(params: Distill, characteristics: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """w_i = 1 − (1 − w0)(1 − q_i): the teacher gets w0, and the share of the label that is likely wrong."""
    if not params.noise_posterior:
        return _fixed(params, characteristics, logits, labels)
    return 1 - (1 - params.w0_or_default) * (1 - wrong_label_probability(characteristics, logits, labels))


WEIGHTS: dict[str, Weight] = {"labels": _labels, "teacher": _teacher, "fixed": _fixed, "akgp": _akgp}
