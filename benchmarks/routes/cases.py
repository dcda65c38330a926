"""The networks that are sent down every route, and the images that they are calibrated with and judged on.

Trained ones are taken from where their trainings left them, see `TRAINED`; of the others the weights are
initialized (seed 0) and the BatchNorm statistics measured on images, which makes their logits vary.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp import artifacts
from akgp.data import Images, IndexedSource, Preprocessing, read_split, read_summary
from akgp.deployment.agreement import Oracle, oracle
from akgp.deployment.package import align, write_metadata
from akgp.deployment.targets import Int8File
from akgp.deployment.timing_twin import timing_twin
from akgp.evaluation import predict_logits
from akgp.models import Spec, create
from akgp.params import Quantize
from akgp.pruning import prune
from akgp.quantization import average_ranges, correct_biases, equalize, export_onnx, quantize
from akgp.runtimes import RUNTIMES
from akgp.workspace import Workspace
from benchmarks.routes import half_mobile
from experiments.defaults import MEAN_STD, cifar10
from experiments.mobile import HELD_OUT, SIDE

RUNS = Path("runs/routes")
CALIBRATION, CALIBRATION_UNTRAINED = 256, 64
JUDGED, JUDGED_UNTRAINED = 2000, 128
"""The first so many images: for trained networks, and for those that are only initialized."""
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Case:
    """A network before and after pruning; `folder` receives the files that are made of it."""

    dense: nn.Module
    student: nn.Module
    images: IndexedSource
    calibration: Tensor
    preprocessing: Preprocessing
    trained: bool
    folder: Path

    @property
    def shape(self) -> tuple[int, ...]:
        return (1, *self.calibration.shape[1:])

    @cached_property
    def dense_file(self) -> Path:
        return self._float(self.dense, "dense")

    @cached_property
    def float_file(self) -> Path:
        return self._float(self.student, "student")

    def _float(self, model: nn.Module, name: str) -> Path:
        file = self.folder / f"{name}.onnx"
        with redirect_stdout(io.StringIO()):
            export_onnx(model.cpu(), torch.zeros(self.shape), file)
        return file

    @cached_property
    def int8(self) -> Int8File:
        """The student as the stage quantize makes it, with the defaults of its parameters."""
        file, floating, params = self.folder / "int8.onnx", self.folder / "equalized.onnx", Quantize()
        floating.write_bytes(self.float_file.read_bytes())  # which equalization changes
        quantize(floating, self.calibration, params, file)
        averaged = average_ranges(floating, self.calibration, params, file)
        if averaged and averaged.kept:
            params = Quantize(calibration="averaged")
        equalize(floating, self.calibration, params, file)
        correct_biases(floating, self.calibration, file)
        align(file, RUNTIMES["onnxruntime"])
        write_metadata(file, self.preprocessing, None)
        return Int8File(file)

    @cached_property
    def exact(self) -> Oracle:
        return oracle(self.int8, self.images)

    @cached_property
    def float_logits(self) -> Tensor:
        return predict_logits(self.student, self.images, device="cpu")

    @cached_property
    def dense_twin(self) -> Int8File:
        return timing_twin(self.dense, self.shape[1:], self.folder)


def of_workspace(name: str, folder: Path) -> Case:
    """The student of a finished pipeline, judged on its test split."""
    workspace = Workspace(RUNS / name)
    summary = read_summary(workspace.data)

    def split(each: str) -> IndexedSource:
        return IndexedSource.of(read_split(workspace.data, each), summary.mean, summary.std)

    calibration = split("calibration")
    order = torch.randperm(len(calibration), generator=torch.Generator().manual_seed(0))
    inputs = next(calibration.take(order[:CALIBRATION]).ordered(batch_size=CALIBRATION)).inputs
    dense, student = artifacts.load(workspace.dense("resnet20")), artifacts.load(workspace.student)
    images = split("test").take(torch.arange(JUDGED))
    return Case(dense.eval(), student.eval(), images, inputs, summary, True, folder)


def enlarged(first: int, count: int, side: int) -> IndexedSource:
    """Training images of CIFAR-10-J75 by position in the permutation of `cifar10`, in another size."""
    part = cifar10(32, HELD_OUT + CALIBRATION).take(torch.arange(first, first + count))
    larger = F.interpolate(part.pixels.float(), (side, side), mode="bilinear").round().to(torch.uint8)
    return IndexedSource.of(Images(larger, part.labels), *MEAN_STD[3])


def calibration(side: int, count: int = CALIBRATION) -> Tensor:
    return next(enlarged(HELD_OUT, count, side).ordered(batch_size=count)).inputs


def preprocessing(side: int) -> Preprocessing:
    mean, std = MEAN_STD[3]
    return Preprocessing(classes=CLASSES, image_size=(side, side), channels=3, mean=mean, std=std)


def mobile(name: str, folder: Path) -> Case:
    """A network as experiments.mobile trains it: not pruned, judged on its held-out images."""
    model = half_mobile.dense_network(name)
    return Case(model, model, enlarged(0, JUDGED, SIDE), calibration(SIDE), preprocessing(SIDE), True, folder)


def half_of_mobile(name: str, folder: Path) -> Case:
    """The same network, and its half, distilled from it."""
    dense, half = half_mobile.networks(name)
    return Case(dense, half, enlarged(0, JUDGED, SIDE), calibration(SIDE), preprocessing(SIDE), True, folder)


def initialized(architecture: str, folder: Path, side: int = SIDE) -> Case:
    """A network with random weights, and half of the filters of each of its layers."""
    torch.manual_seed(0)
    inputs = calibration(side, CALIBRATION_UNTRAINED)
    dense = with_statistics(create(Spec(architecture, 10, 3)), inputs)
    student = with_statistics(prune(dense, inputs[:1], ratio=0.5).model, inputs)
    images = enlarged(0, JUDGED_UNTRAINED, side)
    return Case(dense, student, images, inputs, preprocessing(side), False, folder)


@torch.no_grad()
def with_statistics(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The network in eval mode, its BatchNorm statistics the mean over batches of images."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    model.eval()
    for norm in norms:  # and these alone: dropout and stochastic depth leave other activations than in use
        norm.train()
    for batch in inputs.split(64):
        model(batch)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return model.eval()


CASES: Mapping[str, Callable[[Path], Case]] = {
    "half ResNet-20": lambda folder: of_workspace("half-resnet20", folder),
    "ResNet-20, half of the MACs": lambda folder: of_workspace("resnet20", folder),
    "ResNet-20, two blocks bypassed": lambda folder: of_workspace("small-resnet20", folder),
    "half ResNet-18": lambda folder: initialized("resnet18", folder),
    "MobileNetV3-small": lambda folder: mobile("mobilenet_v3_small", folder),
    "half MobileNetV3-small": lambda folder: half_of_mobile("mobilenet_v3_small", folder),
    "EfficientNet-B0": lambda folder: mobile("efficientnet_b0", folder),
    "half EfficientNet-B0": lambda folder: half_of_mobile("efficientnet_b0", folder),
    "half ShuffleNet v2": lambda folder: initialized("shufflenet_v2_x1_0", folder),
    "half DenseNet-121": lambda folder: initialized("densenet121", folder),
    "half Swin V2-T": lambda folder: initialized("swin_v2_t", folder),
}
TRAINED: Mapping[str, Path] = {
    "half ResNet-20": RUNS / "half-resnet20",
    "ResNet-20, half of the MACs": RUNS / "resnet20",
    "ResNet-20, two blocks bypassed": RUNS / "small-resnet20",
    "MobileNetV3-small": half_mobile.dense_file("mobilenet_v3_small"),
    "half MobileNetV3-small": half_mobile.half_file("mobilenet_v3_small"),
    "EfficientNet-B0": half_mobile.dense_file("efficientnet_b0"),
    "half EfficientNet-B0": half_mobile.half_file("efficientnet_b0"),
}
"""What must be there for a case."""
