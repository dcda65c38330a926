"""The distillation loss, its parts, and several teachers as one.

Which loss a strategy uses is in `strategies`, the teacher's weights come from `teacher_weight`; forward
passes and optimisation belong to akgp.training. B: samples of a batch, C: classes, K: teachers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    teacher_weight: float | Tensor,
    temperature: float,
    label_smoothing: float = 0.0,
    logit_std: bool = False,
    largest_weight: float = 1.0,
) -> Tensor:
    """Mean over the batch of (1 − w)·CE(y, p_s) + w·T²·KL(p_t,T ‖ p_s,T), in nats.

    p_T = softmax(z / T); the cross-entropy is taken at T = 1. The factor T² keeps the gradient's
    size independent of T (Hinton et al. 2015, section 2). No gradient flows to the teacher or
    to the weights. Computed in float32, or float64 where a logit is; also under autocast.

    Args:
        student_logits: [B, C].
        teacher_logits: [B, C].
        labels: int64 [B], in [0, C).
        teacher_weight: w in [0, `largest_weight`], one number or one a sample [B]. (The range of a tensor is
            checked on the CPU only: elsewhere it would stall the device in every step.)
        temperature: T > 0.
        label_smoothing: share of each label spread over all classes, in [0, 1).
        logit_std: in the teacher's term both logits are `standardized` before they are softened.
        largest_weight: 1 or more; above 1 the label's own loss counts negatively (Das & Sanghavi 2023,
            Understanding Self-Distillation in the Presence of Label Noise, where ξ is w).

    Returns:
        A scalar.

    Raises:
        ValueError: a shape or a range is not as above.
    """
    _check(student_logits, teacher_logits, labels, teacher_weight, largest_weight, temperature)
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing:g}")
    student, teacher = at_least_float32(student_logits), at_least_float32(teacher_logits.detach())
    # Without autocast: log-softmax and its differences need more than the 8 bits of bf16.
    with torch.autocast(student.device.type, enabled=False):
        label_loss = F.cross_entropy(student, labels, reduction="none", label_smoothing=label_smoothing)
        teacher_loss = temperature**2 * divergence(
            log_softened(student, temperature, logit_std), log_softened(teacher, temperature, logit_std)
        )
        weight = torch.as_tensor(teacher_weight, dtype=label_loss.dtype, device=label_loss.device).detach()
        return torch.lerp(label_loss, teacher_loss, weight).mean()


def log_softened(logits: Tensor, temperature: float, logit_std: bool = False) -> Tensor:
    """log softmax(z / T) over the last dimension, of the `standardized` z where `logit_std` is set."""
    return F.log_softmax((standardized(logits) if logit_std else logits) / temperature, -1)


def standardized(logits: Tensor) -> Tensor:
    """(z − mean(z)) / σ(z) over the last dimension; logits that are all alike become 0.

    The Z-score of Sun et al. 2024 (Logit Standardization in Knowledge Distillation, algorithm 1)
    without its temperature: the student need not match the size of the teacher's logits. σ divides
    by C as in the paper, not by C − 1 as in its code.
    """
    deviation, mean = torch.std_mean(logits, -1, correction=0, keepdim=True)
    return (logits - mean) / (deviation + 1e-7)


def divergence(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL(p_t ‖ p_s) over the last dimension, in nats, from log probabilities."""
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1)


def mean_teacher(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Logits [B, C] whose softmax is the mean of the probabilities of K teachers, from [K, B, C].

    One teacher's are returned as they are, otherwise log probabilities.

    Args:
        weights: [K], above 0, with a sum of 1; None: all alike.
    """
    if len(logits) == 1:
        return logits[0]
    log = logits.log_softmax(-1)
    if weights is None:
        return log.logsumexp(0) - math.log(len(logits))  # the mean of probabilities, without leaving logs
    return (log + weights.to(log.dtype).log()[:, None, None]).logsumexp(0)


class Ensemble(nn.Module):
    """Several trained networks as one: logits whose softmax is the mean of their probabilities."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("an ensemble needs at least one network, got none")
        self.networks = nn.ModuleList(networks)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [B, C], see `mean_teacher`."""
        return mean_teacher(torch.stack([at_least_float32(network(inputs)) for network in self.networks]))


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor itself if it is float32 or float64, otherwise in float32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_batch(student_logits: Tensor, labels: Tensor) -> None:
    """Check what every loss requires of a batch: logits [B, C] with B > 0 and labels int64 [B], in [0, C).

    The range of the labels is checked on the CPU only: elsewhere it would stall the device in every step.

    Raises:
        ValueError: one is not as above.
    """
    if student_logits.ndim != 2 or not len(student_logits):
        raise ValueError(f"student_logits must be [B, C] with B > 0, got {list(student_logits.shape)}")
    count, classes = student_logits.shape
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 [{count}], got {labels.dtype} {list(labels.shape)}")
    if labels.device.type == "cpu" and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"labels must be in [0, {classes}), got {labels.min()} to {labels.max()}")


def _check(
    student_BC: Tensor,
    teacher_BC: Tensor,
    labels_B: Tensor,
    weight: float | Tensor,
    largest: float,
    temperature: float,
) -> None:
    check_batch(student_BC, labels_B)
    if teacher_BC.shape != student_BC.shape:
        raise ValueError(
            f"teacher_logits must be {list(student_BC.shape)} like student_logits, got "
            f"{list(teacher_BC.shape)}: teacher and student must have the same classes"
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
    if not largest >= 1:
        raise ValueError(f"largest_weight must be 1 or more, got {largest:g}")
    if isinstance(weight, Tensor) and weight.ndim:
        if weight.shape != labels_B.shape:
            raise ValueError(
                f"teacher_weight must be a number or one a sample [{len(labels_B)}], got {list(weight.shape)}"
            )
        if weight.device.type == "cpu" and not bool(((weight >= 0) & (weight <= largest)).all()):
            raise ValueError(
                f"teacher_weight must be in [0, {largest:g}], got {weight.min():g} to {weight.max():g}"
            )
    elif not 0 <= float(weight) <= largest:
        raise ValueError(f"teacher_weight must be in [0, {largest:g}], got {float(weight):g}")
