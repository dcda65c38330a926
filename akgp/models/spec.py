"""What a network is called, and the error about networks; nothing is built here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


class ModelError(ValueError):
    """A network cannot be built or a checkpoint not be loaded; the message says what to change."""


@dataclass(frozen=True)
class Spec:
    """What builds a network's skeleton; a pruned network keeps the spec of its dense one."""

    architecture: str
    num_classes: int
    in_channels: int


TAG = "akgp_spec"


def tag(model: nn.Module, spec: Spec) -> None:
    """Let `model` carry what built it; copies carry it too."""
    setattr(model, TAG, spec)


def spec_of(model: nn.Module) -> Spec | None:
    """The spec of a network that was built here, else None."""
    return getattr(model, TAG, None)


def model_name(model: nn.Module) -> str:
    """What to call a network in a message."""
    return spec.architecture if (spec := spec_of(model)) else type(model).__name__
