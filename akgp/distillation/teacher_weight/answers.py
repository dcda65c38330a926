"""Teachers' weights from outputs on held-out images: the mixture of networks that predicts labels best.

Mixing models by their squared error on held-out data is stacking (Wolpert 1992, Breiman 1996); a
teacher's weight estimated so, without a grid, is in substance Borup & Andersen 2021.
K: teachers, N: calibration images, C: classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from akgp.distillation.distillation_data import DistillationData
from akgp.distillation.profile.calibration import calibration_temperature
from akgp.distillation.profile.checks import checked
from akgp.distillation.profile.classes import class_weights
from akgp.distillation.teacher_weight.per_sample import log_prior
from akgp.params import Distill

SPREAD = 0.25
"""ς: standard deviation of the prior of a teacher's weight."""
TOLERANCE = 1e-10
"""Share of the largest eigenvalue below which one counts as zero: equal teachers differ by rounding."""
EXACT = 1e-6
"""Variance below which a weight counts as known exactly."""


@dataclass(frozen=True)
class WeightEstimate:
    """w0 as measured: `weight` in [0, 1] is `raw`, shrunk to `guess` by its standard `error`.

    error: None where the answers do not differ, and determine nothing.
    """

    weight: float
    raw: float
    error: float | None
    guess: float


def estimate_w0(data: DistillationData, params: Distill) -> tuple[WeightEstimate, Tensor] | None:
    """w0 from what the teachers know beyond the dense network, and the share [K] of each in it.

    None where the dense network is the only teacher; but if it predicts labels no better than their
    frequencies do, w0 is 0. It is assumed that the student recovers about what its dense network knew,
    and that one which only imitates a teacher knows about what that does: then `stacked_weights` of
    these networks' answers stands for that of branches, and costs no training
    (docs/explanation/weighting.md says where this fails).
    Under logit adjustment students predict without the class prior: so it is taken from the answers.
    """
    if data.dense is None:
        knows = data.taught.profile.informative
        return None if knows else (WeightEstimate(0.0, 0.0, None, params.w0_or_default), torch.ones(1))
    shift = log_prior(params, data.profile)
    dense, teachers = data.dense.held_out[0], data.taught.held_out
    if shift is not None:
        dense, teachers = dense - shift, teachers - shift
    counts = torch.tensor(data.profile.class_counts)
    return stacked_weights(dense, teachers, data.calibration.labels, counts, params.w0_or_default)


def stacked_weight(
    labels_only: Tensor, teacher_only: Tensor, labels: Tensor, class_counts: Tensor, prior: float
) -> WeightEstimate:
    """`stacked_weights` of one teacher, [N, C]:

    ŵ = Σ v⟨y − a, d⟩ / Σ v‖d‖²       s = sd[v(⟨y − a, d⟩ − ŵ‖d‖²)] / (√N · mean(v‖d‖²))
    w0 = clip(w̄ + (ŵ − w̄)·ς² / (ς² + s²), 0, 1),   ς = 0.25
    """
    return stacked_weights(labels_only, teacher_only[None], labels, class_counts, prior)[0]


