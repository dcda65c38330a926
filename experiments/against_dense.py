"""An int8 network of half of the MACs against its dense one, trained in the best of several ways.

`AKGP_CIFAR10=DIR python -m experiments.against_dense` trains every run of `plan` on one thread, seed by seed,
and writes results/against-dense/table.json and table.md after each; started again, it resumes after the last
epoch. cifar_resnet20 on the 10,000 images of CIFAR-10-J75 at 16×16 that `experiments.scope` has for the seed.
The dense network is trained by labels in several ways, of which 10,000 other training images choose one; that
one is pruned, and taught by one or two networks of four times the MACs that were trained on the same images.
As a second control these also teach the dense one, for as many epochs. Last epochs are kept, all are
quantized (`calibration: minmax`), and the test split judges int8 files in onnxruntime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from torch import nn

from akgp.data import Images, IndexedSource
from akgp.distillation import Distillation, Teacher, ask_teachers
from akgp.evaluation import accuracy, count, predict_logits, runtime_logits
from akgp.models import build
from akgp.params import Distill, Network, Training
from akgp.pruning import prune
from akgp.training import Epoch, cross_entropy, train
from experiments.ablation import calibration
from experiments.defaults import MEAN_STD, cifar10, save_weights, weights_from
from experiments.qat import int8_of
from experiments.resumable import Row, complete, markdown, spread
from experiments.scope import EXAMPLE, SEEDS, SIDE, settings, sources
from experiments.weighting.learning import finished

RESULTS, WEIGHTS = Path("results/against-dense"), Path("runs/against-dense")
CALIBRATION = 512
VIEWS = 64
WATCHED = 2000
"""Validation images that are looked at after each epoch, to be printed; nothing is chosen by them."""
State = dict[str, Any] | None


@dataclass(frozen=True)
class Arm:
    """How a network is trained.

    taught_by: the arms of wide networks; none: by labels alone.
    macs: the share of the dense network's that is kept.
    """

    epochs: int
    taught_by: tuple[str, ...] = ()
    macs: float = 1.0
    mixup: bool = False
    wide: bool = False

    @property
    def training(self) -> Training:
        params = settings(self.epochs)
        mixed = {"mixup": 1.0, "mix_share": 0.5} if self.mixup else {}
        return params.model_copy(update={"augment": params.augment.model_copy(update=mixed)})

    @property
    def views(self) -> int | None:
        """Of each image, about which teachers are asked; None: in each step, as mixed images need it."""
        return None if self.mixup else VIEWS


BOTH = ("teacher", "patient teacher")
DENSE = {
    "32 epochs": Arm(32),
    "64 epochs": Arm(64),
    "128 epochs": Arm(128),
    "128 epochs, half of the images mixed": Arm(128, mixup=True),
}
ARMS = DENSE | {
    "teacher": Arm(64, mixup=True, wide=True),
    "half": Arm(128, ("teacher",), macs=0.5),
    "half, half of the images mixed": Arm(128, ("teacher",), macs=0.5, mixup=True),
    "patient teacher": Arm(192, mixup=True, wide=True),
    # A budget is met within 2 %, and no more than half may stay.
    "half, mixed, patient teacher": Arm(128, ("patient teacher",), macs=0.49, mixup=True),
    "half, patient teacher": Arm(128, ("patient teacher",), macs=0.49),
    "half, both teachers": Arm(128, BOTH, macs=0.49),
    "dense, both teachers": Arm(128, BOTH),
    "three quarters, both teachers": Arm(128, BOTH, macs=0.75),
    "a third, both teachers": Arm(128, BOTH, macs=0.35),
    "a quarter, both teachers": Arm(128, BOTH, macs=0.25),
}


@dataclass(frozen=True)
class Run:
    seed: int
    arm: str


def plan(seeds: tuple[int, ...] = SEEDS) -> Iterator[Run]:
    """Seed by seed: the dense networks, of which one is chosen, before what is made of it."""
    yield from (Run(seed, arm) for seed in seeds for arm in ARMS)


@cache
def test() -> IndexedSource:
    every = cifar10(SIDE, 10_000, "test")
    return IndexedSource.of(Images(every.pixels, every.labels), *MEAN_STD[3])


def network(arm: Arm, seed: int) -> nn.Module:
    """Before its training."""
    torch.manual_seed(seed)
    widths = (32, 64, 128) if arm.wide else None
    return build(
        Network(architecture="cifar_resnet20", widths=widths),
        num_classes=10, in_channels=3, image_size=(SIDE, SIDE),
    )  # fmt: skip


def trained(seed: int, name: str) -> nn.Module:
    """The network of an arm, in eval mode; trained once, and resumed after the last epoch."""
    arm, file = ARMS[name], WEIGHTS / f"{seed} {name}.pt"
    model = of_dense(seed, arm) if arm.taught_by else network(arm, seed)
    if not weights_from(file, model):
        start = by_teacher if arm.taught_by else by_labels
        finished(partial(start, model, seed, name), file.with_suffix(".checkpoint"))
        save_weights(file, model)
    return model.eval()


def by_labels(model: nn.Module, seed: int, name: str, state: State) -> Iterator[Epoch]:
    arm, (images, validation) = ARMS[name], watched(seed)
    for epoch in train(
        model, images, validation, params=arm.training, objective=cross_entropy(), seed=seed, state=state
    ):
        print(seed, name, epoch.row, flush=True)
        yield epoch


def by_teacher(model: nn.Module, seed: int, name: str, state: State) -> Iterator[Epoch]:
    """By akgp, its weights of the teachers measured: by what wide networks know beside the dense one."""
    arm = ARMS[name]
    *teachers, dense = (Teacher([trained(seed, each)]) for each in (*arm.taught_by, chosen(seed)))
    data = ask_teachers(teachers, dense, *watched(seed), calibration())
    params = Distill(training=arm.training, teacher_views=arm.views)
    for epoch in Distillation(model, data, params, seed=seed, state=state):
        print(seed, name, epoch.row, flush=True)
        yield epoch


def of_dense(seed: int, arm: Arm) -> nn.Module:
    """The dense network of the seed, or what is left of it."""
    dense = trained(seed, chosen(seed))
    return prune(dense, EXAMPLE, macs=arm.macs, scope="inside", round_to=4).model if arm.macs < 1 else dense


@cache
def chosen(seed: int) -> str:
    """The way to train the dense network that is best on the validation images."""
    validation = sources(seed)[1]
    return max(DENSE, key=lambda name: top1(trained(seed, name), validation))


def watched(seed: int) -> tuple[IndexedSource, IndexedSource]:
    images, validation = sources(seed)
    return images, validation.take(torch.arange(WATCHED))


def top1(model: nn.Module, source: IndexedSource) -> float:
    return accuracy(predict_logits(model, source, device="cpu"), source.labels)


def measured(run: Run) -> Row:
    """Top-1, %, on validation and test images; MACs as a share of the dense network's."""
    model, (_, validation) = trained(run.seed, run.arm), sources(run.seed)
    images = next(calibration().ordered(batch_size=CALIBRATION)).inputs
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        int8_of(model, images, file, None)
        logits = runtime_logits(file, test(), threads=1)
    return {
        "val_top1": top1(model, validation),
        "test_top1": top1(model, test()),
        "int8_test_top1": accuracy(logits, test().labels),
        "macs_share": round(count(model, EXAMPLE).macs / count(network(Arm(1), 0), EXAMPLE).macs, 4),
    }


