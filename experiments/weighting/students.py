"""The students of a cell: one after another, every strategy from the same network on the same images."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data.batches import Batch
from akgp.distillation import (
    Guide,
    branch_epochs,
    cross_fitted,
    guide,
    guided,
    log_prior,
    measure,
    out_of_fold,
    teacher_weights,
    train_measured,
)
from akgp.params import Distill
from akgp.stages.lesson import Opinion
from akgp.stages.workspace import replaced
from akgp.training import Objective, autocast_dtype, train
from experiments.weighting.design import (
    STUDENT_EPOCHS,
    Arm,
    Cell,
    arms,
    digest,
    distill,
    first_student,
    measuring,
)
from experiments.weighting.teachers import DENSE, PRUNED, Bench, bench

ROW, STUDENT = "row.json", "student"


def folder_of(root: Path, cell: Cell, arm: Arm) -> Path:
    name = "-".join(arm.name.replace(",", "").replace("+", "plus").split())
    return root / "students" / cell.name / f"{name}-{digest(asdict(arm))}"


def train_students(root: Path, cell: Cell) -> None:
    """Train the students of a cell that do not exist yet."""
    lesson = Lesson(bench(root, cell.setting.regime, cell.teacher_seed), cell)
    for arm in arms(cell.setting):
        folder = folder_of(root, cell, arm)
        if not folder.exists():
            start = time.perf_counter()
            student, found = lesson.student(arm, root)
            with replaced(folder) as new:
                artifacts.save(student, new / STUDENT)
                row = _row(cell, arm) | found | {"seconds": time.perf_counter() - start}
                (new / ROW).write_text(json.dumps(row, indent=1))


def _row(cell: Cell, arm: Arm) -> dict[str, Any]:
    return {
        "regime": cell.setting.regime,
        "teacher": cell.setting.teacher,
        "strategy": arm.name,
        "student_seed": cell.student_seed,
        "teacher_seed": cell.teacher_seed,
    }


class Lesson:
    """What the strategies of a cell share: images, the teacher's answers, the characteristics."""

    def __init__(self, at: Bench, cell: Cell) -> None:
        self.at, self.cell, self.summary = at, cell, at.summary
        self.images, self.validation = at.split("train"), at.split("validation")
        self.calibration = at.split("calibration")
        networks = at.teachers(cell.setting.teacher)
        crossed = len(networks) > 1
        fold = at.folds() if crossed else torch.zeros(len(self.images), dtype=torch.int64)
        opinions = [self._opinion(networks, fold)]
        if not crossed:  # see akgp.stages.lesson
            opinions.append(self._opinion([at.network(DENSE)], fold))
        self.taught = opinions[0]
        self.doubted = max(opinions, key=lambda opinion: opinion.characteristics.accuracy)
        dtype = autocast_dtype("auto", torch.device("cpu"))
        self.guide = remembered(
            cross_fitted(networks, fold, dtype=dtype) if crossed else guide(networks[0], dtype=dtype)
        )

    def _opinion(self, networks: list[nn.Module], fold: Tensor) -> Opinion:
        common: dict[str, Any] = {"mean": self.summary.mean, "std": self.summary.std, "device": "cpu"}
        held = torch.arange(len(self.calibration)) % len(networks)
        logits = out_of_fold(networks, self.images, fold, **common)
        characteristics = measure(
            out_of_fold(networks, self.calibration, held, **common),
            self.calibration.labels,
            train_logits=logits,
            train_labels=self.images.labels,
        )
        return Opinion(logits, characteristics)

    def student(self, arm: Arm, root: Path) -> tuple[nn.Module, dict[str, Any]]:
        """The student of an arm, and what is to be told of it."""
        params = distill(self.cell.setting.regime, arm)
        found: dict[str, Any] = {"compute": params.training.epochs / STUDENT_EPOCHS}
        first = first_student(self.cell.teacher_seed)
        if arm.measured == "shared":
            own = Cell(self.cell.setting, self.cell.teacher_seed, first)
            measured = json.loads((folder_of(root, own, measuring(arm)) / ROW).read_text())
            params = params.model_copy(update={"w0": measured["w"]})
            found |= {"w_error": measured["w_error"]}
            if self.cell.student_seed == first:
                found["compute"] += sum(branch_epochs(STUDENT_EPOCHS)) / STUDENT_EPOCHS
        student = self.at.network(PRUNED)
        common: dict[str, Any] = {
            "mean": self.summary.mean,
            "std": self.summary.std,
            "params": params.training,
            "seed": self.cell.student_seed,
        }
        if arm.measured == "own":
            epochs = train_measured(
                student,
                self.images,
                self.validation,
                self.calibration,
                objective=lambda w0: self.objective(params.model_copy(update={"w0": w0})),
                prior=params.w0,
                class_counts=torch.tensor(self.taught.characteristics.class_counts),
                **common,
            )
            found["compute"] += 2 * branch_epochs(STUDENT_EPOCHS)[1] / STUDENT_EPOCHS
        else:
            epochs = train(student, self.images, self.validation, objective=self.objective(params), **common)
        for epoch in epochs:
            last = epoch
        if arm.measured == "own":
            measured = last.state["measured"]
            params = params.model_copy(update={"w0": measured["weight"]})
            found |= {"w_raw": measured["raw"], "w_error": measured["error"]}
        weighted = params.strategy in ("fixed", "akgp")
        return student, found | {
            "w": params.w0 if weighted else None,
            "val_top1": last.row["val_top1"],
            "train_top1": last.row["train_top1"],
            "noise_rate": self.doubted.characteristics.noise_rate,
            "noise_rate_low": self.doubted.characteristics.noise_rate_low,
            "memorisation_gap": self.taught.characteristics.memorisation_gap,
        }

    def _weights(self, params: Distill) -> Tensor | None:
        doubted = self.doubted
        return teacher_weights(params, doubted.characteristics, doubted.logits, self.images.labels)

    def objective(self, params: Distill) -> Objective:
        return guided(
            [self.guide],
            params,
            weights=self._weights(params),
            prior=log_prior(params, self.taught.characteristics),
        )


def remembered(ask: Guide) -> Guide:
    """`ask`, which is asked only once about the same images: strategies share their batches."""
    known: dict[bytes, Tensor] = {}

    def logits(batch: Batch) -> Tensor:
        key = hashlib.sha1(batch.inputs.permute(0, 2, 3, 1).contiguous().numpy().data).digest()
        if key not in known:
            known[key] = ask(batch)
        return known[key]

    return logits
