"""Trains the half of MobileNetV3-small that `benchmarks.routes` measures.

    AKGP_CIFAR10=DIR python -m benchmarks.routes.half_mobile

The dense network is experiments.mobile's, of seed 0. Half of the filters of each layer are cut, and the rest
is distilled from it on the same images. A checkpoint after each epoch; started again, it resumes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from akgp.models import Spec, create
from akgp.params import Augment, Training
from akgp.pruning import prune
from akgp.training import train
from experiments.defaults import taught
from experiments.mobile import SIDE, WEIGHTS, sources, trained

NAME = "mobilenet_v3_small"
FILE = Path("runs/routes") / f"{NAME}-half.pt"
RATIO, EPOCHS = 0.5, 6


def networks() -> tuple[nn.Module, nn.Module]:
    """The dense network and its half, with the weights of the last epochs that are done."""
    dense = _with_weights(create(Spec(NAME, 10, 3)), WEIGHTS / f"{NAME}-0.pt")
    return dense, _with_weights(_half_of(dense), FILE)


def _half_of(dense: nn.Module) -> nn.Module:
    return prune(dense, torch.zeros(2, 3, SIDE, SIDE), ratio=RATIO).model


def _with_weights(model: nn.Module, file: Path) -> nn.Module:
    model.load_state_dict(torch.load(file, weights_only=True)["kept"])
    return model.eval()


def main() -> None:
    """Train what is not trained yet of the dense network, then of its half."""
    torch.set_num_threads(1)
    images, validation = sources()
    dense = trained(NAME, 0, images, validation).eval()
    params = Training(epochs=EPOCHS, keep="last", precision="fp32", augment=Augment(crop_padding=SIDE // 8))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    state = torch.load(FILE, weights_only=True) if FILE.exists() else None
    for epoch in train(
        _half_of(dense), images, validation, params=params, objective=taught(dense), seed=0, state=state
    ):
        torch.save(epoch.state, FILE)
        print(epoch.row, flush=True)


if __name__ == "__main__":
    main()
