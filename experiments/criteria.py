"""Pruning criteria at equal cost: what each leaves before the recovery, and after the same one.

`AKGP_CIFAR10=DIR python -m experiments.criteria` does every run of `plan` on one thread, seed by seed, and
writes results/criteria/table.json and table.md after each; started again, it does those that are missing;
`--network NAME` does those of one network. 10,000 images of CIFAR-10-J75 for the dense network, 5,000 of them
in random order for the recovery, which the dense network teaches (weight 0.3, temperature 2). All is judged
on 5,000 other training images, by the last epoch, so that nothing is chosen; no test split is read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from torch import nn

from akgp.data import Images, IndexedSource
from akgp.distillation import Distillation, Teacher, ask_teachers, frozen_teacher
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.evaluation import accuracy, predict_logits
from akgp.models import build
from akgp.params import Augment, Distill, Network, Training
from akgp.pruning import CRITERIA, prune
from akgp.pruning.evidence import Evidence, distillation_curvature
from akgp.pruning.group_criteria import BY_IMAGES, BY_NETWORK
from akgp.training import cross_entropy, train
from experiments import scope
from experiments.defaults import MEAN_STD, cifar10, save_weights, taught, weights_from
from experiments.resumable import Row, complete, markdown, spread

RESULTS, WEIGHTS = Path("results/criteria"), Path("runs/criteria")
IMAGES, RECOVERY, HELD_OUT, VALIDATION, JUDGED = 10_000, 5_000, 10_000, 5_000, 512
SIDES = {"cifar_resnet20": 16, "mobilenet_v2": 32, "resnet18": 32}
RATES = {"mobilenet_v2": 0.05}
"""Peak learning rates where the default, 0.2, is too high to learn in so few epochs."""
DENSE_EPOCHS, EPOCHS = 8, 2
SEEDS, MACS = (0, 1, 2), (0.5, 0.25)
NAMES = (*CRITERIA, *BY_IMAGES, *BY_NETWORK)


@dataclass(frozen=True)
class Run:
    network: str
    seed: int
    macs: float
    criterion: str


def plan() -> Iterator[Run]:
    for seed in SEEDS:
        for network in SIDES:
            for macs in MACS:
                yield from (Run(network, seed, macs, name) for name in NAMES)


@cache
def sources(network: str, seed: int) -> tuple[IndexedSource, IndexedSource]:
    """Training images, others for each seed, and the images on which all is judged."""
    every = cifar10(SIDES[network], HELD_OUT + len(SEEDS) * IMAGES)
    first = HELD_OUT + seed * IMAGES
    parts = torch.arange(first, first + IMAGES), torch.arange(VALIDATION)
    training, validation = (Images(every.pixels[part], every.labels[part]) for part in parts)
    return IndexedSource.of(training, *MEAN_STD[3]), IndexedSource.of(validation, *MEAN_STD[3])


def settings(network: str, epochs: int) -> Training:
    return Training(
        epochs=epochs, warmup_epochs=0.5, schedule="linear", keep="last", precision="fp32",
        learning_rate=RATES.get(network),
        augment=Augment(crop_padding=SIDES[network] // 8),
    )  # fmt: skip


def trained(network: str, seed: int) -> nn.Module:
    """The dense network: cifar_resnet20 that of `experiments.scope`, the others trained for fewer epochs."""
    if network == "cifar_resnet20":
        return scope.dense(seed)[0]
    torch.manual_seed(seed)
    side = SIDES[network]
    model = build(Network(architecture=network), num_classes=10, in_channels=3, image_size=(side, side))
    file = WEIGHTS / f"{network}-{seed}.pt"
    if not weights_from(file, model):
        params = settings(network, DENSE_EPOCHS)
        splits = sources(network, seed)
        for epoch in train(model, *splits, params=params, objective=cross_entropy(), seed=seed):
            print(network, seed, epoch.row, flush=True)
        save_weights(file, model)
    return model.eval()


@cache
def dense(network: str, seed: int) -> tuple[nn.Module, float]:
    """The trained dense network, not to be changed, and its accuracy, %."""
    model, (_, validation) = trained(network, seed), sources(network, seed)
    return model, accuracy(predict_logits(model, validation, device="cpu"), validation.labels)


def drawn(count: int) -> torch.Tensor:
    """Positions of `count` training images, drawn at random, always the same; fewer are the first of more."""
    return torch.randperm(IMAGES, generator=torch.Generator().manual_seed(0))[:count]


def evidence(criterion: str, model: nn.Module, images: IndexedSource) -> Evidence | None:
    """As the stage prune gives it: JUDGED training images at random."""
    if criterion not in BY_IMAGES:
        return None
    if criterion != "knowledge":
        return Evidence(list(images.take(drawn(JUDGED)).ordered(batch_size=64)), cross_entropy())
    params, taught_on = Distill(logit_adjustment="off"), images.take(drawn(RECOVERY))
    data = ask_teachers([Teacher([model])], None, taught_on, images.take(drawn(64)), images.take(drawn(2000)))
    run = Distillation(model, data, params, teachers=[frozen_teacher(model)])
    batches = list(run.images().take(torch.arange(JUDGED)).ordered(batch_size=64))
    return Evidence(batches, run.objective(), distillation_curvature(TEACHER_WEIGHT, params.temperature))


def measured(run: Run) -> dict[str, Any]:
    """Top-1 before and after the recovery, %; the dense network's; seconds of the scoring and cutting."""
    images, _ = sources(run.network, run.seed)
    (model, reference), side = dense(run.network, run.seed), SIDES[run.network]
    start = time.perf_counter()
    pruned = prune(
        model, torch.zeros(1, 3, side, side), macs=run.macs, criterion=run.criterion, round_to=4,
        seed=run.seed, evidence=evidence(run.criterion, model, images),
    ).model  # fmt: skip
    seconds = time.perf_counter() - start
    before, after = recovered(pruned, run.network, run.seed)
    return {"dense": reference, "before": before, "after": after, "prune_seconds": round(seconds, 1)}


