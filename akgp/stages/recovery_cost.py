"""What the training between the cuts of prune.schedule cost; importing this needs no pruning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from akgp.workspace import METRICS, Task

RECOVERY = "recovery"
"""Its key in the metrics of prune."""


def recovery_cost(rows: Sequence[Mapping[str, float]], macs: int) -> dict[str, float]:
    """Epochs between the cuts, and how many of the pruned network cost as much.

    Args:
        rows: one an epoch, with the macs of its network.
        macs: of the pruned network.
    """
    return {"epochs": len(rows), "epochs_of_pruned": sum(row["macs"] for row in rows) / macs}


def recovery_compute(task: Task) -> float:
    """The cost in trainings of the student as `distill.training` says."""
    metrics = json.loads((task.workspace.pruned / METRICS).read_text(encoding="utf-8"))
    cost = metrics.get(RECOVERY)
    return cost["epochs_of_pruned"] / task.params.distill.training.epochs if cost else 0.0
