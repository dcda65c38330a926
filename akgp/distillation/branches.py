"""Branch-stack: the teacher's weight for the whole set, measured on the way by two short branches.

After a part of the training, a branch that learns from the labels alone and one that learns from
the teacher alone are trained to their end from the same network, optimizer and order of images.
The mixture of their answers that predicts the calibration labels best says how much the teacher
is worth *after* learning: label noise that the student averages away costs nothing, a teacher's
bias that it cannot average away does. The branches are thrown away, the training goes on.
Mixing models by their squared error on held-out data is stacking (Wolpert 1992, Breiman 1996);
the weight as estimated for deep networks without a grid is in substance Borup & Andersen 2021.
N: calibration images, C: classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from akgp.data.images import Images
from akgp.distillation.characteristics import calibration_temperature, checked, class_weights
from akgp.evaluation import predict_logits
from akgp.params import Training
from akgp.training import Epoch, Objective, Schedule, learning_rate_factor, train

SPREAD = 0.25
"""ς: standard deviation of what is believed of w0 before it is measured."""
TRUNK, BRANCH = 0.4, 0.15
"""Shares of the training before the branches, and of each branch."""


@dataclass(frozen=True)
class Measured:
    """w0 as measured: `weight` in [0, 1] is `raw`, shrunk to `guess` by its standard `error`.

    error: None where the two answers do not differ, and say nothing.
    """

    weight: float
    raw: float
    error: float | None
    guess: float


def stacked_weight(
    labels_only: Tensor, teacher_only: Tensor, labels: Tensor, class_counts: Tensor, prior: float
) -> Measured:
    """The mixture of two networks' answers that predicts the labels best, shrunk by its error.

    With a and b the answers, each calibrated by a temperature of its own, y the labels one-hot,
    d = b − a and v_i ∝ 1/π_{y_i} where classes are imbalanced (else 1):

        ŵ = Σ v⟨y − a, d⟩ / Σ v‖d‖²       s = sd[v(⟨y − a, d⟩ − ŵ‖d‖²)] / (√N · mean(v‖d‖²))
        w0 = clip(w̄ + (ŵ − w̄)·ς² / (ς² + s²), 0, 1),   ς = 0.25

    It is the *given* labels that are predicted. Noise between all classes alike is taken up by the
    temperatures; systematic noise costs precision if both networks learnt from it, but one that
    learnt from right labels is underrated. Answers that do not differ say nothing, and give w̄.

    Args:
        labels_only: logits [N, C] of a network that learnt from labels (a).
        teacher_only: logits [N, C] of one that learnt from the teacher, or the teacher's (b).
        labels: int64 [N], in [0, C), of the calibration split; N of 2 or more.
        class_counts: int64 [C], training images of each class.
        prior: w̄ in [0, 1], what is believed of w0 before.

    Raises:
        ValueError: a shape or a range is not as above, a logit is not finite, or N is less than 2.
    """
    a = checked(labels_only, labels, "labels_only, labels")
    b = checked(teacher_only, labels, "teacher_only, labels")
    _check(a, b, class_counts, prior)
    weight = class_weights(labels, class_counts)
    answers = [(logits / calibration_temperature(logits, labels, weight)).softmax(1) for logits in (a, b)]
    given = torch.nn.functional.one_hot(labels, answers[0].shape[1])
    difference = answers[1] - answers[0]
    along = weight * ((given - answers[0]) * difference).sum(1)
    square = weight * difference.square().sum(1)
    if float(square.mean()) == 0:
        return Measured(prior, prior, None, prior)
    raw = float(along.sum() / square.sum())
    error = float((along - raw * square).std() / (math.sqrt(len(labels)) * square.mean()))
    shrunk = prior + (raw - prior) * SPREAD**2 / (SPREAD**2 + error**2)
    return Measured(min(max(shrunk, 0.0), 1.0), raw, error, prior)


def _check(labels_only_NC: Tensor, teacher_only_NC: Tensor, class_counts_C: Tensor, prior: float) -> None:
    count, classes = labels_only_NC.shape
    if teacher_only_NC.shape != labels_only_NC.shape:
        raise ValueError(
            f"teacher_only must be [{count}, {classes}] like labels_only, got {list(teacher_only_NC.shape)}"
        )
    if count < 2:
        raise ValueError(f"labels must be of two calibration images or more, got {count}")
    if class_counts_C.shape != (classes,):
        raise ValueError(f"class_counts must be [{classes}], got {list(class_counts_C.shape)}")
    if not 0 <= prior <= 1:
        raise ValueError(f"prior must be in [0, 1], got {prior:g}")


def branch_epochs(epochs: int) -> tuple[int, int]:
    """Epochs of the trunk and of each of the two branches, for a training of `epochs`; 1 or more each."""
    return max(round(TRUNK * epochs), 1), max(round(BRANCH * epochs), 1)


def train_measured(
    model: nn.Module,
    images: Images,
    validation: Images,
    calibration: Images,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    params: Training,
    objective: Callable[[float], Objective],
    class_counts: Tensor,
    prior: float,
    seed: int,
    device: torch.device | str = "cpu",
    state: dict[str, Any] | None = None,
) -> Iterator[Epoch]:
    """`train`, with w0 measured on the way; yields an `Epoch` after each one, the branches' included.

    Rows of the branches carry `branch`: the weight 0 or 1 that it learns with; all others are those
    of one training of `params.epochs`. Once the branches have ended, states carry `measured`, a
    `Measured` as a dictionary. The whole costs 1.3 times a training.

    Args:
        objective: of a weight w0.
        calibration: labelled images on which nothing is trained.
        prior: w0 until it is measured, see `stacked_weight`.
        state: of an earlier `Epoch` of this function; the rest as for `train`.
    """
    state = {"trunk": None, "branch": None, "answers": [], "measured": None, "rest": None} | (state or {})

    def training(network: nn.Module, weight: float, start: Any, **options: Any) -> Iterator[Epoch]:
        options = {"params": params} | options
        return train(
            network, images, validation, mean=mean, std=std, objective=objective(weight), seed=seed,
            device=device, state=copy.deepcopy(start), **options,
        )  # fmt: skip

    if state["measured"] is None:
        trunk_epochs, epochs = branch_epochs(params.epochs)
        done = state["trunk"]["epoch"] if state["trunk"] else 0
        for epoch in islice(training(model, prior, state["trunk"]), trunk_epochs - done):
            state = state | {"trunk": epoch.state}
            yield Epoch(epoch.row, state)
        last, schedule = params.model_copy(update={"keep": "last"}), _decayed(trunk_epochs, epochs)
        for weight in (0.0, 1.0)[len(state["answers"]) :]:
            branch, start = copy.deepcopy(model), state["branch"] or state["trunk"]
            left = trunk_epochs + epochs - start["epoch"]
            for epoch in islice(training(branch, weight, start, params=last, schedule=schedule), left):
                state = state | {"branch": epoch.state}
                yield Epoch(epoch.row | {"branch": weight}, state)
            branch.load_state_dict(state["branch"]["kept"])
            if params.channels_last:  # as it was trained, or the last bits differ after a kill
                branch.to(memory_format=torch.channels_last)
            answer = predict_logits(branch, calibration, mean=mean, std=std, device=device)
            state = state | {"branch": None, "answers": [*state["answers"], answer]}
        labels_only, teacher_only = state["answers"]
        measured = stacked_weight(labels_only, teacher_only, calibration.labels, class_counts, prior)
        state = state | {"answers": [], "measured": vars(measured), "rest": state["trunk"], "trunk": None}
    for epoch in training(model, state["measured"]["weight"], state["rest"]):
        state = state | {"rest": epoch.state}
        yield Epoch(epoch.row, state)


def _decayed(start: int, epochs: int) -> Schedule:
    """From the rate that the training has after `start` epochs, linearly to zero within `epochs`."""

    def factor(step: int, steps: int, params: Training) -> float:
        done = (step - 1 - start * steps) / (epochs * steps)
        return learning_rate_factor(start * steps, steps, params) * (1 - done)

    return factor
