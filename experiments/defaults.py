"""Which batch size and learning rate suit how many training images; and a training from trained weights.

`AKGP_CIFAR10=DIR python -m experiments.defaults` trains every run of `plan` on one thread, one after the
other, and writes results/defaults/table.json and table.md after each; started again, it does those that are
missing. All is judged on validation images: 2,000 of CIFAR-10-J75's (719 digits), none of them trained on; no
test split is read. So that a processor suffices, cifar_resnet20 has half of its channels and sees CIFAR-10's
images at half their resolution, and 40,000 images are seen for 4 epochs only.
"""

from __future__ import annotations

import functools
import io
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data import Batch, Images, IndexedSource
from akgp.distillation import distillation_loss, frozen_teacher
from akgp.io.atomic import atomic_file
from akgp.models import build
from akgp.params import Augment, Network, Training
from akgp.pruning import prune
from akgp.training import Objective, TrainingError, cross_entropy, train
from experiments.resumable import Row, complete, markdown

RESULTS = Path("results/defaults")
WEIGHTS = Path("runs/defaults")
HELD_OUT = 2000
EPOCHS = {600: 20, 1078: 20, 5000: 10, 40000: 4}
MEAN_STD = {3: ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262)), 1: ((0.306,), (0.376,))}
SIDE = {"cifar_resnet20": 16, "shufflenet_v2_x0_5": 32}
WIDTHS = {"cifar_resnet20": (8, 16, 32)}


@dataclass(frozen=True)
class Run:
    """images: of training, 1078 are the digits; rate: learning rate for a batch of 128, scaled linearly.

    start: scratch; transfer: from weights trained on the five other classes; student: a network trained on
    the same images, without half of its filters, taught by it (weight 0.3).
    """

    network: str
    images: int
    batch: int
    rate: float
    seed: int = 0
    start: str = "scratch"

    @property
    def learning_rate(self) -> float:
        return self.rate * self.batch / 128

    @property
    def training(self) -> Training:
        digits = self.images == 1078
        padding = 1 if digits else SIDE[self.network] // 8
        return Training(
            epochs=EPOCHS[self.images],
            batch_size=self.batch,
            learning_rate=self.learning_rate,
            augment=Augment(crop_padding=padding, flip=not digits),
        )


def plan() -> Iterator[Run]:
    """The runs, those first that say most."""
    resnet, shuffle = SIDE
    yield from (Run(resnet, 600, batch, 0.2) for batch in (128, 32, 16, 64))
    yield from (Run(resnet, 1078, batch, 0.2) for batch in (32, 128, 64, 16))
    yield from (Run(resnet, 5000, batch, 0.2) for batch in (64, 128, 32))
    yield from (Run(shuffle, 600, batch, 0.2) for batch in (32, 128, 16))
    yield from (Run(resnet, 40000, batch, 0.2) for batch in (128, 64))
    yield from (Run(resnet, 600, 32, rate) for rate in (0.1, 0.4))
    yield from (Run(resnet, 600, batch, 0.2, 1) for batch in (128, 32, 16, 64))
    yield from (Run(resnet, 600, 32, rate, 0, "student") for rate in (0.2, 0.06, 0.02))
    yield from (Run(shuffle, 1078, batch, 0.2) for batch in (64, 128, 32))
    yield from (Run(shuffle, 5000, batch, 0.2) for batch in (128, 32))
    yield from (Run(shuffle, 40000, batch, 0.2) for batch in (128, 64))
    yield from (Run(resnet, 600, 32, rate, 0, "transfer") for rate in (0.2, 0.06, 0.02))
    yield from (Run(resnet, 1078, batch, 0.2, 1) for batch in (32, 128, 64, 16))
    yield from (Run(resnet, 5000, batch, 0.2, 1) for batch in (64, 128, 32))
    yield from (Run(shuffle, 600, batch, 0.2, 1) for batch in (32, 128, 16))
    yield from (Run(resnet, 5000, 64, rate) for rate in (0.1, 0.4))
    yield from (Run(resnet, 40000, batch, rate) for batch, rate in ((256, 0.2), (128, 0.1), (128, 0.4)))
    yield from (Run(resnet, 600, 32, rate, 1, "student") for rate in (0.2, 0.06, 0.02))
    yield from (Run(resnet, 600, 32, rate, 1, "transfer") for rate in (0.2, 0.06, 0.02))


