"""quantize.qat: which network ships, what the two trainings share, and that they are resumed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch

from akgp import artifacts, params
from akgp.data import prepare
from akgp.io.atomic import write_json
from akgp.models import cifar_resnet
from akgp.params.training_defaults import qat_training
from akgp.quantization import Judgement, Plan, export_onnx, plan, quantize, verify
from akgp.stages import qat
from akgp.stages import quantize as quantize_stage
from akgp.stages.table import STAGES
from akgp.workspace import Step, Task
from tests.support.trainings import from_disk

NETWORKS = {name: {"architecture": "cifar_resnet20"} for name in ("one", "two")}


def checked(**changes: Any) -> params.Params:
    tree = {
        "data": {"splits": {"test": 0.25}}, "networks": NETWORKS, "teachers": ["one"], "student": "one",
        "distill": {"training": {"batch_size": 256, "learning_rate": 0.2, "precision": "bf16"}},
        "quantize": {"images": 8, "qat": {"epochs": 2}},
    }  # fmt: skip
    return params.validate(tree | changes)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Prepared digits, a teacher and a student that know nothing."""
    root = tmp_path_factory.mktemp("workspace")
    for folder in ("data/prepared", "models/dense/one", "models/student"):
        (root / folder).mkdir(parents=True)
    prepare(params.Data(color="gray", splits=params.Splits(test=0.25)), 0, root / "data" / "prepared")
    for seed, folder in enumerate(("dense/one", "student")):
        torch.manual_seed(seed)
        artifacts.save(cifar_resnet(8, (4, 4, 4), in_channels=1), root / "models" / folder)
    return Task("quantize", checked(), root)


def trained(steps: Iterable[Step]) -> list[Step]:
    """The steps of epochs, each with a copy of its state: the training changes it."""
    return [Step(step.row, from_disk(step.state)) for step in steps if step.state is not None]


def places(steps: Iterable[Step]) -> list[tuple[str, int]]:
    return [(step.row["network"], step.row["trained"]) for step in steps]


