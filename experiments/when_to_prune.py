"""When to prune: how much of the time for training belongs to the dense network, and how much to its half.

`AKGP_CIFAR10=DIR python -m experiments.when_to_prune` trains every run of `plan` on one thread, seed by seed,
and writes results/when-to-prune/table.json and table.md after each; started again, it does those that are
missing. All runs cost the same, as many forward passes as 48 epochs of the dense network: an epoch costs
three of the network that is trained and one of the teacher that is asked. Networks, images and the judging
are those of `experiments.scope`: cifar_resnet20, 10,000 images of CIFAR-10-J75 at 16×16, the last epoch on
10,000 other training images, so that nothing is chosen.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import typer
from torch import nn

from akgp.models import build
from akgp.params import Network
from akgp.pruning import prune
from akgp.training import Objective, cross_entropy, train
from experiments.defaults import taught
from experiments.resumable import Row, complete, markdown, spread
from experiments.scope import EXAMPLE, SEEDS, SIDE, settings, sources

RESULTS = Path("results/when-to-prune")
EPOCHS = 48
MACS = 0.5


@dataclass(frozen=True)
class Run:
    """dense_epochs: of the dense network by labels; 0: it is not trained, its half is, by labels."""

    seed: int
    dense_epochs: int

    @property
    def half_epochs(self) -> int:
        """What the rest of the time is enough for."""
        asked = 1 if self.dense_epochs else 0
        return round((EPOCHS - self.dense_epochs) * 3 / (3 * MACS + asked))


def plan() -> Iterator[Run]:
    """Seed by seed, the dense network that takes all of the time first."""
    yield from (Run(seed, epochs) for seed in SEEDS for epochs in (EPOCHS, 24, 12, 6, 36, 0))


def measured(run: Run) -> Row:
    """Top-1 of the dense network, None if it was not trained, and of what is kept in the end, %."""
    torch.manual_seed(run.seed)
    dense = build(
        Network(architecture="cifar_resnet20"), num_classes=10, in_channels=3, image_size=(SIDE, SIDE)
    )
    dense_top1 = top1 = None
    if run.dense_epochs:
        dense_top1 = top1 = trained(dense, run.dense_epochs, cross_entropy(), run.seed)
    if run.half_epochs:
        half = copy.deepcopy(prune(dense.eval(), EXAMPLE, macs=MACS, scope="inside").model)
        objective = taught(dense) if run.dense_epochs else cross_entropy()
        top1 = trained(half, run.half_epochs, objective, run.seed)
    return {"dense_top1": dense_top1, "val_top1": top1}


def trained(model: nn.Module, epochs: int, objective: Objective, seed: int) -> float:
    """The accuracy of the last epoch, %."""
    rows = [
        epoch.row
        for epoch in train(model, *sources(seed), params=settings(epochs), objective=objective, seed=seed)
    ]
    return float(rows[-1]["val_top1"])


ABOUT = """# When to prune

`AKGP_CIFAR10=DIR python -m experiments.when_to_prune`, see the head of that file: cifar_resnet20, 10,000
images of CIFAR-10-J75 at 16×16; all lines cost as much as {epochs} epochs of the dense network. It is trained
by labels, then pruned to half of its MACs and teaches its half (at 0.3, temperature 2). Validation top-1 of
the last epochs, %, mean ± standard error over the seeds (how many); minutes of one thread, mean. {machines}.
Runs of the plan: {done} of {planned}.

| epochs of the dense network | and of its half | dense | in the end | minutes |
| --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: a way to share the time a line, the longest dense training first."""
    lines = []
    for epochs in sorted({row["dense_epochs"] for row in rows}, reverse=True):
        mine = [row for row in rows if row["dense_epochs"] == epochs]
        dense = spread([row["dense_top1"] for row in mine]) if epochs else "not trained"
        minutes = sum(row["seconds"] for row in mine) / len(mine) / 60
        half = Run(0, epochs).half_epochs or "not pruned"
        cells = [epochs, half, dense, spread([row["val_top1"] for row in mine]), f"{minutes:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return markdown(ABOUT, rows, plan(), lines, epochs=EPOCHS)


def main() -> None:
    """Do the runs that results/when-to-prune/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
