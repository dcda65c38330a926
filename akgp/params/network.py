"""networks.*: how a dense network is built."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, model_validator

from akgp.params.base import Address, Section

CIFAR_RESNETS = {f"cifar_resnet{depth}": depth for depth in (8, 14, 20, 32, 44, 56, 110)}


class Network(Section):
    """A dense network: how it is built and, if it is trained already, from where it is taken."""

    architecture: Annotated[str, Field(min_length=1)] = Field(
        description="cifar_resnet8|14|20|32|44|56|110, a torchvision classifier, or module:function"
    )
    widths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, description="cifar_resnet only: channels of its three stages; null: 16, 32, 64"
    )
    weights: str | None = Field(
        None, description="torchvision only: pretrained weights to start from, such as DEFAULT"
    )
    checkpoint: Address | None = Field(
        None, description="a trained network instead of training: safetensors or state dict; path or s3://"
    )
    finetune: bool = Field(
        False,
        description="start the training from the checkpoint, which may have been trained on other classes",
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="of its new weights and the batches of its training; null: as the seed of all"
    )

    mean: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None,
        description="of each channel of its images, in units of 255; null: as weights need it, else as the "
        "training images have it",
    )
    std: tuple[Annotated[float, Field(gt=0, le=1)], ...] | None = Field(
        None, description="standard deviation likewise; a trained network needs those it was trained with"
    )

    @property
    def trained(self) -> bool:
        """Whether it is taken as it is, without a training."""
        return self.checkpoint is not None and not self.finetune

    @property
    def pretrained(self) -> bool:
        """Whether its training starts from weights that were trained on other images."""
        return self.weights is not None or self.finetune

    @model_validator(mode="after")
    def _fits_architecture(self) -> Self:
        if re.fullmatch(r"cifar_resnet\d+", self.architecture) and self.architecture not in CIFAR_RESNETS:
            names = ", ".join(CIFAR_RESNETS)
            raise ValueError(f"architecture must be one of {names}, got {self.architecture!r}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must both be given, or neither")
        if self.widths is not None and self.architecture not in CIFAR_RESNETS:
            raise ValueError(f"widths is for {', '.join(CIFAR_RESNETS)} only, not {self.architecture!r}")
        if self.widths is not None and len(self.widths) != 3:
            raise ValueError(f"widths must be three numbers, got {list(self.widths)}")
        if self.finetune and self.checkpoint is None:
            raise ValueError("finetune needs a checkpoint to start from, got null")
        if self.checkpoint is not None and self.weights is not None:
            raise ValueError("checkpoint and weights are both given: at most one of them may be")
        if self.weights is not None and (self.architecture in CIFAR_RESNETS or ":" in self.architecture):
            raise ValueError(f"weights is for torchvision networks only, not {self.architecture!r}")
        return self