@pytest.mark.slow
def test_two_trainings_that_differ_in_the_rounding_alone_and_are_resumed(task: Task, tmp_path: Path) -> None:
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student = artifacts.load(task.workspace.student)
    export_onnx(student, images[:1], tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", images, task.params.quantize, tmp_path / "int8.onnx")
    int8 = onnx.load(str(tmp_path / "int8.onnx"))
    networks: dict[str, torch.nn.Module] = {}

    def run(state: dict[str, Any] | None) -> Iterator[Step]:
        networks.update((yield from qat.train_on(task, int8, state, {})))

    steps = trained(run(None))
    assert places(steps) == [("qat", 1), ("qat", 2), ("control", 1), ("control", 2)]
    control, learned = (copy.deepcopy(networks[name].state_dict()) for name in ("control", "qat"))
    assert sorted(control) == sorted(learned) == sorted(student.state_dict())
    assert not torch.equal(control["conv1.weight"], learned["conv1.weight"])
    for last, left in ((1, 2), (2, 1)):
        resumed = trained(run(steps[last].state))
        assert places(resumed) == places(steps)[4 - left :]
        assert [step.row["loss"] for step in resumed] == [step.row["loss"] for step in steps[4 - left :]]
        for name, expected in (("control", control), ("qat", learned)):
            found = networks[name].state_dict()
            assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.slow
def test_the_stage_writes_what_it_ships_and_how_all_compare(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Plan] = []

    def planned(*given: Any) -> Plan:
        made.append(plan(*given))
        return made[-1]

    monkeypatch.setattr(quantize_stage, "plan", planned)
    steps = list(quantize_stage.compute(task, tmp_path, None))
    assert len(steps) == STAGES["quantize"].steps(task)
    before, (*_, last) = len(made), (step.state for step in steps if step.state)
    resumed = list(quantize_stage.compute(task, tmp_path, from_disk(last)))
    assert resumed[-1].row == steps[-1].row
    assert len(made) - before == before - 1, "the student's plan is kept: measured again it may be another"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert list(metrics["qat"]["val_top1"]) == ["student", "control", "qat"]
    assert metrics["val_top1"] == metrics["qat"]["val_top1"][metrics["qat"]["shipped"]]
    assert len((tmp_path / "qat.csv").read_text().splitlines()) == 4
    assert verify(tmp_path / "model.onnx", torch.zeros(1, 1, 8, 8)).floating == {}


def test_a_w0_that_branches_measured_is_used_as_it_came_out(task: Task, tmp_path: Path) -> None:
    changed = Task("quantize", checked(distill={"w0_from": "branches"}), tmp_path)
    changed.workspace.student.mkdir(parents=True)
    write_json(changed.workspace.student / "metrics.json", {"w0": {"weight": 0.625}})
    used = qat._distill(changed, 1000)
    assert (used.w0, used.w0_source, used.epochs) == (0.625, "fixed", 2)


def test_the_training_is_the_students_but_shorter_gentler_and_in_fp32() -> None:
    used = qat_training(checked(), 1000)
    assert (used.epochs, used.batch_size, used.precision, used.warmup_epochs) == (2, 256, "fp32", 0)
    assert used.learning_rate == pytest.approx(0.02)
    own = checked(quantize={"qat": {"epochs": 1, "learning_rate": 0.5}})
    assert qat_training(own, 1000).learning_rate == 0.5


def right(*counts: int) -> torch.Tensor:
    """Of ten images: the first are right, then so many wrong, and so on."""
    return torch.cat([torch.full((count,), index % 2 == 0) for index, count in enumerate(counts)])


@pytest.mark.parametrize(
    ("asked", "reached", "packed", "kept"),
    [
        ({"agreement": 0.8}, 0.7, 0, False),
        ({"agreement": 0.8}, 0.81, 0, True),
        ({"agreement": 0.95}, 0.9, 0, True),  # which the plan did not come to either
        ({"download": {"bytes": "1k"}}, 0.9, 1025, False),
        ({"download": {"bytes": "1k"}}, 0.5, 1024, True),
        ({"download": {"agreement": 0.8}}, 0.7, 0, False),
    ],
)
def test_biases_are_not_corrected_at_the_cost_of_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Any, reached: float, packed: int, kept: bool
) -> None:
    file = tmp_path / "model.onnx"
    file.write_text("planned")

    def correct(*_: object) -> Judgement:
        file.write_text("corrected")
        return Judgement(0.2, 0.1, True)

    monkeypatch.setattr(quantize_stage, "correct_biases", correct)
    monkeypatch.setattr(quantize_stage, "agreement", lambda *_: reached)
    measures: Any = SimpleNamespace(packed=lambda _: packed)
    asking = params.Quantize.model_validate(asked)
    planned, judged = quantize_stage._corrected(file, torch.zeros(1), asking, measures, file, Plan((), 0.9))
    assert judged is not None and judged.kept == kept
    assert (planned.agreement, file.read_text()) == ((reached, "corrected") if kept else (0.9, "planned"))


def test_only_what_wins_is_shipped() -> None:
    """A gain of g points with a standard error of √((g − g²/100)/n · 100) where no image is lost."""
    student = right(5, 5)
    for candidates, name in (
        ({"student": student}, "student"),
        ({"student": student, "control": student, "qat": student}, "student"),
        ({"student": student, "control": right(8, 2), "qat": right(8, 2)}, "control"),
        ({"student": student, "control": right(8, 2), "qat": right(6, 4)}, "control"),
        ({"student": student, "control": right(4, 6), "qat": right(8, 2)}, "qat"),
        ({"student": student, "control": right(7, 3), "qat": right(9, 1)}, "qat"),
        # 2 won and 1 lost of 10: 10 points, and a standard error of 17
        ({"student": student, "qat": right(4, 1, 2, 3)}, "student"),
    ):
        assert qat.shipped(qat.compared(candidates)) == name
    first, second = qat.compared({"student": student, "qat": right(7, 3)})
    assert first == {"network": "student", "val_top1": 50, "gain": None, "error": None, "better": True}
    assert second["gain"] == pytest.approx(20)
    assert second["error"] == pytest.approx((0.2 * 0.8 / 10) ** 0.5 * 100)


@pytest.mark.parametrize(
    ("qat", "message"),
    [
        ({"epochs": 0}, "quantize.qat.epochs: got 0, must be greater than or equal to 1"),
        (3, "quantize.qat: "),
        ({"epoch": 3}, "quantize.qat.epoch: "),
    ],
)
def test_what_is_no_training_is_refused_in_one_line(qat: Any, message: str) -> None:
    with pytest.raises(params.ParamsError) as refused:
        checked(quantize={"qat": qat})
    assert message in str(refused.value) and "\n" not in str(refused.value)
