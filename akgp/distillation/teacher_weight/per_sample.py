"""The probability that a training label is wrong, and the class prior: computed once, before training.

The input is the logits, on the un-augmented training images, of the network that judges the labels. How a
strategy uses the result is in `strategies.weighted`. N: samples, C: classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from akgp.distillation.profile.checks import checked
from akgp.distillation.profile.data_profile import DataProfile
from akgp.params import Distill


def wrong_label_probability(profile: DataProfile, logits: Tensor, labels: Tensor) -> Tensor:
    """q: the probability that a given label is wrong, float64 [N]; 0 where labels are not noisy.

    With p the calibrated teacher, which predicts *given* labels, and T the transition from true
    to given ones: the posterior of the true class is π_i ∝ max(10⁻³, T^{−⊤} p_i) (the backward
    correction of Patrini et al. 2017 applied to predictions), and by Bayes' rule
    q_i = 1 − π_{i,y} T_yy / Σ_c π_{i,c} T_cy.

    Raises:
        ValueError: as for `teacher_weights`.
    """
    check_fit(profile, logits, labels)
    if not profile.noisy:
        return torch.zeros(len(labels), dtype=torch.float64)
    labels = labels.cpu()
    probability = (logits.detach().cpu().double() / profile.label_temperature).softmax(1)
    transition = profile.transition()
    # An inverted transition can give negative entries, which are no probabilities: hence the bound.
    true = (probability @ torch.linalg.pinv(transition)).clamp_min(1e-3)
    joint = true * transition.T[labels]  # [N, C]: true class c and the given label; true's scale cancels
    return 1 - joint.gather(1, labels[:, None])[:, 0] / joint.sum(1)


def log_prior(params: Distill, profile: DataProfile) -> Tensor | None:
    """log π, float32 [C], added to the student's logits in training only; None: no shift.

    Logit adjustment (Menon et al. 2021, eq. 10, τ = 1): trained on z + log π, the student
    predicts with z as if all classes were equally frequent. Every strategy has it if
    `params.logit_adjustment` is on; with auto only adaptive ones, where the imbalance exceeds 3.
    """
    wanted = params.logit_adjustment == "on" or (
        params.logit_adjustment == "auto" and params.facts.adaptive and profile.imbalanced
    )
    return profile.prior().log().float() if wanted else None


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


def check_fit(profile: DataProfile, logits: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless logits [N, C] and labels [N] fit each other and the profile."""
    if logits.shape[1:] != (profile.classes,):
        raise ValueError(
            f"logits must be [N, {profile.classes}] and labels [N], "
            f"got {list(logits.shape)} and {list(labels.shape)}"
        )
    checked(logits, labels, "logits, labels")
