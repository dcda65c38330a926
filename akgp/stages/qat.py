"""quantize.qat: the student trained on with int8's rounding, and in float for comparison; which one ships.

Both are distilled as the student was, by the same teachers and weights, with the same images in the same
order; they differ in the rounding alone. What a longer training gains without it is no merit of QAT.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from akgp import artifacts
from akgp.distillation import Distillation
from akgp.params import Distill
from akgp.params.training_defaults import qat_training
from akgp.quantization import fake_quantized
from akgp.stages.inputs import read_distillation_data
from akgp.stages.training_steps import epochs_to_steps
from akgp.workspace import METRICS, Step, Task

if TYPE_CHECKING:
    from onnx import ModelProto

STUDENT, CONTROL, QAT = "student", "control", "qat"
"""Candidates, from the simplest: the student quantized as it is, trained on in float, trained on as int8."""


def train_on(
    task: Task, int8: ModelProto, state: dict[str, Any] | None, kept: Mapping[str, Any]
) -> Generator[Step, None, dict[str, nn.Module]]:
    """Train copies of the student as int8 and in float: a `Step` an epoch; returns both by QAT and CONTROL.

    Args:
        int8: the student's int8 graph, whose rounding is learned.
        state: of an earlier `Step`, to resume from.
        kept: becomes part of the state.

    Raises:
        QuantizationError: as `fake_quantized`.
        TrainingError: as `train`.
    """
    data = read_distillation_data(task)
    params = _distill(task, len(data.images))
    networks: dict[str, nn.Module] = {}
    finished: dict[str, dict[str, Tensor]] = state["finished"] if state else {}
    for name in (QAT, CONTROL):  # first the one that can be refused
        network = networks[name] = artifacts.load(task.workspace.student)
        if name in finished:
            network.load_state_dict(finished[name])
            continue
        before = state if state and state["network"] == name else None
        rounding = fake_quantized(network, int8, data.example_input)
        with rounding if name == QAT else contextlib.nullcontext():
            run = Distillation(
                network,
                data,
                params,
                seed=task.params.seed,
                device=task.device,
                state=before["training"] if before else None,
            )
            for step in epochs_to_steps(run, before):
                assert step.state is not None
                # Not as `epoch`: by that the progress bar counts a stage that trains one network.
                row = step.row | {"network": name, "trained": step.row["epoch"]}
                del row["epoch"]
                yield Step(row, {**kept, "network": name, "finished": finished} | step.state)
        finished = finished | {name: network.state_dict()}
    return networks


def _distill(task: Task, images: int) -> Distill:
    """As the student was distilled; a w0 that branches of its training measured is used as it came out."""
    params = task.params.distill
    changes: dict[str, Any] = {"training": qat_training(task.params, images), "teacher_views": None}
    if params.w0_source == "branches":
        metrics = json.loads((task.workspace.student / METRICS).read_text(encoding="utf-8"))
        changes |= {"w0": metrics["w0"]["weight"], "w0_from": "fixed"}
    return params.model_copy(update=changes)


def compared(right: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """A row for each candidate; the last that is `better` ships.

    A candidate is better if it classifies more images rightly than the best before it, by more than the
    standard error of the difference, which is of the same images.

    Args:
        right: by candidate, the simplest first: whether each validation image is classified rightly, [N].

    Returns:
        Rows of network, val_top1 (%), gain and its standard error (points, None for the first), and better.
    """
    rows: list[dict[str, Any]] = []
    best: Tensor | None = None
    for name, each in right.items():
        row: dict[str, Any] = {"network": name, "val_top1": 100 * float(each.double().mean())}
        gain = error = None
        if best is not None:
            difference = 100 * (each.double() - best.double())
            gain = float(difference.mean())
            error = float(difference.std(correction=0)) / math.sqrt(len(each))
        better = gain is None or error is None or gain > error
        best = each if better else best
        rows.append(row | {"gain": gain, "error": error, "better": better})
    return rows


def shipped(rows: list[dict[str, Any]]) -> str:
    """The candidate that is shipped, of the rows of `compared`."""
    return str([row["network"] for row in rows if row["better"]][-1])
