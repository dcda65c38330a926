"""prune.schedule: the student's dense network cut several times, and recovered after each cut but the last.

Recovery is distillation with all at its default but the training, taught by the dense network itself. It has
parameters of its own, so that prune depends on none of distill: another temperature does not prune again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor, nn

from akgp.distillation import Distillation, DistillationData, Teacher, ask_teachers
from akgp.evaluation.cost import count
from akgp.models.copying import deep_copy
from akgp.models.inputs import Example
from akgp.params import Distill, Schedule
from akgp.pruning import Pruned
from akgp.stages.normalization import read_source
from akgp.stages.training_steps import Row, epochs_to_steps
from akgp.workspace import Step, Task

Cut = Callable[[nn.Module, Pruned | None, float], Pruned]
"""(network, the outcome of the cuts before, share of the cuts that are made with this one) -> its outcome."""


def cut_and_recover(
    task: Task, schedule: Schedule, dense: nn.Module, example: Example, cut: Cut,
    state: dict[str, Any] | None,
) -> Generator[Step, None, tuple[Pruned, list[Row]]]:  # fmt: skip
    """Cut `schedule.steps` times, with a `Step` for each epoch of the training between.

    Args:
        dense: it is not changed.
        state: of an earlier `Step`, to resume from: the cuts before are made again, with the weights from
            which they were made, and come out alike.

    Returns:
        The outcome of all cuts, and a row for each epoch: `cut` (from 1), macs of the network, and those of
        `train`, with epochs counted over all recoveries.

    Raises:
        PruningError: as `prune`.
        TrainingError: as `train`.
    """
    data, params = _taught_by(task, dense), Distill(training=schedule.recovery)
    finished: list[dict[str, Tensor]] = list(state["finished"]) if state else []
    rows: list[Row] = list(state["rows"]) if state else []
    network, pruned = dense, None
    for number in range(1, schedule.steps + 1):
        pruned = cut(network, pruned, number / schedule.steps)
        network = pruned.model
        if number == schedule.steps:
            break
        if number <= len(finished):
            network.load_state_dict(finished[number - 1])
            continue
        resumed = state if state and state["cut"] == number else None
        run = Distillation(
            network, data, params, seed=task.params.seed + number, device=task.device,
            state=resumed["training"] if resumed else None,
        )  # fmt: skip
        macs = count(network, example).macs
        for step in epochs_to_steps(run, resumed):
            assert step.state is not None
            row = step.row | {"cut": number, "macs": macs}
            row["epoch"] += (number - 1) * schedule.recovery.epochs
            rows.append(row)
            yield Step(row, {"cut": number, "finished": finished, "rows": rows} | step.state)
        finished.append(network.state_dict())
    assert pruned is not None
    return pruned, rows


def _taught_by(task: Task, dense: nn.Module) -> DistillationData:
    splits = (read_source(task, split) for split in ("train", "validation", "calibration"))
    return ask_teachers([Teacher([deep_copy(dense)])], None, *splits, device=task.device)


def announced(schedule: Schedule, cost: dict[str, float]) -> str:
    """A line about the cuts and what the training between them cost."""
    return (
        f"prune: {schedule.steps} cuts, {cost['epochs']} epochs of recovery between them, which cost as much "
        f"as {cost['epochs_of_pruned']:.1f} of the pruned network"
    )
