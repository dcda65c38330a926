"""Images a second that augmentation makes: ours, torchvision's image by image, and Kornia's in batches.

`python -m benchmarks.speed.augmentation` times all in interleaved rounds on one thread, by the processor's
time, which a busy machine hardly changes, and writes results/speed/augmentation.json and augmentation.md.
Kornia is no dependency: it is left out where it is not installed. All return uint8 or float images of the
size that they are given.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from akgp.data.augmentation import augmented, draw
from akgp.data.mixing import mixed_pixels
from akgp.params import Augment
from experiments.machine import described

RESULTS = Path("results/speed")
SIZES = {32: 128, 224: 16}
"""Pixels a side, and images in a batch."""
ROUNDS = 9

STILL: dict[str, Any] = {"crop_padding": 0, "flip": False}
KINDS: dict[str, Augment] = {
    "crop and flip": Augment(),
    "resized crop": Augment(resized_crop=0.08, flip=False),
    "colour jitter": Augment(color_jitter=0.4, **STILL),
    "TrivialAugment": Augment(policy="trivial", **STILL),
    "erasing": Augment(erasing=1.0, **STILL),
    "mixup": Augment(mixup=1.0, **STILL),
    "CutMix": Augment(cutmix=1.0, **STILL),
}

Run = Callable[[Tensor], object]


def ours(params: Augment) -> Run:
    generator = torch.Generator().manual_seed(0)

    def run(pixels: Tensor) -> object:
        size = (pixels.shape[2], pixels.shape[3])
        changed = augmented(pixels, params, draw(params, len(pixels), size, generator))
        return mixed_pixels(changed, params, generator) if params.mixes else changed

    return run


def torchvisions(side: int) -> dict[str, Run]:
    """Transforms of single images; mixup and CutMix have one λ and one rectangle a batch there."""
    from torchvision.transforms import v2

    single = {
        "crop and flip": v2.Compose(
            [v2.RandomCrop(side, 4, padding_mode="reflect"), v2.RandomHorizontalFlip()]
        ),
        "resized crop": v2.RandomResizedCrop(side),
        "colour jitter": v2.ColorJitter(0.4, 0.4, 0.4),
        "TrivialAugment": v2.TrivialAugmentWide(),
        "erasing": v2.RandomErasing(1.0),
    }
    mixing = {"mixup": v2.MixUp(num_classes=10), "CutMix": v2.CutMix(num_classes=10)}

    def one_by_one(transform: Any) -> Run:
        return lambda pixels: torch.stack([transform(image) for image in pixels])

    def whole(transform: Any) -> Run:
        return lambda pixels: transform(pixels.float(), torch.arange(len(pixels)) % 10)

    return {name: one_by_one(each) for name, each in single.items()} | {
        name: whole(each) for name, each in mixing.items()
    }


def kornias(side: int) -> dict[str, Run]:
    if importlib.util.find_spec("kornia") is None:
        return {}
    K: Any = importlib.import_module("kornia.augmentation")
    crop = K.RandomCrop((side, side), padding=4, padding_mode="reflect")
    modules = {
        "crop and flip": torch.nn.Sequential(crop, K.RandomHorizontalFlip()),
        "resized crop": K.RandomResizedCrop((side, side)),
        "colour jitter": K.ColorJitter(0.4, 0.4, 0.4, p=1.0),
        "TrivialAugment": K.auto.TrivialAugment(),
        "erasing": K.RandomErasing(p=1.0),
        "mixup": K.RandomMixUpV2(p=1.0),
        "CutMix": K.RandomCutMixV2(p=1.0),
    }

    def scaled(module: Any) -> Run:
        return lambda pixels: module(pixels.float() / 255)

    return {name: scaled(module) for name, module in modules.items()}


def measured() -> list[dict[str, Any]]:
    """Images a second of every kind by every library, the median of the rounds."""
    rows = []
    for side, count in SIZES.items():
        pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
        libraries = {"ours": {name: ours(params) for name, params in KINDS.items()}}
        libraries |= {"torchvision": torchvisions(side), "kornia": kornias(side)}
        for kind in KINDS:
            runs = {name: each[kind] for name, each in libraries.items() if kind in each}
            rates: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(ROUNDS + 1):  # the first one warms up
                for name, run in runs.items():
                    start = time.process_time()
                    run(pixels)
                    rates[name].append(count / (time.process_time() - start))
            rates = {name: each[1:] for name, each in rates.items()}
            rows.append({"side": side, "kind": kind} | {
                name: round(statistics.median(each)) for name, each in rates.items()
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]], machine: str) -> str:
    lines = [
        "# Augmentation, images a second", "",
        f"`python -m benchmarks.speed.augmentation`, {machine}; one thread, processor time, median",
        f"of {ROUNDS} interleaved rounds; batches of 128 images at 32 pixels, 16 at 224. Torchvision's",
        "transforms draw for one image at a time, its mixup and CutMix for a batch (one share, one box);",
        "Kornia's TrivialAugment chooses one operation for a batch.", "",
        "| pixels | kind | ours | torchvision v2 | Kornia |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in rows:
        cells = [f"{row[name]:,}" if name in row else "" for name in ("ours", "torchvision", "kornia")]
        lines.append(f"| {row['side']} | {row['kind']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", VERDICT])


VERDICT = """\
At 32 pixels ours is five to fourteen times as fast as torchvision's, which draws for one image at a time,
and mostly faster than Kornia; for mixup and CutMix, which torchvision does for a whole batch, it is 3.4 and
1.7 times as fast as ours. At 224 torchvision is faster throughout, by 1.3 to 3.7 times. Ours is kept for
both: it draws for every image yet computes for the whole batch on its device, where a GPU would wait for
each image's small kernels, and it draws on the processor, so that any device, number of workers and resumed
run gives the same images. What this costs of a training step at 224 has not been measured. Equalize and
autocontrast are torchvision's.
"""


def main() -> None:
    """Measure, and write results/speed/augmentation.json and .md."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, machine = measured(), described()
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"machine": machine, "rows": rows}, indent=1)
    (RESULTS / "augmentation.json").write_text(content + "\n", encoding="utf-8")
    (RESULTS / "augmentation.md").write_text(table(rows, machine), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