def stacked_weights(
    labels_only: Tensor, teachers: Tensor, labels: Tensor, class_counts: Tensor, prior: float
) -> tuple[WeightEstimate, Tensor]:
    """The mixture of networks' answers that predicts the labels best, shrunk by its error.

    With a and b_k the answers, each calibrated by a temperature of its own, y the labels one-hot,
    D_i = (b_k − a)_k [K, C] of image i and v_i ∝ 1/π_{y_i} where classes are imbalanced (else 1),

        ŵ = H⁺ mean(v D(y − a))     H = mean(v D Dᵀ)     S = H⁺ cov[v D(y − a − Dᵀŵ)] H⁺ / N
        μ = m + H⁺H ς²(ς² + S)⁻¹(ŵ − m)     m_k = w̄ / K,   ς = 0.25

    and w is what is nearest to μ, by its covariance, among weights of 0 and above with a sum of at most 1;
    w0 = Σ w_k. Of what the answers do not tell, m stays: of the weight of one that answers as a does, of
    how two alike share theirs.

    It is the *given* labels that are predicted. Noise between all classes alike is taken up by the
    temperatures; systematic noise costs precision if the networks learnt from it, but one that
    learnt from right labels is underrated.

    Args:
        labels_only: logits [N, C] of a network that learnt from labels (a).
        teachers: logits [K, N, C] of those that learnt from each teacher, or the teachers' (b).
        labels: int64 [N], in [0, C), of the calibration split; N of 2 or more, and more than K.
        class_counts: int64 [C], training images of each class.
        prior: w̄ in [0, 1], what is believed of w0 before.

    Returns:
        w0, and the teachers' shares in it, w / w0, float64 [K] (1/K each where w0 is 0).

    Raises:
        ValueError: a shape or a range is not as above, a logit is not finite, or N is too small.
    """
    a = checked(labels_only, labels, "labels_only, labels")
    b = [checked(logits, labels, "teacher_only, labels") for logits in teachers]
    _check(a, b, class_counts, prior)
    weight = class_weights(labels, class_counts)
    own, *others = (
        (logits / calibration_temperature(logits, labels, weight)).softmax(1).numpy() for logits in (a, *b)
    )
    v = weight.numpy()
    apart_NKC = np.stack(others, 1) - own[:, None]
    wrong_NC = np.eye(own.shape[1])[labels.numpy()] - own
    raw, covariance, determined = _least_squares(v, apart_NKC, wrong_NC)
    guess, one = np.full(len(b), prior / len(b)), np.eye(len(b))
    gain = SPREAD**2 * determined @ np.linalg.inv(SPREAD**2 * one + covariance)
    weights = _shares(guess + gain @ (raw - guess), SPREAD**2 * (one - gain))
    w0, raw_w0 = float(weights.sum()), float((raw + guess - determined @ guess).sum())
    error = math.sqrt(max(covariance.sum(), 0.0)) if determined.any() else None
    shares = weights / w0 if w0 else np.full(len(b), 1 / len(b))
    return WeightEstimate(w0, raw_w0, error, prior), torch.from_numpy(shares)


def _least_squares(
    v_N: np.ndarray, apart_NKC: np.ndarray, wrong_NC: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ŵ [K], its covariance S and the projector H⁺H on what the data determine, both [K, K]."""
    count = len(v_N)
    square = np.einsum("n,nkc,nlc->kl", v_N, apart_NKC, apart_NKC) / count
    # Pseudo-inverse: teachers whose answers are alike make H singular.
    inverse = np.linalg.pinv(square, rcond=TOLERANCE, hermitian=True)
    raw = inverse @ np.einsum("n,nkc,nc->k", v_N, apart_NKC, wrong_NC) / count
    left_NC = wrong_NC - np.einsum("nkc,k->nc", apart_NKC, raw)
    each_NK = np.einsum("n,nkc,nc->nk", v_N, apart_NKC, left_NC)
    noise = np.cov(each_NK, rowvar=False, ddof=len(raw)).reshape(square.shape)
    return raw, inverse @ noise @ inverse / count, inverse @ square


def _shares(mean_K: np.ndarray, covariance_KK: np.ndarray) -> np.ndarray:
    """The weights nearest to `mean`, by its covariance, of 0 and above and a sum of at most 1; [K].

    By non-negative least squares, with the labels' remaining weight as one more unknown and the sum of 1 as
    one more equation, whose factor is so large that it holds.
    """
    from scipy.optimize import nnls

    if mean_K.min() >= 0 and mean_K.sum() <= 1:
        return mean_K
    variances, axes_KK = np.linalg.eigh(covariance_KK)
    root = axes_KK.T / np.sqrt(np.maximum(variances, EXACT))[:, None]
    equations = np.block([[root, np.zeros((len(mean_K), 1))], [np.full((1, len(mean_K) + 1), 1 / EXACT)]])
    weights = nnls(equations, np.append(root @ mean_K, 1 / EXACT))[0][:-1]
    return np.asarray(weights / max(1.0, weights.sum()))


def _check(
    labels_only_NC: Tensor, teachers_KNC: Sequence[Tensor], class_counts_C: Tensor, prior: float
) -> None:
    count, classes = labels_only_NC.shape
    for logits in teachers_KNC:
        if logits.shape != labels_only_NC.shape:
            raise ValueError(
                f"teacher_only must be [{count}, {classes}] like labels_only, got {list(logits.shape)}"
            )
    if count < 2 or count <= len(teachers_KNC):
        raise ValueError(
            f"labels must be of two calibration images or more, and more than teachers, got {count}"
        )
    if class_counts_C.shape != (classes,):
        raise ValueError(f"class_counts must be [{classes}], got {list(class_counts_C.shape)}")
    if not 0 <= prior <= 1:
        raise ValueError(f"prior must be in [0, 1], got {prior:g}")
