"""What K cached views of each image cost in accuracy, against asking the teacher in every step.

`AKGP_CIFAR10=DIR python -m experiments.views`: the dense network of `experiments.scope` (seed 0) teaches its
copy, pruned inside the blocks to half of the MACs, on 2,500 of its images at 16×16 for 20 epochs; all is
judged on 10,000 others, by the last epoch. Writes results/views/table.json and table.md after each run;
started again, it does those that are missing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer

from akgp.distillation import Distillation, Teacher, ask_teachers
from akgp.params import Distill
from akgp.pruning import prune
from experiments import scope

RESULTS = Path("results/views")
IMAGES, EPOCHS, SEEDS = 2500, 20, (0, 1)
VIEWS = (None, 2, 5, 10)


def measured(views: int | None, seed: int) -> float:
    """Validation top-1 of the student after the last epoch, %."""
    teacher, _ = scope.dense(0)
    student = prune(teacher, scope.EXAMPLE, macs=0.5, scope="inside").model
    images, validation = scope.sources(0)
    images = images.take(torch.arange(IMAGES))
    data = ask_teachers([Teacher([teacher])], None, images, validation, validation.take(torch.arange(1000)))
    params = Distill(strategy="fixed", w0=0.3, teacher_views=views, training=scope.settings(EPOCHS))
    return [epoch.row["val_top1"] for epoch in Distillation(student, data, params, seed=seed)][-1]


def table(rows: list[dict[str, Any]]) -> str:
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
    torch.set_num_threads(1)
    file = RESULTS / "table.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    for seed in SEEDS:
        for views in VIEWS:
            if any((row["views"], row["seed"]) == (views, seed) for row in rows):
                continue
            start = time.perf_counter()
            top1 = measured(views, seed)
            seconds = round(time.perf_counter() - start)
            rows.append({"views": views, "seed": seed, "val_top1": top1, "seconds": seconds})
            print(rows[-1], flush=True)
            RESULTS.mkdir(parents=True, exist_ok=True)
            file.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", encoding="utf-8")
            (RESULTS / "table.md").write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
