"""Trains the halves of mobile networks that `benchmarks.routes` measures.

    AKGP_CIFAR10=DIR python -m benchmarks.routes.half_mobile [NETWORK …]

The dense networks are experiments.mobile's, of seed 0. Half of the filters of each layer are cut, and the
rest is distilled from it on the same images. A checkpoint after each epoch; started again, it resumes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from akgp.io.atomic import atomic_file
from akgp.models import Spec, create
from akgp.params import Augment, Training
from akgp.pruning import prune
from akgp.training import train
from experiments.defaults import taught
from experiments.mobile import NETWORKS, SIDE, TRAINING, WEIGHTS, sources, trained

RATIO, EPOCHS = 0.5, 6


def dense_file(name: str) -> Path:
    return WEIGHTS / f"{name}-0.pt"


def half_file(name: str) -> Path:
    return Path("runs/routes") / f"{name}-half.pt"


def networks(name: str) -> tuple[nn.Module, nn.Module]:
    """The dense network and its half, with the weights of the last epochs that are done."""
    dense = dense_network(name)
    return dense, _with_weights(_half_of(dense), half_file(name))


def dense_network(name: str) -> nn.Module:
    return _with_weights(create(Spec(name, 10, 3)), dense_file(name))


def _half_of(dense: nn.Module) -> nn.Module:
    return prune(dense, torch.zeros(2, 3, SIDE, SIDE), ratio=RATIO).model


def _with_weights(model: nn.Module, file: Path) -> nn.Module:
    model.load_state_dict(torch.load(file, weights_only=True)["kept"])
    return model.eval()


def main(names: Annotated[list[str] | None, typer.Argument(metavar="NETWORK")] = None) -> None:
    """Train what is not trained yet of the dense networks, then of their halves."""
    torch.set_num_threads(1)
    images, validation = sources()
    for name in names or NETWORKS:
        params = Training(
            **(TRAINING[name] | {"epochs": EPOCHS}),
            keep="last",
            precision="fp32",
            augment=Augment(crop_padding=SIDE // 8),
        )
        dense, file = trained(name, 0, images, validation).eval(), half_file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        state = torch.load(file, weights_only=True) if file.exists() else None
        for epoch in train(
            _half_of(dense), images, validation, params=params, objective=taught(dense), seed=0, state=state
        ):
            with atomic_file(file) as beside:
                torch.save(epoch.state, beside)
            print(name, epoch.row, flush=True)


if __name__ == "__main__":
    typer.run(main)
