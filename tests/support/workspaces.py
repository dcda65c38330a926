"""A small workspace: prepared digits, and dense networks that know nothing."""

from __future__ import annotations

from pathlib import Path

import torch

from akgp import artifacts, params
from akgp.data import prepare
from akgp.models import cifar_resnet


def digits_workspace(root: Path, networks: dict[str, tuple[int, int, int]]) -> Path:
    """`root` with the digits, and cifar_resnet8 of these widths below models/, seeded by their order."""
    (root / "data" / "prepared").mkdir(parents=True)
    prepare(params.Data(color="gray", splits=params.Splits(test=0.25)), 0, root / "data" / "prepared")
    for seed, (folder, widths) in enumerate(networks.items()):
        torch.manual_seed(seed)
        (root / "models" / folder).mkdir(parents=True)
        artifacts.save(cifar_resnet(8, widths, in_channels=1), root / "models" / folder)
    return root
