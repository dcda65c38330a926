"""A network that cannot come out at the other end is refused before it is trained; a useless one is told."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from akgp import params
from akgp.data import read_summary
from akgp.orchestration.run import run_stage
from akgp.orchestration.train import computation
from akgp.pruning.group_criteria import BY_IMAGES
from akgp.stages.dry_run import check, preview
from akgp.stages.notices import NOTICES
from akgp.stages.table import STAGES
from akgp.stages.training_steps import require_better_than_chance
from akgp.workspace import StageError, Task

NETWORKS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes, width=16, groups=1):
        super().__init__()
        self.first, self.head = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, num_classes)
        self.second = nn.Conv2d(width, width, 3, padding=1, groups=groups)
    def forward(self, x):
        return self.head(self.pooled(x))
    def pooled(self, x):
        return self.second(self.first(x).relu()).relu().mean((2, 3))

class Looping(Small):
    def pooled(self, x):
        return torch.stack([super(Looping, self).pooled(each[None])[0] for each in x])

class Grouped(Small):
    def __init__(self, num_classes):
        super().__init__(num_classes, groups=2)
        self.third = nn.Conv2d(16, 16, 1)
    def pooled(self, x):
        return self.third(self.second(self.first(x).relu()).relu()).mean((2, 3))

class Transposing(Small):
    def pooled(self, x):
        return super().pooled(x)[:, None].transpose(1, 2).mean(2)

class Masked(Small):
    def forward(self, x):
        mask = torch.full((10,), 0.0)
        mask[3] = -torch.inf
        return super().forward(x) + mask
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the digits, prepared, and a module of networks."""
    (tmp_path / "params.yaml").write_text(params.dump(checked("Small")))
    run_stage("data", root=tmp_path)
    (tmp_path / "dry_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "dry_networks", raising=False)
    return tmp_path


def checked(kind: str, **changes: Any) -> params.Params:
    network = {"architecture": f"dry_networks:{kind}", "checkpoint": changes.pop("checkpoint", None)}
    tree = {
        "data": {"color": "gray", "splits": {"test": 0.25}},
        "networks": {"mine": network},
        "teachers": ["mine"],
        "student": "mine",
        "teacher": {"epochs": 2, "batch_size": 128, "learning_rate": 0.05, "warmup_epochs": 0.5},
    }
    return params.validate(tree | changes)


def steps(root: Path, asked: params.Params, stop: int | None = None) -> list[dict[str, Any]]:
    """Rows of the teacher stage's computation; at most the first `stop`."""
    (root / "out").mkdir(exist_ok=True)
    stage, task = STAGES["teacher"], Task("teacher", asked, root, "mine")
    computed = computation(stage.module, stage.check, task, root / "out", None)
    rows = []
    for step in computed:
        rows.append(step.row)
        if len(rows) == stop:
            break
    return rows


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (checked("Looping"), r"^networks.mine: .* the batch size a constant.*; dry_networks.py:\d+, in "),
        (checked("Masked"), "^networks.mine: Masked: its forward, outside of its layers, gives values"),
        (checked("Small", prune={"ratio": 0.5, "skip": ["nowhere"]}), "^networks.mine: prune.skip: 'nowh"),
        (checked("Small", prune={"ratio": 0.5, "bypass": ["nowhere"]}), "^networks.mine: prune.bypass: 'no"),
        (checked("Small", prune={"ratio": 0.5, "bypass": ["*"]}), "^networks.mine: bypass: .* no residual"),
        (
            checked(
                "Small", networks={"mine": {"architecture": "cifar_resnet20"}},
                prune={"ratio": 0.5, "bypass": ["layer1.1"]},
                distill={"training": {"freeze": ["layer1.1.conv1"]}},
            ),
            "^networks.mine: distill.training.freeze: 'layer1.1.conv1' is not a module.*; by then ",
        ),
        (
            checked(
                "Small", networks={"mine": {"architecture": "cifar_resnet20"}},
                prune={"ratio": 0.5, "bypass": ["layer1.1"], "layers": {"layer1.1.*": 0.3}},
            ),
            "^networks.mine: layers: .*layer1.1.* matches no .*; by then prune.bypass",
        ),
        (
            checked("Small", distill={"training": {"augment": {"cutout": 16}}}),
            "^networks.mine: distill.training.augment.cutout: 16 hides images of 8×8 pixels, must be below 8",
        ),
        (
            checked("Small", distill={"strategy": "self_distillation"}),
            "^networks.mine: distill.heads: the student has no stages layer1",
        ),
        (
            checked("Transposing", evaluate={"targets": ["onnx", "c"]}),
            r"^networks.mine: evaluate.targets: \w+: Transpose cannot be exported",
        ),
        (
            checked("Small", quantize={"bytes": 1000}),
            r"^networks.mine: quantize.bytes: 1,000 asked, but with all layers in int8 .* has about \d,\d{3}",
        ),
        (checked("Small", folds=200), r"^folds: got 200, must be at most \d+, the training images of class"),
    ],
)  # fmt: skip
def test_it_is_refused_before_it_is_trained(asked: params.Params, message: str, root: Path) -> None:
    with pytest.raises(StageError, match=message) as raised:
        steps(root, asked, stop=1)
    assert "\n" not in str(raised.value)


