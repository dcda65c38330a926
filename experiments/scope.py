"""Where to cut: inside the residual blocks or everywhere, at once or little by little, at equal cost.

`AKGP_CIFAR10=DIR python -m experiments.scope` trains every run of `plan` on one thread, seed by seed, and
writes results/scope/table.json and table.md after each; started again, it does those that are missing.
cifar_resnet20 on 10,000 images of CIFAR-10-J75 at 16×16, taught by its own dense network (weight 0.3,
temperature 2). All is judged on 10,000 other training images, by the last epoch, so that nothing is chosen;
no test split is read.
"""

from __future__ import annotations

import copy
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer
from torch import nn

from akgp.data import Images, IndexedSource
from akgp.evaluation import count, latency, speedup
from akgp.models import build
from akgp.params import Augment, Evaluate, Network, Quantize, Training
from akgp.pruning import prune
from akgp.quantization import export_onnx, quantize
from akgp.training import Schedule, cross_entropy, learning_rate_factor, train
from experiments.defaults import MEAN_STD, cifar10, save_weights, taught, weights_from
from experiments.resumable import Row, by_seed, complete, markdown, spread

RESULTS, WEIGHTS = Path("results/scope"), Path("runs/scope")
IMAGES, HELD_OUT, SIDE = 10_000, 10_000, 16
DENSE_EPOCHS, EPOCHS = 24, 16
SEEDS = (0, 1, 2)
EXAMPLE = torch.zeros(1, 3, SIDE, SIDE)

STEPS = {0.5: ((0.8, 1), (0.65, 1), (0.5, 13)), 0.25: ((0.6, 1), (0.4, 1), (0.25, 13))}
"""Iterative: share of the dense MACs, and epochs with it. An epoch costs three forward passes of the student
and one of the teacher: in all 38.9 dense passes an image at half of the MACs (40 at once), 27.8 at a quarter
(28)."""


@dataclass(frozen=True)
class Run:
    """macs: share of the dense MACs that the student keeps; 1 is the dense network.

    schedule: at once or iterative; of the dense network, labels, or taught: a control that goes on from the
    trained dense network as students do, taught by it, without pruning.
    """

    seed: int
    macs: float = 1.0
    scope: str = "all"
    schedule: str = "at once"

    @property
    def steps(self) -> tuple[tuple[float, int], ...]:
        return STEPS[self.macs] if self.schedule == "iterative" else ((self.macs, EPOCHS),)


def plan() -> Iterator[Run]:
    """The runs, seed by seed: dense, inside over MACs, little by little, the control, everywhere."""
    for seed in SEEDS:
        yield Run(seed, schedule="labels")
        yield from (Run(seed, macs, "inside") for macs in (0.75, 0.5, 0.35, 0.25))
        yield from (Run(seed, macs, "inside", "iterative") for macs in STEPS)
        yield Run(seed, schedule="taught")
        yield from (Run(seed, macs, "all") for macs in STEPS)


def sources(seed: int) -> tuple[IndexedSource, IndexedSource]:
    """Training images, others for each seed, and the images on which all is judged."""
    every = cifar10(SIDE, HELD_OUT + len(SEEDS) * IMAGES)
    first = HELD_OUT + seed * IMAGES
    parts = torch.arange(first, first + IMAGES), torch.arange(HELD_OUT)
    training, validation = (Images(every.pixels[part], every.labels[part]) for part in parts)
    return IndexedSource.of(training, *MEAN_STD[3]), IndexedSource.of(validation, *MEAN_STD[3])