@functools.cache
def cifar10(side: int, count: int, split: str = "train") -> Images:
    """The first `count` of CIFAR-10-J75's training (50,000) or test images (10,000) in a fixed order."""
    import numpy as np
    import pyarrow.parquet as parquet
    from PIL import Image

    (file,) = Path(os.environ["AKGP_CIFAR10"]).glob(f"{split}*.parquet")
    table = parquet.read_table(file)
    labels, images = (next(n for n in table.column_names if n.startswith(key)) for key in ("label", "im"))
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:count]
    table = table.take(order.numpy())
    cells = table[images].to_pylist()
    contents = (cell["bytes"] if isinstance(cell, dict) else cell for cell in cells)
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(each)))) for each in contents])
    pixels = pixels.permute(0, 3, 1, 2)
    if side != 32:
        halves = [
            F.avg_pool2d(part.float(), 32 // side).round().to(torch.uint8) for part in pixels.split(5000)
        ]
        pixels = torch.cat(halves)
    return Images(pixels.contiguous(), torch.tensor(table[labels].to_pylist()))


@functools.cache
def digits() -> Images:
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = torch.tensor(found.images * 255 / 16).round().to(torch.uint8)[:, None]
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    return Images(pixels[order], torch.tensor(found.target)[order])


def splits(run: Run, classes: range = range(10)) -> tuple[Images, Images]:
    """Training and validation images of the run, of these classes, labelled from 0."""
    if run.images == 1078:
        every = digits()
        if run.network not in WIDTHS:  # torchvision's take three channels
            every = Images(every.pixels.expand(-1, 3, -1, -1), every.labels)
        return every.take(torch.arange(1078)), every.take(torch.arange(1078, len(every)))
    every = cifar10(SIDE[run.network], 50_000 if run.images > 5000 else 18_000)
    index = ((every.labels >= classes.start) & (every.labels < classes.stop)).nonzero()[:, 0]
    every = every.take(index)
    every = Images(every.pixels, every.labels - classes.start)
    first = HELD_OUT + 2000 * run.seed
    return every.take(torch.arange(first, first + run.images) % len(every)), every.take(
        torch.arange(HELD_OUT)
    )


def built(run: Run, classes: int, channels: int, side: int) -> nn.Module:
    torch.manual_seed(run.seed)
    network = Network(architecture=run.network, widths=WIDTHS.get(run.network))
    return build(network, num_classes=classes, in_channels=channels, image_size=(side, side))


def trained(model: nn.Module, run: Run, training: Training, images: Images, validation: Images,
            objective: Objective) -> float:  # fmt: skip
    """The validation accuracy of the epoch that is kept, %."""
    splits = (IndexedSource.of(each, *MEAN_STD[each.pixels.shape[1]]) for each in (images, validation))
    epochs = train(model, *splits, params=training, objective=objective, seed=run.seed)
    return max(epoch.row["val_top1"] for epoch in epochs)


def measured(run: Run) -> Row:
    """Validation top-1, %; None where the training diverges."""
    try:
        return {"val_top1": top1(run)}
    except TrainingError:
        return {"val_top1": None}


def top1(run: Run) -> float:
    if run.start == "transfer":
        return transferred(run)
    images, validation = splits(run)
    model = built(run, 10, *images.pixels.shape[1:3])
    if run.start == "scratch":
        return trained(model, run, run.training, images, validation, cross_entropy())
    teaching = Run(run.network, run.images, run.batch, 0.2, run.seed).training
    file = WEIGHTS / f"teacher-{run.network}-{run.images}-{run.batch}-{run.seed}.pt"
    if not weights_from(file, model):
        trained(model, run, teaching, images, validation, cross_entropy())
        save_weights(file, model)
    student = prune(model, torch.zeros(2, *images.pixels.shape[1:]), ratio=0.5).model
    return trained(student, run, run.training, images, validation, taught(model))


def transferred(run: Run) -> float:
    """A network trained on 20,000 images of five classes goes on with few of the other five."""
    before = Run(run.network, 20000, 128, 0.2)
    images, validation = splits(before, range(5, 10))
    model = built(before, 5, *images.pixels.shape[1:3])
    training = run.training.model_copy(update={"epochs": 4, "batch_size": 128, "learning_rate": 0.2})
    file = WEIGHTS / f"others-{run.network}.pt"
    if not weights_from(file, model):
        trained(model, before, training, images, validation, cross_entropy())
        save_weights(file, model)
    new = built(run, 5, *images.pixels.shape[1:3]).state_dict()
    head = {name: weight for name, weight in new.items() if name.startswith(("fc.", "linear."))}
    model.load_state_dict(model.state_dict() | head)
    return trained(model, run, run.training, *splits(run, range(5)), cross_entropy())


def weights_from(file: Path, model: nn.Module) -> bool:
    """Whether there are weights in `file`; `model` has them then."""
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
    return file.exists()


def save_weights(file: Path, model: nn.Module) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as beside:
        torch.save(model.state_dict(), beside)


def taught(teacher: nn.Module) -> Objective:
    answer = frozen_teacher(teacher)

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        return distillation_loss(logits, answer(batch), batch.labels, teacher_weight=0.3, temperature=2.0)

    return objective


ABOUT = """# Batch size and learning rate by the number of images

`AKGP_CIFAR10=DIR python -m experiments.defaults`, see the head of that file: validation top-1, %, of the kept
epoch; mean over the seeds (how many). Rows: images a step; columns: learning rate for 128 images, scaled
linearly with the batch. One thread, fp32. {machines}. Runs of the plan: {done} of {planned}.

The rule (`akgp/params/training_defaults.py`), the power of two nearest the square root of the images,
takes 32, 32, 64 and 128 images a step for the four sizes, at 0.2: best, or within a point of the best,
but for ShuffleNet with 600 images (16 is 1.5 points better) and the ResNet with 40,000 and 4 epochs (64:
1.3 points). A student learns best at the whole rate, as the rule has it. From trained weights the rule
takes a tenth; here, where these are of 4 epochs on five other classes, that is 4 points worse than the
whole rate and 3 worse than 0.3 of it. Weights of a long training on many images, for which a tenth is
usual, were not at hand.
"""


def table(rows: list[Row]) -> str:
    """Markdown: for each network, number of images and start the accuracies by batch and rate."""
    found: dict[tuple[str, int, str], dict[tuple[int, float], list[float | None]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        cells = found[row["network"], row["images"], row["start"]]
        cells[row["batch"], row["rate"]].append(row["val_top1"])
    lines: list[str] = []
    for (network, images, start), cells in sorted(found.items(), key=lambda item: (item[0][2], item[0])):
        rates = sorted({rate for _, rate in cells})
        lines += ["", f"## {network}, {images:,} images, {EPOCHS[images]} epochs, {start}", ""]
        lines.append("| batch | " + " | ".join(f"{rate:g}" for rate in rates) + " |")
        lines.append("| --- " * (len(rates) + 1) + "|")
        for batch in sorted({batch for batch, _ in cells}):
            said = (_said(cells.get((batch, rate), [])) for rate in rates)
            lines.append(f"| {batch} | " + " | ".join(said) + " |")
    return markdown(ABOUT, rows, plan(), lines)


def _said(values: list[float | None]) -> str:
    """Their mean (how many), and how many diverged."""
    known = [value for value in values if value is not None]
    said = [f"{mean(known):.1f} ({len(known)})"] if known else []
    diverged = len(values) - len(known)
    return ", ".join([*said, *([f"{diverged} diverged"] if diverged else [])])


def main() -> None:
    """Train the runs of the plan that results/defaults/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