ABOUT = """# Half of a network in int8 against the whole one at its best

`AKGP_CIFAR10=DIR python -m experiments.against_dense`, see the head of that file: cifar_resnet20, 10,000
images of CIFAR-10-J75 at 16×16. The dense network is trained by labels in {ways} ways; above it: the test
accuracy of the same seed's way that the validation images like best ({best}), in float, is subtracted.
Teachers have four times the MACs and learn by labels, half of the images mixed ({epochs} epochs); all others
are made of that dense network and taught for {taught} epochs. Top-1, %, mean ± standard error over the seeds
(how many). One thread, fp32. {machines}. Runs of the plan: {done} of {planned}.

| network | MACs | validation | test | test, int8 | int8 above dense |
| --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: an arm a line, in the plan's order."""
    seeds = dict.fromkeys(row["seed"] for row in rows)
    best = {seed: best_of(seed, rows) for seed in seeds}
    lines = []
    for name in ARMS:
        mine = [row for row in rows if row["arm"] == name]
        if mine:
            above = [row["int8_test_top1"] - best[row["seed"]]["test_top1"] for row in mine]
            columns = [[row[key] for row in mine] for key in ("val_top1", "test_top1", "int8_test_top1")]
            cells = [name, f"{mean(row['macs_share'] for row in mine):.2f}", *map(spread, (*columns, above))]
            lines.append("| " + " | ".join(cells) + " |")
    said = "; ".join(f"seed {seed}: {row['arm']}" for seed, row in best.items())
    epochs = " or ".join(f"{ARMS[name].epochs}" for name in ("teacher", "patient teacher"))
    values = {"ways": len(DENSE), "best": said, "epochs": epochs, "taught": ARMS["half"].epochs}
    return markdown(ABOUT, rows, plan(), lines, **values)


def best_of(seed: int, rows: list[Row]) -> Row:
    """The row of the dense network that validation images choose."""
    return max((row for row in rows if row["seed"] == seed and row["arm"] in DENSE),
               key=lambda row: row["val_top1"])  # fmt: skip


def main(
    seeds: Annotated[int, typer.Option(help="How many, from --first.")] = len(SEEDS),
    first: Annotated[int, typer.Option(help="The first of the seeds.")] = 0,
) -> None:
    """Do the runs of these seeds that results/against-dense/table.json does not hold."""
    complete(RESULTS, plan(SEEDS[first : first + seeds]), measured, table)


if __name__ == "__main__":
    typer.run(main)
