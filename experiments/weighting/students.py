"""The students of a cell: one after another, every strategy from the same network on the same images."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import Batch
from akgp.distillation import (
    Distillation,
    SelfDistillation,
    Teacher,
    TeacherFn,
    ask_teachers,
    compute_of,
    estimate_w0,
    stacked_weight,
    train_measured,
    weighted_ensemble,
)
from akgp.evaluation import predict_logits
from akgp.io.atomic import atomic_directory
from akgp.params import Distill, Training
from akgp.params.strategies import branch_epochs
from akgp.training import Epoch, Objective, autocast_dtype, train
from experiments.weighting.design import AKGP_LOW, Arm, Cell, Design, digest
from experiments.weighting.learning import device, finished, fitting
from experiments.weighting.teachers import DENSE, PRUNED, ReferenceRun

ROW, STUDENT = "row.json", "student"
FIRST = 0.2
"""Share of a training that each of the two trainings takes from which w0 is measured first."""


def folder_of(root: Path, cell: Cell, arm: Arm) -> Path:
    name = "-".join(arm.name.replace(",", "").replace("+", "plus").split())
    return root / "students" / cell.name / f"{name}-{digest(asdict(arm))}"


def checkpoint_of(root: Path, cell: Cell, arm: Arm) -> Path:
    folder = folder_of(root, cell, arm)
    return folder.with_name(f"{folder.name}.checkpoint")


def train_students(design: Design, root: Path, cell: Cell) -> None:
    """Train the students of a cell that do not exist yet."""
    missing = [arm for arm in design.arms_of(cell.setting) if not folder_of(root, cell, arm).exists()]
    if not missing:
        return
    course = TrialProgress(ReferenceRun(design, root, cell.setting.regime, cell.teacher_seed), cell)
    for arm in missing:
        start = time.perf_counter()
        student, found = course.student(arm)
        with atomic_directory(folder_of(root, cell, arm)) as new:
            artifacts.save(student.cpu(), new / STUDENT)
            row = _row(cell, arm) | found | {"seconds": time.perf_counter() - start}
            (new / ROW).write_text(json.dumps(row, indent=1), encoding="utf-8")


def _row(cell: Cell, arm: Arm) -> dict[str, Any]:
    on = device()
    return {
        "regime": cell.setting.regime,
        "teacher": cell.setting.teacher,
        "strategy": arm.name,
        "student_seed": cell.student_seed,
        "teacher_seed": cell.teacher_seed,
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else "cpu",
    }


class TrialProgress:
    """What the strategies of a cell share: images, networks, and what these say of the images."""

    def __init__(self, at: ReferenceRun, cell: Cell) -> None:
        self.at, self.cell = at, cell
        images = at.split("train")
        fold = at.folds() if cell.setting.teacher == "cross-fitted" else None
        teachers = [
            Teacher([at.network(name) for name in names], fold)
            for names in at.networks_of(cell.setting.teacher)
        ]
        own = cell.setting.teacher in ("in-sample", "cross-fitted")  # see DistillationData.dense
        dense = None if own else Teacher([at.network(DENSE)])
        splits = (at.batches(each) for each in (images, at.split("validation"), at.split("calibration")))
        self.data = ask_teachers(teachers, dense, *splits, device=device())
        training = fitting(Training.model_validate(at.design.student), at.design)
        dtype = autocast_dtype(training.precision, device())
        self.guides = [
            remembered(teacher.frozen(device(), dtype, channels_last=training.channels_last))
            for teacher in teachers
        ]

    def student(self, arm: Arm) -> tuple[nn.Module, dict[str, Any]]:
        """The student of an arm, and what is to be told of it."""
        design, params = self.at.design, self.at.design.distill(self.cell.setting.regime, arm)
        found: dict[str, Any] = {"compute": params.training.epochs / design.student["epochs"]}
        student, guides = self.at.network(PRUNED), self.guides
        if arm.measured in ("answers", "both"):
            params, guides = self._answered(params, found)
        elif arm.measured == "shared":
            params = self._shared(params, found)
        elif arm.measured == "first":
            params = self._first(student, params, found)
        checkpoint = checkpoint_of(self.at.root, self.cell, arm)
        if arm.measured in ("own", "both"):
            last = finished(lambda state: self._measured(student, params, guides, state), checkpoint)
            measured, epochs = last.state["measured"], branch_epochs(params.training.epochs)[1]
            params = _with_w0(params, measured["weight"])
            found |= {"w_raw": measured["raw"], "w_error": measured["error"]}
            found["compute"] += 2 * epochs / design.student["epochs"]
        else:
            run = self._distillation(student, params, guides)
            objective = run.objective()
            last = finished(lambda state: self._trained(run, objective, state), checkpoint)
            if isinstance(objective, SelfDistillation):
                found["compute"] *= compute_of(params, student.cpu(), self.data.example_input)
        return student, found | {
            "w": params.w0 if "w0" in params.facts.reads else None,
            "val_top1": last.row["val_top1"],
            "train_top1": last.row["train_top1"],
            "noise_rate": self.data.profile.noise_rate,
            "noise_rate_low": self.data.profile.noise_rate_low,
            "memorisation_gap": self.data.profile.memorisation_gap,
        }

    def _answered(self, params: Distill, found: dict[str, Any]) -> tuple[Distill, list[TeacherFn]]:
        """w0 by what the teachers know beyond the student's dense network, and these as one; no training."""
        answered = estimate_w0(self.data, params)
        if answered is None:
            return params, self.guides
        measured, shares = answered
        found |= {"w_raw": measured.raw, "w_error": measured.error}
        return _with_w0(params, measured.weight), [weighted_ensemble(self.guides, shares.to(device()))]

    def _shared(self, params: Distill, found: dict[str, Any]) -> Distill:
        """The w0 that the first student of this teacher has measured; what it cost is charged to that one."""
        first = self.at.design.first_student(self.cell.teacher_seed)
        own = Cell(self.cell.setting, self.cell.teacher_seed, first)
        measured = json.loads((folder_of(self.at.root, own, AKGP_LOW) / ROW).read_text(encoding="utf-8"))
        found["w_error"] = measured["w_error"]
        if self.cell.student_seed == first:
            trunk, branch = branch_epochs(params.training.epochs)
            found["compute"] += (trunk + 2 * branch) / params.training.epochs
        return _with_w0(params, measured["w"])

    def _first(self, student: nn.Module, params: Distill, found: dict[str, Any]) -> Distill:
        """w0 measured by a short training with labels alone and one with the teacher alone."""
        epochs = max(round(FIRST * params.training.epochs), 1)
        short = params.training.model_copy(update={"epochs": epochs})
        calibration = self.data.calibration
        answers = []
        for w0 in (0.0, 1.0):
            branch = copy.deepcopy(student)
            asked = _with_w0(params, w0).model_copy(update={"training": short})
            run = self._distillation(branch, asked, self.guides)
            for _ in self._trained(run, run.objective(), None):
                pass
            answers.append(predict_logits(branch, calibration, device=device()))
        labels_only, teacher_only = answers
        measured = stacked_weight(
            labels_only, teacher_only, calibration.labels, self._class_counts(), params.w0_or_default
        )
        found |= {"w_raw": measured.raw, "w_error": measured.error}
        found["compute"] += 2 * epochs / params.training.epochs
        return _with_w0(params, measured.weight)

    def _trained(
        self, run: Distillation, objective: Objective, state: dict[str, Any] | None
    ) -> Iterator[Epoch]:
        splits, common = (run.images(), self.data.validation), self._common(run.params)
        return train(run.student, *splits, objective=objective, state=state, **common)

    def _measured(
        self, student: nn.Module, params: Distill, guides: list[TeacherFn], state: dict[str, Any] | None
    ) -> Iterator[Epoch]:
        run = self._distillation(student, params, guides)
        return train_measured(
            student,
            run.images,
            self.data.validation,
            self.data.calibration,
            objective=run.objective,
            prior=params.w0_or_default,
            class_counts=self._class_counts(),
            state=state,
            **self._common(params),
        )

    def _common(self, params: Distill) -> dict[str, Any]:
        training = fitting(params.training, self.at.design)
        if params.facts.heads:  # graphs would hide the feature maps
            training = training.model_copy(update={"cuda_graphs": False})
        return {
            "params": training,
            "seed": self.cell.student_seed,
            "device": device(),
        }

    def _class_counts(self) -> Tensor:
        return torch.tensor(self.data.profile.class_counts)

    def _distillation(self, student: nn.Module, params: Distill, guides: list[TeacherFn]) -> Distillation:
        seed = self.cell.student_seed
        return Distillation(student, self.data, params, teachers=guides, seed=seed, device=device())


def _with_w0(params: Distill, w0: float) -> Distill:
    return params.model_copy(update={"w0": w0})


def remembered(guide: TeacherFn) -> TeacherFn:
    """`guide`, which is asked only once about the same images: strategies share their batches.

    Images are the same if their positions in the split are, and the upper left pixels as they were augmented.
    """
    known: dict[bytes, Tensor] = {}

    def logits(batch: Batch) -> Tensor:
        corners = batch.inputs[:, :, 0, 0].flatten().double()
        key = torch.cat([batch.index.double(), corners]).cpu().numpy().tobytes()
        if key not in known:
            known[key] = guide(batch)
        return known[key]

    return logits
