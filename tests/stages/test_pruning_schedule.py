"""prune.schedule: cuts and recovery between them, resumed, charged, and refused where it cannot work."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from akgp import artifacts, params
from akgp.evaluation import count
from akgp.pruning import prune
from akgp.stages import prune as prune_stage
from akgp.stages.recovery_cost import recovery_compute
from akgp.stages.table import STAGES
from akgp.workspace import Step, Task
from tests.support.trainings import from_disk
from tests.support.workspaces import digits_workspace

EXAMPLE = torch.zeros(1, 1, 8, 8)
RECOVERY = {"epochs": 2, "batch_size": 256, "learning_rate": 0.05, "precision": "fp32"}


def checked(**amount: Any) -> params.Params:
    tree = {
        "networks": {"one": {"architecture": "cifar_resnet20"}}, "teachers": ["one"], "student": "one",
        "prune": {"scope": "all", "round_to": 1, "schedule": {"steps": 3, "recovery": RECOVERY}} | amount,
        "distill": {"training": {"epochs": 8}},
    }  # fmt: skip
    return params.validate(tree)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = digits_workspace(tmp_path_factory.mktemp("workspace"), {"dense/one": (8, 8, 16)})
    (root / "models" / "pruned").mkdir()
    return root


def learned(folder: Path) -> list[dict[str, float]]:
    """The history without what a clock says."""
    rows = json.loads((folder / "history.json").read_text())
    return [{key: row[key] for key in row if key not in ("seconds", "images_per_second")} for row in rows]


def stepped(steps: Iterator[Step]) -> list[Step]:
    """The steps, each with a copy of its state: the training changes it."""
    return [Step(step.row, from_disk(step.state)) for step in steps]


@pytest.mark.slow
def test_three_cuts_meet_the_budget_and_an_interruption_changes_nothing(root: Path, tmp_path: Path) -> None:
    task = Task("prune", checked(macs=0.4), root)
    out = task.workspace.pruned
    steps = stepped(prune_stage.compute(task, out, None))
    assert len(steps) == STAGES["prune"].steps(task) == 5
    assert [(step.row["cut"], step.row["epoch"]) for step in steps[:-1]] == [(1, 1), (1, 2), (2, 3), (2, 4)]

    dense, pruned = artifacts.load(task.workspace.dense("one")), artifacts.load(out)
    whole, left = count(dense, EXAMPLE), count(pruned, EXAMPLE)
    assert left.macs / whole.macs == pytest.approx(0.4, rel=0.02)
    shares = [row["macs"] / whole.macs for row in json.loads((out / "history.json").read_text())]
    assert shares[::2] == pytest.approx([0.4 ** (1 / 3), 0.4 ** (2 / 3)], rel=0.02)
    with (out / "layers.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    widths = {
        name: len(module.weight) for name, module in pruned.named_modules() if hasattr(module, "groups")
    }
    assert {row["name"]: int(row["pruned_width"]) for row in rows}.items() >= widths.items()
    assert [int(row["dense_width"]) for row in rows] == [
        layer.dense_width for layer in prune(dense, EXAMPLE, ratio=0.5, round_to=1).layers
    ]

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["budget"]["asked"] == 0.4 and metrics["recovery"]["epochs"] == 4
    epochs = 2 * sum(shares[::2]) * whole.macs / left.macs
    assert metrics["recovery"]["epochs_of_pruned"] == pytest.approx(epochs)
    assert recovery_compute(task) == pytest.approx(epochs / 8)

    for number in (2, 3):  # between two cuts' trainings, and within one
        again = tmp_path / str(number)
        again.mkdir()
        rest = list(prune_stage.compute(task, again, steps[number - 1].state))
        assert len(rest) == len(steps) - number
        assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
        assert learned(again) == learned(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"speedup": 2.0},
            "prune: schedule needs an amount of which a part is known beforehand, .*got speedup",
        ),
        ({"ratio": 0.0}, "prune: schedule: ratio 0 leaves nothing to cut: it must be null"),
        ({"macs": 0.5, "time_limit": 60.0}, "prune: time_limit: 60, but with schedule .* must be null"),
        ({"macs": 0.5, "schedule": {"steps": 1}}, "prune.schedule.steps: got 1, must be greater"),
        (
            {"macs": 0.5, "schedule": {"recovery": {"precision": "fp16"}}},
            "prune.schedule.recovery.precision: fp16 needs ray.gpus_per_worker 1",
        ),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(params.ParamsError, match=message):
        checked(**change)
