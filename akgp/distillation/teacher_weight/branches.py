"""Branch-stack: the teacher's weight for the whole set, measured on the way by two short branches.

After a part of the training, a branch that learns from the labels alone and one that learns from
the teacher alone are trained to their end from the same network, optimizer and order of images.
The mixture of their answers that predicts the calibration labels best says how much the teacher
is worth *after* learning: label noise that the student averages out costs nothing, a teacher's bias,
which does not average out, does. The branches are then discarded and the training continues.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from akgp.data.batches import BatchSource
from akgp.distillation.teacher_weight.answers import stacked_weight
from akgp.evaluation import predict_logits
from akgp.models.copying import deep_copy
from akgp.models.memory_format import settle
from akgp.params import Training
from akgp.params.strategies import branch_epochs
from akgp.training import Epoch, Objective, Schedule, learning_rate_factor, train


def train_measured(
    model: nn.Module,
    images: Callable[[float], BatchSource],
    validation: BatchSource,
    calibration: BatchSource,
    *,
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
    `WeightEstimate` as a dictionary. The whole costs 1.3 times a training.

    Args:
        images: gives for a w0 the training images, with the columns that the objective needs.
        objective: gives the objective for a w0.
        calibration: labelled images that nothing is trained on.
        prior: w0 until it is measured, see `stacked_weight`.
        state: of an earlier `Epoch` of this function; the rest as for `train`.
    """
    state = {"trunk": None, "branch": None, "answers": [], "measured": None, "rest": None} | (state or {})

    def training(network: nn.Module, weight: float, start: Any, **options: Any) -> Iterator[Epoch]:
        options = {"params": params} | options
        return train(
            network, images(weight), validation, objective=objective(weight), seed=seed,
            device=device, state=copy.deepcopy(start), **options,
        )  # fmt: skip

    if state["measured"] is None:
        trunk_epochs, epochs = branch_epochs(params.epochs)
        done = state["trunk"]["epoch"] if state["trunk"] else 0
        for epoch in islice(training(model, prior, state["trunk"]), trunk_epochs - done):
            state = state | {"trunk": epoch.state}
            yield Epoch(epoch.row, state)
        # A branch ends at a learning rate of zero, so its last weights are the ones to compare.
        last, schedule = params.model_copy(update={"keep": "last"}), _decayed(trunk_epochs, epochs)
        for weight in (0.0, 1.0)[len(state["answers"]) :]:
            branch, start = deep_copy(model), state["branch"] or state["trunk"]
            left = trunk_epochs + epochs - start["epoch"]
            for epoch in islice(training(branch, weight, start, params=last, schedule=schedule), left):
                state = state | {"branch": epoch.state}
                yield Epoch(epoch.row | {"branch": weight}, state)
            branch.load_state_dict(state["branch"]["kept"])
            # In the memory format of its training: after a kill the last bits would differ otherwise.
            settle(branch, calibration.image_shape, channels_last=params.channels_last)
            answer = predict_logits(branch, calibration, device=device)
            state = state | {"branch": None, "answers": [*state["answers"], answer]}
        labels_only, teacher_only = state["answers"]
        measured = stacked_weight(labels_only, teacher_only, calibration.labels, class_counts, prior)
        state = state | {"answers": [], "measured": vars(measured), "rest": state["trunk"], "trunk": None}
    for epoch in training(model, state["measured"]["weight"], state["rest"]):
        state = state | {"rest": epoch.state}
        yield Epoch(epoch.row, state)


def _decayed(start: int, epochs: int) -> Schedule:
    """A schedule that falls linearly to zero within `epochs`, from the rate after `start` epochs."""

    def factor(step: int, steps: int, params: Training) -> float:
        done = (step - 1 - start * steps) / (epochs * steps)
        return learning_rate_factor(start * steps, steps, params) * (1 - done)

    return factor
