"""What K cached views of each image cost in accuracy, against asking the teacher in every step.

`AKGP_CIFAR10=DIR python -m experiments.views`: the dense network of `experiments.scope` (seed 0) teaches its
copy, pruned inside the blocks to half of the MACs, on 2,500 of its images at 16×16 for 10, 20 and 40 epochs;
all is judged on 10,000 others, by the last epoch. Writes results/views/table.json and table.md after each
run; started again, it does those that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import typer

from akgp.distillation import Distillation, Teacher, ask_teachers
from akgp.params import Distill
from akgp.pruning import prune
from experiments import scope
from experiments.resumable import Row, by_seed, complete, markdown, spread

RESULTS = Path("results/views")
IMAGES, SEEDS = 2500, (0, 1, 2)
EPOCHS = (10, 20, 40)
VIEWS = (None, 5, 10, 20)


@dataclass(frozen=True)
class Run:
    """views: fewer than the epochs; None: the teacher is asked in the step."""

    epochs: int
    views: int | None
    seed: int


def plan() -> Iterator[Run]:
    for seed in SEEDS:
        for epochs in EPOCHS:
            yield from (Run(epochs, views, seed) for views in VIEWS if (views or 0) < epochs)


def measured(run: Run) -> Row:
    """Validation top-1 of the student after the last epoch, %."""
    teacher, _ = scope.dense(0)
    student = prune(teacher, scope.EXAMPLE, macs=0.5, scope="inside").model
    images, validation = scope.sources(0)
    images = images.take(torch.arange(IMAGES))
    data = ask_teachers([Teacher([teacher])], None, images, validation, validation.take(torch.arange(1000)))
    params = Distill(strategy="fixed", w0=0.3, teacher_views=run.views, training=scope.settings(run.epochs))
    rows = [epoch.row for epoch in Distillation(student, data, params, seed=run.seed)]
    return {"val_top1": rows[-1]["val_top1"]}


ABOUT = """# Cached views: what they cost in accuracy

`AKGP_CIFAR10=DIR python -m experiments.views`, see the head of that file: validation top-1, %, of the last
epoch, ResNet-20 at half of its MACs, 2,500 images of CIFAR-10-J75 at 16×16, taught by the dense network;
mean ± standard error over the seeds (how many), each of those that two machines have the mean of both. One
thread, fp32. {machines}. Runs of the plan: {done} of {planned}.

| epochs | views | top-1 | lost |
| --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a line for each number of epochs and of views; what is lost is paired by seed and machine."""

    def pair(row: Row) -> tuple[Any, ...]:
        return row["epochs"], row["seed"], row["machine"]

    asked = {pair(row): row["val_top1"] for row in rows if row["views"] is None}
    lines = []
    for epochs, views in dict.fromkeys((row["epochs"], row["views"]) for row in rows):
        mine = [row for row in rows if (row["epochs"], row["views"]) == (epochs, views)]
        paired = [row for row in mine if views and pair(row) in asked]
        top1 = by_seed((row["seed"], row["val_top1"]) for row in mine)
        lost = by_seed((row["seed"], asked[pair(row)] - row["val_top1"]) for row in paired)
        lines.append(f"| {epochs} | {views or 'asked in the step'} | {spread(top1)} | {spread(lost)} |")
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Train the students that results/views/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