def recovered(pruned: nn.Module, network: str, seed: int) -> tuple[float, float]:
    """Top-1 of a pruned network before and after the recovery, %, which trains it."""
    (images, validation), (teacher, _) = sources(network, seed), dense(network, seed)
    before = accuracy(predict_logits(pruned, validation, device="cpu"), validation.labels)
    params, objective = settings(network, EPOCHS), taught(teacher)
    taught_on = images.take(drawn(RECOVERY))
    rows = train(pruned, taught_on, validation, params=params, objective=objective, seed=seed)
    return before, [epoch.row["val_top1"] for epoch in rows][-1]


ABOUT = """# Pruning criteria at equal cost

By how much validation top-1 stays below the dense network's after the same short recovery, points; the mean
over the networks and shares of the MACs below, each the mean of its seeds:

{summary}

`knowledge`, ours, is best on average and loses least, or within the error of it, on MobileNetV2 and
ResNet-18. On ResNet-20 criteria by the weights alone do as well at half of the MACs and better at a quarter.

`AKGP_CIFAR10=DIR python -m experiments.criteria`, see the head of that file: 10,000 images of CIFAR-10-J75
(the dense cifar_resnet20 trained for 24 epochs at 16×16, the others for 8 at 32×32),
the MACs of all met within 2 %, two epochs over 5,000 of the images as recovery, taught by the dense network
at 0.3: short, so that what a criterion leaves can be told from what training brings back. Validation top-1 of
the last epoch, %, mean ± standard error over the seeds (how many). One thread, fp32,
busy (seconds are wall time). {machines}. Runs of the plan: {done} of {planned}.

taylor, obd and knowledge are weighed by what a filter costs. By the loss alone (the same runs of
cifar_resnet20 at commit e9514e0) they recovered to 64.55, 63.06 and 64.25 at half of the MACs, to
56.37, 55.30 and 57.07 at a quarter.

| network | MACs | criterion | before recovery | after | less than dense | seconds to prune |
| --- | --- | --- | --- | --- | --- | --- |
"""

Arms = dict[tuple[str, float, str], list[Row]]
"""Rows by network, share of the MACs and criterion."""


def summary(arms: Arms) -> str:
    """Markdown: of each criterion, over all networks and shares, the mean loss, the least first."""
    cells: dict[str, list[float]] = {}
    for (_, _, criterion), each in arms.items():
        cells.setdefault(criterion, []).append(mean(row["dense"] - row["after"] for row in each))
    losses = sorted((mean(every), criterion) for criterion, every in cells.items())
    names, values = (
        " | ".join(each) for each in zip(*((c, f"{loss:.1f}") for loss, c in losses), strict=True)
    )
    return f"| {names} |\n|{' --- |' * len(losses)}\n| {values} |"


def table(rows: list[Row]) -> str:
    """Markdown: a criterion a line, the best after the recovery first."""
    arms: Arms = {}
    for row in rows:
        arms.setdefault((row["network"], row["macs"], row["criterion"]), []).append(row)

    def rank(item: tuple[tuple[str, float, str], list[Row]]) -> tuple[str, float, float]:
        (network, macs, _), each = item
        return network, -macs, -mean(row["after"] for row in each)

    lines = []
    for (network, macs, criterion), each in sorted(arms.items(), key=rank):
        lost = [row["dense"] - row["after"] for row in each]
        cells = [
            network,
            f"{macs:g}",
            criterion,
            *(spread([row[key] for row in each]) for key in ("before", "after")),
        ]
        cells += [spread(lost), f"{mean(row['prune_seconds'] for row in each):.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return markdown(ABOUT, rows, plan(), lines, summary=summary(arms))


def main(
    network: Annotated[str | None, typer.Option(help="only the runs of this one")] = None,
) -> None:
    """Do the runs of the plan that results/criteria/table.json does not hold."""
    if network not in (None, *SIDES):
        raise typer.BadParameter(f"network: {network!r} is none of {', '.join(SIDES)}")
    complete(RESULTS, [run for run in plan() if network in (None, run.network)], measured, table)


if __name__ == "__main__":
    typer.run(main)
