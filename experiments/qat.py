"""What quantization-aware training gains over training as long in float, where int8 costs most.

`AKGP_CIFAR10=DIR python -m experiments.qat` prunes half of every layer's filters, recovers the student by
distillation from its own dense network (strategy akgp), and trains it on twice, in float and with int8's
rounding, for as many epochs; all three are quantized. ResNet-20, streams cut too (a quarter of the MACs), on
5,000 images of 16×16; MobileNetV3-small, from the weights of experiments.mobile, on 2,500 of 64×64. Of the
training images of CIFAR-10-J75 512 others calibrate, 2,000 choose the epochs that are kept, 5,000 judge; no
test split is read. Writes results/qat/table.json and table.md after each run; started again, it does those
that are missing.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import onnx
import torch
import typer
from torch import Tensor, nn

from akgp.data import IndexedSource
from akgp.distillation import Distillation, DistillationData, Teacher, ask_teachers
from akgp.evaluation import accuracy, predict_logits, runtime_logits
from akgp.models import build
from akgp.params import Augment, Distill, Network, Quantize, Training
from akgp.pruning import prune
from akgp.quantization import correct_biases, equalize, export_onnx, fake_quantized, quantize
from akgp.training import cross_entropy, train
from experiments import defaults, mobile
from experiments.resumable import Row, complete, markdown, spread

RESULTS = Path("results/qat")
RESNET, MOBILENET = "cifar_resnet20", "mobilenet_v3_small"
SIDE = {RESNET: 16, MOBILENET: 64}
EPOCHS = {RESNET: (10, 8, 3), MOBILENET: (0, 3, 2)}
"""Of the dense network (0: it is trained already), of the recovery, and of what follows."""
IMAGES = {RESNET: 5000, MOBILENET: 2500}
CALIBRATION, VALIDATION, JUDGING = 512, 2000, 5000
SEEDS = (0, 1)
RATE = 0.1
"""Peak of the recovery; a tenth of it afterwards."""


@dataclass(frozen=True)
class Run:
    network: str
    seed: int


@dataclass(frozen=True)
class Splits:
    training: IndexedSource
    calibration: IndexedSource
    validation: IndexedSource
    judging: IndexedSource


def plan() -> Iterator[Run]:
    for seed in SEEDS:
        yield from (Run(network, seed) for network in EPOCHS)


@functools.cache
def splits_of(network: str) -> Splits:
    if network == MOBILENET:  # its dense network was trained on the first, and not on the others
        training, others = mobile.sources()
    else:
        count = IMAGES[RESNET] + JUDGING + VALIDATION + CALIBRATION
        every = IndexedSource.of(defaults.cifar10(SIDE[RESNET], count), *defaults.MEAN_STD[3])
        training, others = (
            every.take(part) for part in torch.arange(count).split([IMAGES[RESNET], count - IMAGES[RESNET]])
        )
    parts = torch.arange(JUDGING + VALIDATION + CALIBRATION).split([JUDGING, VALIDATION, CALIBRATION])
    judging, validation, calibration = (others.take(part) for part in parts)
    return Splits(training.take(torch.arange(IMAGES[network])), calibration, validation, judging)


def training_of(network: str, epochs: int, rate: float) -> Training:
    return Training(
        epochs=epochs,
        batch_size=64,
        learning_rate=rate,
        warmup_epochs=1 if rate == RATE else 0,
        precision="fp32",
        augment=Augment(crop_padding=SIDE[network] // 8),
    )


def dense(run: Run, splits: Splits) -> nn.Module:
    if run.network == MOBILENET:
        return mobile.trained(MOBILENET, 0, *mobile.sources())
    torch.manual_seed(run.seed)
    model = build(Network(architecture=RESNET), num_classes=10, in_channels=3, image_size=(16, 16))
    params = training_of(RESNET, EPOCHS[RESNET][0], RATE)
    for _ in train(
        model,
        splits.training,
        splits.validation,
        params=params,
        objective=cross_entropy(),
        seed=run.seed,
    ):
        pass
    return model


def distilled(student: nn.Module, data: DistillationData, training: Training, seed: int) -> None:
    for _ in Distillation(student, data, Distill(training=training), seed=seed):
        pass


def measured(run: Run) -> Row:
    """Of the students top-1 on the images that judge, %, in float and as int8, and of two the difference."""
    splits = splits_of(run.network)
    teacher = dense(run, splits)
    teacher = teacher.to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, *splits.training.image_shape)
    student = prune(teacher, example, ratio=0.5, scope="all", round_to=4).model
    data = ask_teachers([Teacher([teacher])], None, splits.training, splits.validation, splits.calibration)
    _, recovery, longer = EPOCHS[run.network]
    distilled(student, data, training_of(run.network, recovery, RATE), run.seed)
    images = next(splits.calibration.ordered(batch_size=CALIBRATION)).inputs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranges = folder / "ranges.json"
        exported(student, images, folder / "float.onnx")
        quantize(folder / "float.onnx", images, Quantize(), folder / "start.onnx", ranges=ranges)
        networks = {"student": student}
        for way in ("control", "qat"):
            network = networks[way] = copy.deepcopy(student)
            start = onnx.load(str(folder / "start.onnx"))
            rounding = fake_quantized(network, start, images[:1])
            with rounding if way == "qat" else contextlib.nullcontext():
                distilled(network, data, training_of(run.network, longer, RATE / 10), run.seed)
        logits: dict[str, Tensor] = {}
        row: Row = {}
        for way, network in networks.items():
            file = folder / f"{way}.onnx"
            int8_of(network, images, file, ranges if way == "qat" else None)
            logits[way] = runtime_logits(file, splits.judging, threads=1)
            floating = predict_logits(network, splits.judging, device="cpu")
            row[f"{way}_float"] = accuracy(floating, splits.judging.labels)
            row[way] = accuracy(logits[way], splits.judging.labels)
            row[f"{way}_validation"] = accuracy(
                runtime_logits(file, splits.validation, threads=1), splits.validation.labels
            )
    right = {way: (each.argmax(1) == splits.judging.labels).double() for way, each in logits.items()}
    difference = 100 * (right["qat"] - right["control"])
    return row | {"error": float(difference.std() / len(difference) ** 0.5)}


def exported(network: nn.Module, images: Tensor, file: Path) -> None:
    with contextlib.redirect_stdout(None):
        export_onnx(network, images[:1], file)


def int8_of(network: nn.Module, images: Tensor, file: Path, ranges: Path | None) -> None:
    """As the stage writes it with `calibration: minmax`.

    With `ranges`, which were trained with, nothing is changed afterwards.
    """
    floating, params = file.with_suffix(".float.onnx"), Quantize(calibration="minmax")
    exported(network, images, floating)
    quantize(floating, images, params, file, ranges=ranges)
    if ranges is None:
        equalize(floating, images, params, file)
        correct_biases(floating, images, file)


KEYS = ("student_float", "student", "control_float", "control", "qat")


ABOUT = """# Quantization-aware training against training as long in float

