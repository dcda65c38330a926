"""What K cached views of each image cost in accuracy, against asking the teacher in every step.

`AKGP_CIFAR10=DIR python -m experiments.views`: the dense network of `experiments.scope` (seed 0) teaches its
copy, pruned inside the blocks to half of the MACs, on 2,500 of its images at 16×16 for 20 epochs; all is
judged on 10,000 others, by the last epoch. Writes results/views/table.json and table.md after each run;
started again, it does those that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
import typer

from akgp.distillation import Distillation, Teacher, ask_teachers
from akgp.params import Distill
from akgp.pruning import prune
from experiments import scope
from experiments.resumable import Row, complete

RESULTS = Path("results/views")
IMAGES, EPOCHS, SEEDS = 2500, 20, (0, 1)
VIEWS = (None, 2, 5, 10)


@dataclass(frozen=True)
class Run:
    """views: None: the teacher is asked in the step."""

    views: int | None
    seed: int


def plan() -> Iterator[Run]:
    for seed in SEEDS:
        yield from (Run(views, seed) for views in VIEWS)


def measured(run: Run) -> Row:
    """Validation top-1 of the student after the last epoch, %."""
    teacher, _ = scope.dense(0)
    student = prune(teacher, scope.EXAMPLE, macs=0.5, scope="inside").model
    images, validation = scope.sources(0)
    images = images.take(torch.arange(IMAGES))
    data = ask_teachers([Teacher([teacher])], None, images, validation, validation.take(torch.arange(1000)))
    params = Distill(strategy="fixed", w0=0.3, teacher_views=run.views, training=scope.settings(EPOCHS))
    rows = [epoch.row for epoch in Distillation(student, data, params, seed=run.seed)]
    return {"val_top1": rows[-1]["val_top1"]}


def table(rows: list[Row]) -> str:
    lines = [
        "# Cached views: what they cost in accuracy", "",
        "`python -m experiments.views`: validation top-1, %, of ResNet-20 at half of its MACs, 2,500 images",
        f"of CIFAR-10-J75 at 16×16, {EPOCHS} epochs taught by the dense network; mean over seeds (how many).",
        "One thread, fp32, AMD EPYC, AVX2 only.", "", "| views | top-1 |", "| --- | --- |",
    ]  # fmt: skip
    for views in VIEWS:
        each = [row["val_top1"] for row in rows if row["views"] == views]
        if each:
            lines.append(f"| {views or 'asked in the step'} | {mean(each):.2f} ({len(each)}) |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train the students that results/views/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