def settings(epochs: int) -> Training:
    return Training(
        epochs=epochs, warmup_epochs=min(1.0, epochs / 2), schedule="linear", keep="last", precision="fp32",
        augment=Augment(crop_padding=SIDE // 8),
    )  # fmt: skip


def dense(seed: int) -> tuple[nn.Module, float]:
    """The trained dense network and its accuracy, %."""
    torch.manual_seed(seed)
    model = build(
        Network(architecture="cifar_resnet20"), num_classes=10, in_channels=3, image_size=(SIDE, SIDE)
    )
    file, accuracy = WEIGHTS / f"dense-{seed}.pt", WEIGHTS / f"dense-{seed}.json"
    if not (accuracy.exists() and weights_from(file, model)):
        epochs = train(
            model, *sources(seed), params=settings(DENSE_EPOCHS), objective=cross_entropy(), seed=seed
        )
        top1 = [epoch.row["val_top1"] for epoch in epochs][-1]
        save_weights(file, model)
        accuracy.write_text(json.dumps(top1), encoding="utf-8")
    return model.eval(), float(json.loads(accuracy.read_text(encoding="utf-8")))


def part_of(done: int, total: int) -> Schedule:
    """The learning rate of a phase that begins after `done` of `total` epochs: one decay over all phases."""
    whole = settings(total)
    return lambda step, steps, _: learning_rate_factor(done * steps + step, steps, whole)


def student(run: Run) -> tuple[nn.Module, float]:
    """The recovered student and its accuracy, %."""
    teacher, _ = dense(run.seed)
    objective, model, done = taught(teacher), teacher, 0
    macs, total = count(teacher, EXAMPLE).macs, sum(epochs for _, epochs in run.steps)
    for share, epochs in run.steps:
        keep = share * macs / count(model, EXAMPLE).macs
        # 4 on the way and for other budgets: at a quarter the narrowest layers inside lose 12 of 16.
        round_to = 8 if share == run.macs == 0.5 else 4
        model = copy.deepcopy(model)
        if share < 1:
            model = prune(model, EXAMPLE, macs=keep, scope=run.scope, round_to=round_to).model
        rows = train(
            model, *sources(run.seed), params=settings(epochs), objective=objective,
            seed=run.seed + 100 * done, schedule=part_of(done, total),
        )  # fmt: skip
        top1 = [epoch.row["val_top1"] for epoch in rows][-1]
        done += epochs
    return model.eval(), top1


def measured(run: Run) -> dict[str, Any]:
    """Accuracy, %; cost as shares of the dense network's: MACs, parameters, latency of the int8 graph."""
    reference, dense_top1 = dense(run.seed)
    model, top1 = reference, dense_top1
    if run.schedule != "labels":
        model, top1 = student(run)
    before, after = count(reference, EXAMPLE), count(model, EXAMPLE)
    return {
        "val_top1": top1,
        "dense_top1": dense_top1,
        "macs_share": round(after.macs / before.macs, 4),
        "params_share": round(after.params / before.params, 4),
        "latency_share": round(int8_latency(model, reference, run.seed), 3) if run.macs < 1 else 1.0,
    }


def int8_latency(model: nn.Module, reference: nn.Module, seed: int) -> float:
    """The int8 graph's latency at batch 1 as a share of the dense network's, timed in the same rounds.

    Both are without the channels of zeros with which the stage quantize makes them faster.
    """
    inputs = next(sources(seed)[1].ordered(batch_size=32)).inputs
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, network in (("model", model), ("reference", reference)):
            floating, files[name] = Path(folder) / f"{name}-float.onnx", Path(folder) / f"{name}.onnx"
            with redirect_stdout(io.StringIO()):
                export_onnx(network, inputs, floating)
            quantize(floating, inputs, Quantize(), files[name])
        times = latency(files, (1, 3, SIDE, SIDE), Evaluate(), seed)
    return float(speedup(times["model"], times["reference"]).median)


ABOUT = """# Where to cut, and how often

`AKGP_CIFAR10=DIR python -m experiments.scope`, see the head of that file: cifar_resnet20, 10,000 images of
CIFAR-10-J75 at 16×16, 16 epochs taught by the dense network at 0.3 (dense: 24 by labels; taught: 16 more,
as the students). Validation top-1 of the last epoch, %, mean ± standard error over the seeds (how many), each
of those that two machines have the mean of both; shares of the dense network's MACs, parameters and int8
latency (batch 1, same rounds; by machine, in their order), without the channels of zeros that the stage
quantize adds. One thread, fp32.
{machines}. Runs of the plan: {done} of {planned}.

| MACs | scope | how | top-1 | less than dense | MACs | params | int8 latency |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    """Markdown: an arm a line, with its distance to the dense network that it was made of."""
    arms: dict[tuple[float, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        arms.setdefault((row["macs"], row["scope"], row["schedule"]), []).append(row)
    lines = []
    for (macs, scope, schedule), each in sorted(
        arms.items(), key=lambda item: (-item[0][0], item[0][2], item[0][1])
    ):
        name = ("dense", "", schedule) if macs == 1 else (f"{macs:g}", scope, schedule)
        top1 = by_seed((row["seed"], row["val_top1"]) for row in each)
        lost = by_seed((row["seed"], row["dense_top1"] - row["val_top1"]) for row in each)
        shares = [f"{mean(row[f'{key}_share'] for row in each):.3f}" for key in ("macs", "params")]
        times = ", ".join(
            _latency(each, machine) for machine in dict.fromkeys(row["machine"] for row in rows)
        )
        cells = [*name, spread(top1), spread(lost), *shares, times]
        lines.append("| " + " | ".join(cells) + " |")
    return markdown(ABOUT, rows, plan(), lines)


def _latency(rows: list[Row], machine: str) -> str:
    """The mean share on a machine, a dash if none of the rows is of it."""
    shares = [row["latency_share"] for row in rows if row["machine"] == machine]
    return f"{mean(shares):.3f}" if shares else "–"


def main() -> None:
    """Train the runs of the plan that results/scope/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