`AKGP_CIFAR10=DIR python -m experiments.qat`, see the head of that file: half of the filters of every layer
removed, recovered by distillation, then trained on in float (control) and with int8's rounding (qat), all
with `calibration: minmax`. Top-1, %, of 5,000 images of CIFAR-10-J75 by which nothing was chosen; gain: of
qat over the control, points, ± the standard error of the difference over the images (last line: over the
seeds). One thread, fp32. {machines}. Runs of the plan: {done} of {planned}.

| network | seed | student, float | int8 | control, float | int8 | qat, int8 | gain |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""


def table(rows: list[Row]) -> str:
    lines = []
    for name in EPOCHS:
        mine = [row for row in rows if row["network"] == name]
        for row in mine:
            gain = f"{row['qat'] - row['control']:+.2f} ± {row['error']:.2f}"
            lines.append(_line(name, str(row["seed"]), [row[key] for key in KEYS], gain))
        if len(mine) > 1:
            means = [mean(row[key] for row in mine) for key in KEYS]
            lines.append(_line(name, "mean", means, spread([row["qat"] - row["control"] for row in mine])))
    return markdown(ABOUT, rows, plan(), lines)


def _line(name: str, seed: str, values: list[float], gain: str) -> str:
    return f"| {name} | {seed} | " + " | ".join(f"{value:.2f}" for value in values) + f" | {gain} |"


def main() -> None:
    """Do the runs of the plan that results/qat/table.json does not hold."""
    complete(RESULTS, plan(), measured, table)


if __name__ == "__main__":
    typer.run(main)
