"""Teachers' weights from answers: the mixture of networks that predicts labels best.

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

from akgp.distillation.characteristics import calibration_temperature, checked, class_weights

SPREAD = 0.25
"""ς: standard deviation of what is believed of a teacher's weight before it is measured."""
TOLERANCE = 1e-10
"""What is a zero beside the largest eigenvalue: teachers that answer alike differ by rounding."""


@dataclass(frozen=True)
class Measured:
    """w0 as measured: `weight` in [0, 1] is `raw`, shrunk to `guess` by its standard `error`.

    error: None where the answers do not differ, and say nothing.
    """

    weight: float
    raw: float
    error: float | None
    guess: float


def stacked_weight(
    labels_only: Tensor, teacher_only: Tensor, labels: Tensor, class_counts: Tensor, prior: float
) -> Measured:
    """`stacked_weights` of one teacher, [N, C]:

    ŵ = Σ v⟨y − a, d⟩ / Σ v‖d‖²       s = sd[v(⟨y − a, d⟩ − ŵ‖d‖²)] / (√N · mean(v‖d‖²))
    w0 = clip(w̄ + (ŵ − w̄)·ς² / (ς² + s²), 0, 1),   ς = 0.25
    """
    return stacked_weights(labels_only, teacher_only[None], labels, class_counts, prior)[0]


def stacked_weights(
    labels_only: Tensor, teachers: Tensor, labels: Tensor, class_counts: Tensor, prior: float
) -> tuple[Measured, Tensor]:
    """The mixture of networks' answers that predicts the labels best, shrunk by its error.

    With a and b_k the answers, each calibrated by a temperature of its own, y the labels one-hot,
    D_i = (b_k − a)_k [K, C] of image i and v_i ∝ 1/π_{y_i} where classes are imbalanced (else 1),

        ŵ = H⁺ mean(v D(y − a))     H = mean(v D Dᵀ)     S = H⁺ cov[v D(y − a − Dᵀŵ)] H⁺ / N
        μ = m + H⁺H ς²(ς² + S)⁻¹(ŵ − m)     m_k = w̄ / K,   ς = 0.25

    and w is what is nearest to μ, by its covariance, among weights of 0 and above (non-negative least
    squares), scaled to a sum of 1 where it is more; w0 = Σ w_k. Of what the answers do not tell, m stays:
    of the weight of one that answers as a does, of how two alike share theirs.

    It is the *given* labels that are predicted. Noise between all classes alike is taken up by the
    temperatures; systematic noise costs precision if the networks learnt from it, but one that
    learnt from right labels is underrated.

    Args:
        labels_only: logits [N, C] of a network that learnt from labels (a).
        teachers: logits [K, N, C] of those that learnt from each teacher, or the teachers' (b).
        labels: int64 [N], in [0, C), of the calibration split; N of 2 or more.
        class_counts: int64 [C], training images of each class.
        prior: w̄ in [0, 1], what is believed of w0 before.

    Returns:
        w0, and the teachers' shares in it, w / w0, float64 [K] (1/K each where w0 is 0).

    Raises:
        ValueError: a shape or a range is not as above, a logit is not finite, or N is less than 2.
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
    square = np.einsum("n,nkc,nlc->kl", v, apart_NKC, apart_NKC) / len(v)
    inverse = np.linalg.pinv(square, rcond=TOLERANCE, hermitian=True)
    raw = inverse @ np.einsum("n,nkc,nc->k", v, apart_NKC, wrong_NC) / len(v)
    left_NC = wrong_NC - np.einsum("nkc,k->nc", apart_NKC, raw)
    noise = np.cov(np.einsum("n,nkc,nc->nk", v, apart_NKC, left_NC), rowvar=False).reshape(square.shape)
    covariance = inverse @ noise @ inverse / len(v)
    told, guess = inverse @ square, np.full(len(b), prior / len(b))
    gain = SPREAD**2 * told @ np.linalg.inv(SPREAD**2 * np.eye(len(b)) + covariance)
    found = _share(guess + gain @ (raw - guess), SPREAD**2 * (np.eye(len(b)) - gain))
    error = math.sqrt(covariance.sum()) if told.any() else None
    said = float((told @ raw + guess - told @ guess).sum())
    w0 = float(found.sum())
    shares = found / w0 if w0 else np.full(len(b), 1 / len(b))
    return Measured(w0, said, error, prior), torch.from_numpy(shares)


def _share(mean_K: np.ndarray, covariance_KK: np.ndarray) -> np.ndarray:
    """The weights nearest to `mean`, by its covariance, of 0 and above and a sum of at most 1; [K]."""
    from scipy.optimize import nnls

    floor = TOLERANCE * np.eye(len(mean_K))
    root = np.linalg.cholesky(np.linalg.inv(covariance_KK + floor)).T
    found = nnls(root, root @ mean_K)[0]
    return np.asarray(found / max(1.0, found.sum()))


def _check(
    labels_only_NC: Tensor, teachers_KNC: Sequence[Tensor], class_counts_C: Tensor, prior: float
) -> None:
    count, classes = labels_only_NC.shape
    for logits in teachers_KNC:
        if logits.shape != labels_only_NC.shape:
            raise ValueError(
                f"teacher_only must be [{count}, {classes}] like labels_only, got {list(logits.shape)}"
            )
    if count < 2:
        raise ValueError(f"labels must be of two calibration images or more, got {count}")
    if class_counts_C.shape != (classes,):
        raise ValueError(f"class_counts must be [{classes}], got {list(class_counts_C.shape)}")
    if not 0 <= prior <= 1:
        raise ValueError(f"prior must be in [0, 1], got {prior:g}")
