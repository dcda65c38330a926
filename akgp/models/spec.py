"""The spec that identifies a network, and the error about networks; nothing is built here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


class ModelError(ValueError):
    """A network can't be built or a checkpoint can't be loaded; the message says what to change."""


@dataclass(frozen=True)
class Spec:
    """The arguments that build a network; a pruned network keeps the spec of its dense one."""

    architecture: str  # cifar_resnetN, a name of torchvision, or module:function
    num_classes: int
    in_channels: int


TAG = "akgp_spec"


def tag(model: nn.Module, spec: Spec) -> None:
    """Attach its spec to `model`; copies keep it."""
    setattr(model, TAG, spec)


def spec_of(model: nn.Module) -> Spec | None:
    """The spec of a network that akgp.models built, else None."""
    return getattr(model, TAG, None)


def model_name(model: nn.Module) -> str:
    """The name of a network in messages."""
    return spec.architecture if (spec := spec_of(model)) else type(model).__name__
