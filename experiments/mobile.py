"""What int8 costs mobile networks, with bias correction and without.

`AKGP_CIFAR10=DIR python -m experiments.mobile` trains each network of NETWORKS from nothing on one thread,
seed by seed, quantizes it, and writes results/mobile/table.json and table.md after each; started again, it
resumes after the last epoch. 10,000 images of CIFAR-10-J75, enlarged to 64×64; all is judged on 10,000 other
training images, with the last epoch's weights; no test split is read.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data import Images, IndexedSource
from akgp.evaluation import accuracy, predict_logits, runtime_logits
from akgp.io.atomic import atomic_file
from akgp.models import build
from akgp.params import Augment, Network, Quantize, Training
from akgp.quantization import average_ranges, correct_biases, export_onnx, quantize
from akgp.training import cross_entropy, train
from experiments.defaults import MEAN_STD, cifar10
from experiments.resumable import Row, complete, markdown

RESULTS, WEIGHTS = Path("results/mobile"), Path("runs/mobile")
NETWORKS, SEEDS = ("mobilenet_v3_small", "efficientnet_b0"), (0, 1, 2)
IMAGES, HELD_OUT, SIDE = 10_000, 10_000, 64
TRAINING: dict[str, dict[str, Any]] = {
    "mobilenet_v3_small": {"epochs": 16},
    "efficientnet_b0": {"epochs": 8, "optimizer": "adamw"},  # by SGD it had 18 % after three epochs
}

ABOUT = """# What int8 costs mobile networks

`AKGP_CIFAR10=DIR python -m experiments.mobile`, see the head of that file: trained from nothing on 10,000
images of CIFAR-10-J75 at 64×64, calibrated with 512 of them, judged on 10,000 other training images. Ranges
are those of `calibration: auto`: EfficientNet-B0 had 13.03 % in int8 by the extremes of all images.
Agreement: share of these images that int8 classifies as the float network does.
{machines}. Runs of the plan: {done} of {planned}.

| network | seed | float, % | int8, % | agreement, % | corrected, % | agreement, % | kept |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Run:
    network: str
    seed: int


def plan() -> Iterator[Run]:
    for seed in SEEDS:
        yield from (Run(name, seed) for name in NETWORKS)


def sources() -> tuple[IndexedSource, IndexedSource]:
    """Training images, and those on which all is judged."""
    every = cifar10(32, HELD_OUT + IMAGES)
    larger = [F.interpolate(part.float(), (SIDE, SIDE), mode="bilinear") for part in every.pixels.split(1000)]
    pixels = torch.cat([part.round().to(torch.uint8) for part in larger])
    parts = torch.arange(HELD_OUT, HELD_OUT + IMAGES), torch.arange(HELD_OUT)
    training, validation = (Images(pixels[part], every.labels[part]) for part in parts)
    return IndexedSource.of(training, *MEAN_STD[3]), IndexedSource.of(validation, *MEAN_STD[3])


def trained(name: str, seed: int, images: IndexedSource, validation: IndexedSource) -> nn.Module:
    """The trained network; a checkpoint after every epoch."""
    torch.manual_seed(seed)
    model = build(Network(architecture=name), num_classes=10, in_channels=3, image_size=(SIDE, SIDE))
    file = WEIGHTS / f"{name}-{seed}.pt"
    state = torch.load(file, weights_only=True) if file.exists() else None
    params = Training(
        **TRAINING[name], keep="last", precision="fp32", augment=Augment(crop_padding=SIDE // 8)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    for epoch in train(
        model, images, validation, params=params, objective=cross_entropy(0.1), seed=seed, state=state
    ):
        with atomic_file(file) as beside:
            torch.save(epoch.state, beside)
        print(name, seed, epoch.row, flush=True)
    return model


def measured(run: Run, images: IndexedSource, validation: IndexedSource) -> Row:
    """Top-1 of the float network and of both int8 files, and how far these agree with it, %."""
    model = trained(run.network, run.seed, images, validation)
    calibration = next(images.ordered(batch_size=512)).inputs
    floating = predict_logits(model, validation, device="cpu")
    row: Row = {"float": accuracy(floating, validation.labels)}
    with tempfile.TemporaryDirectory() as folder:
        source, plain, corrected = (Path(folder) / f"{each}.onnx" for each in ("float", "int8", "corrected"))
        with redirect_stdout(io.StringIO()):
            export_onnx(model, calibration[:1], source)
        quantize(source, calibration, Quantize(), plain)
        average_ranges(source, calibration, Quantize(), plain)
        shutil.copy(plain, corrected)
        row |= vars(correct_biases(source, calibration, corrected))
        for file in (plain, corrected):
            logits = runtime_logits(file, validation, threads=1)
            row[file.stem] = accuracy(logits, validation.labels)
            row[f"{file.stem}_agreement"] = agreement(logits, floating)
    return row


def agreement(logits: Tensor, others: Tensor) -> float:
    return 100 * float((logits.argmax(1) == others.argmax(1)).float().mean())


def table(rows: list[Row]) -> str:
    """Markdown: a network a line, and the mean over the seeds of each."""
    keys = ("float", "int8", "int8_agreement", "corrected", "corrected_agreement")
    lines = []
    for name in NETWORKS:
        mine = [row for row in rows if row["network"] == name]
        for row in mine:
            cells = [
                name,
                str(row["seed"]),
                *(f"{row[key]:.2f}" for key in keys),
                "yes" if row["kept"] else "no",
            ]
            lines.append("| " + " | ".join(cells) + " |")
        if len(mine) > 1:
            means = [f"**{mean(row[key] for row in mine):.2f}**" for key in keys]
            lines.append("| " + " | ".join([name, "mean", *means, ""]) + " |")
    return markdown(ABOUT, rows, plan(), lines)


def main() -> None:
    """Train and measure what results/mobile/table.json does not hold."""
    splits = sources()
    complete(RESULTS, plan(), lambda run: measured(run, *splits), table)


if __name__ == "__main__":
    typer.run(main)
