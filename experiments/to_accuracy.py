"""Seconds to an accuracy: ResNet-20 trained by this recipe, and by the conventional loop.

`AKGP_CIFAR10=DIR python -m experiments.to_accuracy`: both train from the same weights on all 50,000 images,
one epoch of each in turn, on one thread in fp32; the clock is the processor's time, with compiling and
without judging. Conventional: PIL images, torchvision's crop and mirror, DataLoader, SGD at 0.1 by a cosine.
Ours: `akgp.training.train` as recipe cifar10-quick has it (0.2, falling linearly), compiled. Writes
results/to-accuracy/table.json and table.md; a run is one process and starts anew where it was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._inductor.config
import typer
from torch import nn
from torch.nn import functional as F

from akgp.data import IndexedSource
from akgp.models import cifar_resnet
from akgp.params import Training
from akgp.training import cross_entropy, evaluate, train
from benchmarks.speed.training import BATCH, MEAN, STD, conventional_loader
from experiments.defaults import cifar10
from experiments.resumable import Row, complete, markdown

RESULTS = Path("results/to-accuracy")
TARGETS = (85.0, 86.0)
WAYS = ("conventional", "akgp")


@dataclass(frozen=True)
class Run:
    epochs: int
    seed: int


def plan() -> Iterator[Run]:
    yield Run(epochs=16, seed=0)
    yield Run(epochs=20, seed=0)


def conventional(model: nn.Module, images: IndexedSource, epochs: int) -> Iterator[None]:
    """An epoch at each `next`."""
    loader = conventional_loader(images)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    for _ in range(epochs):
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            schedule.step()
        yield


def ours(model: nn.Module, images: IndexedSource, epochs: int, seed: int) -> Iterator[object]:
    """An epoch at each `next`, validated on ten images, as judging is not counted."""
    training = Training(
        epochs=epochs, batch_size=BATCH, learning_rate=0.2, schedule="linear", precision="fp32",
        compile=True, keep="last",
    )  # fmt: skip
    few = images.take(torch.arange(10))
    return train(model, images, few, params=training, objective=cross_entropy(), seed=seed)


def processor_seconds() -> float:
    """Of this process and of the compilers that it has waited for."""
    return sum(os.times()[:4])


def measured(run: Run) -> Row:
    """For each way, after each epoch: the seconds so far, and top-1 on the test split, %."""
    images, test = (
        IndexedSource.of(cifar10(32, count, split), MEAN, STD)
        for split, count in (("train", 50_000), ("test", 10_000))
    )
    torch._inductor.config.compile_threads = 1  # compilers of a pool are not waited for
    torch._inductor.config.force_disable_caches = True
    models = []
    for _ in WAYS:
        torch.manual_seed(run.seed)
        models.append(cifar_resnet(20))
    trainings = conventional(models[0], images, run.epochs), ours(models[1], images, run.epochs, run.seed)
    row: Row = {way: [] for way in WAYS}
    seconds = dict.fromkeys(WAYS, 0.0)
    for _ in range(run.epochs):
        for way, model, training in zip(WAYS, models, trainings, strict=True):
            start = processor_seconds()
            next(training)
            seconds[way] += processor_seconds() - start
            row[way].append((round(seconds[way], 1), round(evaluate(model, test).top1, 2)))
            print(way, *row[way][-1], flush=True)
    return row


ABOUT = """# Seconds to an accuracy

`AKGP_CIFAR10=DIR python -m experiments.to_accuracy`, see the head of that file: ResNet-20 on all 50,000
images of CIFAR-10-J75, top-1 on its 10,000 test images; seconds of one processor until the end of the first
epoch with that accuracy, compiling included. Schedules end with the last epoch, so that it comes shortly
before. One thread, fp32. {machines}. Runs of the plan: {done} of {planned}.

| epochs | seed | way | to 85 % | to 86 % | all epochs | at their end, % |
| --- | --- | --- | --- | --- | --- | --- |
"""


def until(target: float, epochs: list[list[float]]) -> str:
    """The seconds until the end of the first epoch with this accuracy, and its number."""
    for number, (seconds, top1) in enumerate(epochs, 1):
        if top1 >= target:
            return f"{seconds:,.0f} (epoch {number})"
    return "not reached"


def table(rows: list[Row]) -> str:
    """Markdown: a line for each way of each run."""
    lines = []
    for row in rows:
        for way in WAYS:
            seconds, top1 = row[way][-1]
            reached = [until(target, row[way]) for target in TARGETS]
            cells = [str(row["epochs"]), str(row["seed"]), way, *reached, f"{seconds:,.0f}", f"{top1:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Do the runs that results/to-accuracy/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