def test_too_few_images_to_measure_the_teachers_by_are_refused_before_training(root: Path) -> None:
    small = {"architecture": "dry_networks:Small"}
    networks = {"a": small, "b": small | {"seed": 1}}
    asked = checked("Small", networks=networks, teachers=["a", "b"], student="a")
    task, summary = Task("teacher", asked, root, "a"), read_summary(root / "data" / "prepared")
    few = summary.model_copy(update={"counts": summary.counts | {"calibration": (1, 1, *[0] * 8)}})
    (root / "data" / "prepared" / "summary.json").write_text(few.model_dump_json())
    with pytest.raises(StageError, match=r"^data.splits.calibration: got 2 .* of 2 teacher.* distill.w0"):
        check(task)


def test_a_network_that_can_be_written_in_all_formats_passes(root: Path) -> None:
    assert steps(root, checked("Small", evaluate={"targets": ["onnx", "litert", "c"]}), stop=1)


@pytest.mark.parametrize("criterion", BY_IMAGES)
def test_criteria_that_look_at_images_are_tried_on_noise(criterion: str, root: Path) -> None:
    """There is no trained network yet whose images they could look at."""
    asked = checked("Small", prune={"ratio": 0.5, "criterion": criterion})
    ((line,),) = [row[NOTICES] for row in steps(root, asked, stop=1)]
    assert line.startswith("networks.mine: pruning will remove ")


def test_what_would_be_pruned_is_said_before_the_training(root: Path) -> None:
    ((line,),) = [row[NOTICES] for row in steps(root, checked("Grouped"), stop=1)]
    assert re.fullmatch(
        r"networks.mine: pruning will remove 24 of 58 filters, \d+% of the MACs; 1 of 4 layers stay dense "
        r"\(1: is the network's output\)", line
    ), line  # fmt: skip


def test_a_student_of_ours_says_nothing(root: Path) -> None:
    asked = checked("Small", networks={"mine": {"architecture": "cifar_resnet20"}})
    assert steps(root, asked, stop=1) == [{}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"loss": 7e22, "val_loss": 3e20, "val_balanced_top1": 10.0},
         r"no more than chance .* loss is 7e\+22: the training has diverged; lower teacher.learning_rate"),
        ({"loss": 1.0, "val_loss": float("nan"), "val_balanced_top1": 10.0}, None),
        ({"loss": 90.0, "val_loss": 90.0, "val_balanced_top1": 60.0}, None),
    ],
)  # fmt: skip
def test_a_teacher_that_has_diverged_is_refused(
    row: dict[str, float], message: str | None, root: Path
) -> None:
    task, summary = Task("teacher", checked("Small"), root, "mine"), read_summary(root / "data" / "prepared")
    if message is None:
        require_better_than_chance([row], task, summary)
        return
    with pytest.raises(StageError, match=message):
        require_better_than_chance([row], task, summary)


@pytest.mark.parametrize(("top1", "warned"), [(100.0, False), (75.0, True)])
def test_a_network_without_a_mistake_is_better_than_chance(
    top1: float, warned: bool, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of four images two standard errors above 50 % are 100 %."""
    task, summary = Task("teacher", checked("Small"), root, "mine"), read_summary(root / "data" / "prepared")
    few = summary.model_copy(update={"classes": ("a", "b"), "counts": {"validation": [2, 2], "train": [4]}})
    require_better_than_chance([{"loss": 0.1, "val_loss": 0.1, "val_balanced_top1": top1}], task, few)
    assert ("no more than chance" in caplog.text) == warned


def test_a_teacher_at_chance_and_a_leak_are_told_and_kept(root: Path) -> None:
    training = {"epochs": 1, "batch_size": 128, "learning_rate": 1e-9, "warmup_epochs": 0}
    steps(root, checked("Small", teacher=training))
    (said,) = json.loads((root / "out" / "metrics.json").read_text())["warnings"]
    assert "no more than chance (10.0 %): raise teacher.epochs (1), or change teacher.learning_rate" in said
    import dry_networks  # type: ignore[import-not-found]

    torch.manual_seed(0)
    torch.save(dry_networks.Small(10).state_dict(), root / "small.pt")
    steps(root, checked("Small", checkpoint="small.pt"))
    said, leak = json.loads((root / "out" / "metrics.json").read_text())["warnings"]
    assert "chance (10.0 %): are its classes in this order, its images of this size, colour and" in said
    assert "images that it was trained on may be among the test images" in leak


def test_a_preview_names_the_most_frequent_reasons() -> None:
    from akgp.pruning import Layer, Pruned

    layers = [Layer(f"l{i}", tuple(range(8)), 8, 8, f"reason {min(i, 4)}") for i in range(6)]
    line = preview("mine", Pruned(torch.nn.Identity(), [*layers, Layer("l9", (0, 1), 8, 2, None)]), 0.25)
    assert line.startswith(
        "networks.mine: pruning will remove 6 of 56 filters, 25% of the MACs; 6 of 7 layers stay"
    )
    assert line.endswith("(2: reason 4; 1: reason 0; 1: reason 1; 2 more reasons)")
