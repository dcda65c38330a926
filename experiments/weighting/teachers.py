"""Data, teachers and the pruned student of a setting: made once, read by all of its cells."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import BatchSource, Images, IndexedSource, Summary, prepare, read_split, read_summary
from akgp.data.corruptions import CIFAR10_FLIPS, asymmetric_noise, flip_targets
from akgp.distillation import folds
from akgp.io.atomic import atomic_directory
from akgp.models import cifar_resnet
from akgp.params import Regime, Training
from akgp.pruning import prune
from akgp.training import cross_entropy, train
from experiments.weighting.design import Design, folder_name
from experiments.weighting.learning import device, finished, fitting

DENSE, PRUNED = "dense", "pruned"
LARGE = (20, (32, 64, 128))
"""Depth and widths of the network `large`."""
OTHERS = 20_000
"""Images from which the network `strong` learns."""


@dataclass(frozen=True)
class ReferenceRun:
    """Where a regime's data and networks with one teacher seed lie, and what its splits hold."""

    design: Design
    root: Path
    regime: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.root / folder_name(self.regime, self.seed)

    @property
    def summary(self) -> Summary:
        return read_summary(self.folder / "data")

    def split(self, name: str) -> Images:
        return read_split(self.folder / "data", name)

    def batches(self, images: Images) -> BatchSource:
        """The images in the normalisation of the data."""
        return IndexedSource.of(images, self.summary.mean, self.summary.std)

    def network(self, name: str) -> nn.Module:
        return artifacts.load(self.folder / name)

    def networks_of(self, teacher: str) -> list[list[str]]:
        """The names of the networks of each teacher: one, or a fold's each."""
        if teacher == "cross-fitted":
            return [[f"fold-{k}" for k in range(self.design.folds)]]
        if teacher in ("several", "unequal"):
            return [[DENSE], ["weak"], ["biased" if teacher == "several" else "strong"]]
        return [[DENSE if teacher == "in-sample" else teacher]]

    def names(self) -> list[str]:
        """All dense networks; the student's own is the first."""
        teachers = [setting.teacher for setting in self.design.settings if setting.regime == self.regime]
        needed = (name for teacher in teachers for names in self.networks_of(teacher) for name in names)
        return list(dict.fromkeys((DENSE, *needed)))

    def folds(self) -> Tensor:
        return folds(self.split("train").labels, self.design.folds, self.seed)


def make(at: ReferenceRun) -> None:
    """Prepare the data, train the dense networks, prune one of them; what exists is left as it is."""
    with FileLock(f"{at.folder}.lock"):
        if not (at.folder / "data").exists():
            with atomic_directory(at.folder / "data") as new:
                prepare(at.design.data(at.regime), at.seed, new)
        for name in at.names():
            if not (at.folder / name).exists():
                network = _trained(at, name)
                with atomic_directory(at.folder / name) as new:
                    artifacts.save(network, new)
        if not (at.folder / PRUNED).exists():
            example = torch.zeros(1, 3, at.design.image_size, at.design.image_size)
            pruned = prune(
                at.network(DENSE), example, ratio=at.design.ratio, round_to=at.design.round_to
            ).model
            with atomic_directory(at.folder / PRUNED) as new:
                artifacts.save(pruned, new)


def _trained(at: ReferenceRun, name: str) -> nn.Module:
    torch.manual_seed(at.seed)
    depth, widths = LARGE if name == "large" else (at.design.depth, at.design.widths)
    network = cifar_resnet(depth, widths)
    images, validation = at.batches(_images(at, name)), at.batches(at.split("validation"))
    finished(
        lambda state: train(
            network,
            images,
            validation,
            params=fitting(Training.model_validate(at.design.teacher), at.design),
            objective=cross_entropy(),
            seed=at.seed,
            device=device(),
            state=state,
        ),
        at.folder / f"{name}.checkpoint",
    )
    return network.cpu()


def _images(at: ReferenceRun, name: str) -> Images:
    """What a dense network learns from: all training images, some of them, or with other labels."""
    images = at.split("train")
    if name.startswith("fold-"):
        return images.take(at.folds() != int(name.removeprefix("fold-")))
    if name == "weak":
        return images.take(folds(images.labels, 10, at.seed) == 0)
    if name == "strong":
        return _others(at)
    if name == "biased":
        targets = flip_targets(at.summary.classes, CIFAR10_FLIPS)
        flipped = asymmetric_noise(images.labels.numpy(), targets, 0.3, at.seed)
        return Images(images.pixels, torch.from_numpy(flipped))
    return images


def _others(at: ReferenceRun) -> Images:
    """Images of the source that are in none of the student's splits."""
    known = {
        pixels.tobytes()
        for split in ("train", "calibration", "validation", "test")
        for pixels in at.split(split).pixels.numpy()
    }
    data = at.design.data(at.regime)
    everything = data.model_copy(update={"regime": Regime()})
    with tempfile.TemporaryDirectory() as folder:
        prepare(everything, at.seed, Path(folder))
        images = read_split(Path(folder), "train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(at.seed)).tolist()
    others = [i for i in order if images.pixels[i].numpy().tobytes() not in known]
    return images.take(torch.tensor(others[:OTHERS]))
