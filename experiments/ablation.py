"""What a pruned network learns most by: one thing changed at a time, at half of the MACs.

`AKGP_CIFAR10=DIR python -m experiments.ablation` trains every run of `plan` on one thread, seed by seed, and
writes results/ablation/table.json and table.md after each; started again, it does those that are missing.
Networks, images and the judging are those of `experiments.scope`: cifar_resnet20, 10,000 images of
CIFAR-10-J75 at 16×16, the last epoch on 10,000 other training images, so that nothing is chosen. The dense
networks in runs/scope are used where they are there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

from akgp.data import Images, IndexedSource
from akgp.distillation import Distillation, Teacher, ask_teachers
from akgp.models import build
from akgp.params import Distill, Network
from akgp.pruning import prune
from akgp.training import cross_entropy, train
from experiments.defaults import MEAN_STD, cifar10, save_weights, weights_from
from experiments.resumable import Row, complete, markdown, spread
from experiments.scope import EXAMPLE, HELD_OUT, IMAGES, SIDE, WEIGHTS, dense, settings, sources
from experiments.scope import SEEDS as EVERY_SEED

RESULTS = Path("results/ablation")
SEEDS, CALIBRATION = (0, 1), 1000
WIDE_EPOCHS = 24


@dataclass(frozen=True)
class Arm:
    """How a student is made of its dense network; by default what all others are compared with.

    macs: the share that it keeps; 1: a control, the dense network itself trained on.
    teacher: its own dense network; or wide, with twice the channels, trained for as long by mixed images.
    training, augment, distill: what differs from `scope.settings` and the defaults.
    """

    macs: float = 0.5
    scope: str = "inside"
    teacher: str = "own"
    epochs: int = 16
    training: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    distill: dict[str, Any] = field(default_factory=dict)


ARMS = {
    "nothing": Arm(),
    "scope: all": Arm(scope="all"),
    "teacher: wide": Arm(teacher="wide"),
    "epochs: 32": Arm(epochs=32),
    "views: mixup": Arm(augment={"mixup": 1.0}),
    "views: cutmix": Arm(augment={"cutmix": 1.0}),
    "views: mixup of half": Arm(augment={"mixup": 1.0, "mix_share": 0.5}),
    "loss: labels": Arm(distill={"strategy": "labels"}),
    "loss: fixed": Arm(distill={"strategy": "fixed"}),
    "loss: teacher": Arm(distill={"strategy": "teacher"}),
    "loss: dkd": Arm(distill={"strategy": "dkd"}),
    "loss: dist": Arm(distill={"strategy": "dist"}),
    "loss: wttm": Arm(distill={"strategy": "wttm"}),
    "averages: ema 0.99": Arm(training={"ema": 0.99}),
    "epochs: 64": Arm(epochs=64),
    "not pruned, labels, 64": Arm(macs=1, epochs=64, distill={"strategy": "labels"}),
    "wide, 64": Arm(teacher="wide", epochs=64),
    "not pruned, wide, 64": Arm(macs=1, teacher="wide", epochs=64),
    "wide, mixup, 64": Arm(teacher="wide", epochs=64, augment={"mixup": 1.0}),
}


@dataclass(frozen=True)
class Run:
    seed: int
    changed: str


def plan() -> Iterator[Run]:
    """Seed by seed, first what all is compared with."""
    yield from (Run(seed, changed) for seed in SEEDS for changed in ARMS)


@cache
def calibration() -> IndexedSource:
    """Images of which no network of any seed has been trained."""
    first = HELD_OUT + len(EVERY_SEED) * IMAGES
    every = cifar10(SIDE, first + CALIBRATION)
    return IndexedSource.of(Images(every.pixels[first:], every.labels[first:]), *MEAN_STD[3])


def wide(seed: int) -> nn.Module:
    """A teacher of four times the MACs."""
    torch.manual_seed(seed)
    network = Network(architecture="cifar_resnet20", widths=(32, 64, 128))
    model = build(network, num_classes=10, in_channels=3, image_size=(SIDE, SIDE))
    file = WEIGHTS / f"wide-{seed}.pt"
    if not weights_from(file, model):
        params = settings(WIDE_EPOCHS)
        mixed = params.augment.model_copy(update={"mixup": 1.0, "mix_share": 0.5})
        params = params.model_copy(update={"augment": mixed})
        for epoch in train(model, *sources(seed), params=params, objective=cross_entropy(), seed=seed):
            print("wide", seed, epoch.row, flush=True)
        save_weights(file, model)
    return model.eval()


def distill_params(arm: Arm) -> Distill:
    """The distillation of an arm, all of its parameters checked together."""
    training = settings(arm.epochs).model_dump(exclude_unset=True) | arm.training
    training["augment"] = training["augment"] | arm.augment
    return Distill.model_validate({"training": training} | arm.distill)


def measured(run: Run) -> dict[str, Any]:
    """The accuracy of the student's last epoch and of its dense network, %."""
    arm, (model, dense_top1) = ARMS[run.changed], dense(run.seed)
    images, validation = sources(run.seed)
    pruned = prune(model, EXAMPLE, macs=arm.macs, scope=arm.scope).model if arm.macs < 1 else model
    student = copy.deepcopy(pruned)
    teachers = [wide(run.seed), model] if arm.teacher == "wide" else [model]
    own = Teacher([model]) if arm.teacher == "wide" else None
    data = ask_teachers([Teacher([teachers[0]])], own, images, validation, calibration())
    rows = [epoch.row for epoch in Distillation(student, data, distill_params(arm), seed=run.seed)]
    return {"val_top1": rows[-1]["val_top1"], "dense_top1": dense_top1}


ABOUT = """# What a pruned network learns by

`AKGP_CIFAR10=DIR python -m experiments.ablation`, see the head of that file: cifar_resnet20, 10,000 images of
CIFAR-10-J75 at 16×16, half of the MACs kept inside the blocks, 16 epochs by akgp, taught by the dense network
(24 epochs by labels); in each line one thing is changed. Validation top-1 of the last epoch, %, and what is
gained over *nothing changed* and over the dense network of the same seed, points; mean ± standard error over
the seeds (how many). One thread, fp32. {machines}. Runs of the plan: {done} of {planned}.

| changed | top-1 | gained | above dense |
| --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: an arm a line, in the plan's order; what is gained is paired by seed and machine."""

    def pair(row: Row) -> tuple[Any, ...]:
        return row["seed"], row["machine"]

    base = {pair(row): row["val_top1"] for row in rows if row["changed"] == "nothing"}
    lines = []
    for name in ARMS:
        of = [row for row in rows if row["changed"] == name]
        if of:
            gained = [row["val_top1"] - base[pair(row)] for row in of if pair(row) in base]
            above = [row["val_top1"] - row["dense_top1"] for row in of]
            cells = [name, *map(spread, ([row["val_top1"] for row in of], gained, above))]
            lines.append("| " + " | ".join(cells) + " |")
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Train the runs of the plan that results/ablation/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
