"""prune by criteria that look at images: each cuts exactly and alike every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from akgp import artifacts, params
from akgp.models import cifar_resnet
from akgp.pruning import PruningError, prune
from akgp.pruning.group_criteria import BY_IMAGES, BY_NETWORK
from akgp.stages import prune as prune_stage
from akgp.stages.pruning_evidence import evidence
from akgp.workspace import Task
from tests.support.workspaces import digits_workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared digits and a dense network that knows nothing."""
    return digits_workspace(tmp_path_factory.mktemp("workspace"), {"dense/one": (8, 8, 16)})


def task_of(root: Path, criterion: str) -> Task:
    tree = {
        "networks": {"one": {"architecture": "cifar_resnet20"}}, "teachers": ["one"], "student": "one",
        "prune": {"criterion": criterion, "ratio": 0.5, "scope": "all", "round_to": 4, "images": 70},
    }  # fmt: skip
    return Task(stage="prune", params=params.validate(tree), root=root)


@pytest.mark.parametrize("criterion", [*BY_IMAGES, *BY_NETWORK])
def test_the_stage_prunes_alike_every_time(workspace: Path, tmp_path: Path, criterion: str) -> None:
    """`prune` itself compares the cut network with the masked one."""
    layers = []
    for attempt in ("first", "second"):
        (tmp_path / attempt).mkdir()
        list(prune_stage.compute(task_of(workspace, criterion), tmp_path / attempt, None))
        layers.append((tmp_path / attempt / "layers.csv").read_text())
        model = artifacts.load(tmp_path / attempt)
        assert sum(weight.numel() for weight in model.parameters()) < 3000
    assert layers[0] == layers[1]


def test_as_many_images_are_looked_at_as_asked_for(workspace: Path) -> None:
    dense = artifacts.load(workspace / "models" / "dense" / "one")
    found = evidence(task_of(workspace, "taylor"), dense)
    assert found is not None and [len(batch.labels) for batch in found.batches] == [64, 6]
    assert evidence(task_of(workspace, "fpgm"), dense) is None
    assert evidence(task_of(workspace, "lamp"), dense) is None


def test_knowledge_weighs_each_image(workspace: Path) -> None:
    """By akgp, taught by the dense network itself: 0.3, and more where a label looks wrong."""
    dense = artifacts.load(workspace / "models" / "dense" / "one")
    found = evidence(task_of(workspace, "knowledge"), dense)
    assert found is not None and found.curvature is not None
    weights = torch.cat([batch.columns["teacher_weight"] for batch in found.batches])
    assert weights.shape == (70,) and weights.min() >= 0.3 - 1e-6


def test_images_are_needed_and_a_name_that_exists() -> None:
    model, example = cifar_resnet(8, (8, 8, 16), in_channels=1), torch.zeros(1, 1, 8, 8)
    with pytest.raises(PruningError, match="criterion taylor looks at images: give evidence"):
        prune(model, example, ratio=0.5, criterion="taylor")
    with pytest.raises(PruningError, match=r"criterion must be one of fpgm, .*, knowledge, .*, got 'magic'"):
        prune(model, example, ratio=0.5, criterion="magic")
