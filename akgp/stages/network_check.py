"""Checks of the networks in params.yaml that need no computation: they import, build, fit their checkpoints.

akgp's CIFAR ResNets without a checkpoint need no check, unless their modules are named: torch is imported
only for the others. Checks that take a forward pass or an export are in `dry_run`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from akgp.params import CIFAR_RESNETS, Network, Params
from akgp.stages.module_names import check_module_names, names_modules
from akgp.stages.network_files import located, sources
from akgp.workspace import StageError, Workspace

if TYPE_CHECKING:
    from torch import nn

GUESSED_CLASSES = 10
"""Number of classes where the images are not prepared yet; then a checkpoint is only read, not compared."""


def check(params: Params, root: Path) -> None:
    """Build every network and read its checkpoint, if any; compare both once the images are prepared.

    Modules that params.yaml names are looked for in their network.

    Raises:
        StageError: a network is wrong; the message names it and the reason.
    """
    for name, network in params.networks.items():
        named = names_modules(name, params)
        if network.checkpoint or network.architecture not in CIFAR_RESNETS or named:
            try:
                # A network of the user's own may read files by relative paths.
                with contextlib.chdir(root):
                    model = _check(network, root, Workspace(root), 1 if params.data.color == "gray" else 3)
            except ValueError as error:  # of models, data and ours
                raise StageError(
                    f"networks.{name}.{error}" if _named(error) else f"networks.{name}: {error}"
                ) from error
            if named:
                try:
                    check_module_names(model, name, params)
                except StageError as error:
                    raise StageError(f"networks.{name}: {error}") from None


def _named(error: ValueError) -> bool:
    """Whether the message begins with the name of a network's parameter."""
    return str(error).partition(":")[0] in Network.model_fields


def _check(network: Network, root: Path, workspace: Workspace, channels: int) -> nn.Module:
    from akgp import models
    from akgp.data import read_summary
    from akgp.models.building import trained_weights

    sources(network, root)  # before a network that may be large is built
    known = read_summary(workspace.data) if (workspace.data / "summary.json").exists() else None
    model = models.build(
        network.model_copy(update={"weights": None}),  # which may have to be downloaded
        num_classes=len(known.classes) if known else GUESSED_CLASSES,
        in_channels=known.channels if known else channels,
        image_size=known.image_size if known else None,
    )
    if network.weights is not None:
        trained_weights(network.architecture, network.weights)
    if network.checkpoint and known:
        models.load_checkpoint(model, located(network.checkpoint, root), other_classes=network.finetune)
    elif network.checkpoint:
        models.read_checkpoint(located(network.checkpoint, root))
    return model
