"""Data, teachers and the pruned student of a setting: made once, read by all of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from akgp import artifacts
from akgp.data import Images, Summary, prepare, read_split, read_summary
from akgp.data.regimes import CIFAR10_FLIPS, asymmetric_noise, flip_targets
from akgp.distillation import folds
from akgp.models import cifar_resnet
from akgp.params import Training
from akgp.pruning import prune
from akgp.stages.workspace import replaced
from akgp.training import cross_entropy, train
from experiments.weighting.design import (
    DEPTH,
    FOLDS,
    IMAGE_SIZE,
    RATIO,
    REGIMES,
    ROUND_TO,
    TEACHER,
    WIDTHS,
    data,
)

DENSE, PRUNED = "dense", "pruned"
KINDS = {"in-sample": (DENSE,), "cross-fitted": tuple(f"fold-{k}" for k in range(FOLDS))}


@dataclass(frozen=True)
class Bench:
    """Where a regime's data and networks with one teacher seed lie, and what its splits hold."""

    folder: Path
    seed: int

    @property
    def summary(self) -> Summary:
        return read_summary(self.folder / "data")

    def split(self, name: str) -> Images:
        return read_split(self.folder / "data", name)

    def network(self, name: str) -> nn.Module:
        return artifacts.load(self.folder / name)

    def teachers(self, kind: str) -> list[nn.Module]:
        """The networks that make up a teacher: one, or a fold's each."""
        return [self.network(name) for name in KINDS.get(kind, (kind,))]

    def folds(self) -> Tensor:
        return folds(self.split("train").labels, FOLDS, self.seed)


def bench(folder: Path, regime: str, seed: int) -> Bench:
    return Bench(folder / "-".join([*regime.replace("%", "").replace(":", "-").split(), str(seed)]), seed)


def names(regime: str) -> tuple[str, ...]:
    """All dense networks of a regime."""
    return (DENSE, *KINDS["cross-fitted"], *(("weak", "biased") if regime == "clean" else ()))


def make(at: Bench, regime: str) -> None:
    """Prepare the data, train the dense networks, prune one of them; what exists is left as it is."""
    assert regime in REGIMES
    if not (at.folder / "data").exists():
        with replaced(at.folder / "data") as new:
            prepare(data(regime), at.seed, new)
    for name in names(regime):
        if not (at.folder / name).exists():
            with replaced(at.folder / name) as new:
                artifacts.save(_trained(at, name), new)
    if not (at.folder / PRUNED).exists():
        example = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
        student = prune(at.network(DENSE), example, ratio=RATIO, round_to=ROUND_TO).model
        with replaced(at.folder / PRUNED) as new:
            artifacts.save(student, new)


def _trained(at: Bench, name: str) -> nn.Module:
    summary = at.summary
    torch.manual_seed(at.seed)
    network = cifar_resnet(DEPTH, WIDTHS)
    for _ in train(
        network,
        _images(at, name),
        at.split("validation"),
        mean=summary.mean,
        std=summary.std,
        params=Training.model_validate(TEACHER),
        objective=cross_entropy(),
        seed=at.seed,
    ):
        pass
    return network


def _images(at: Bench, name: str) -> Images:
    """What a dense network learns from: all training images, some of them, or with other labels."""
    images = at.split("train")
    if name in KINDS["cross-fitted"]:
        return images.take(at.folds() != int(name.removeprefix("fold-")))
    if name == "weak":
        return images.take(folds(images.labels, 10, at.seed) == 0)
    if name == "biased":
        targets = flip_targets(at.summary.classes, CIFAR10_FLIPS)
        flipped = asymmetric_noise(images.labels.numpy(), targets, 0.3, at.seed)
        return Images(images.pixels, torch.from_numpy(flipped))
    return images
