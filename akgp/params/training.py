"""teacher and distill.training: how a network is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from akgp.params.base import Section


class Augment(Section):
    """Random changes of the training images, made on the device for a whole batch."""

    crop_padding: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="pixels of reflected border before a random crop; 0: none"
    )
    flip: bool = Field(True, description="mirror left-right half of the time")
    cutout: Annotated[int, Field(ge=0, le=512)] = Field(
        0, description="side of a random square set to the mean, pixels; 0: none"
    )


class Training(Section):
    """One training: SGD with Nesterov momentum, warm-up, then decay to zero."""

    epochs: Annotated[int, Field(ge=1)] = Field(20, description="passes over the training split")
    batch_size: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="images a step, over all workers together; null: the square root of the number of "
        "training images, as a power of two, 16 to 128",
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None,
        description="peak value; null: 0.2 · batch_size / 128, and a tenth of that from networks.*.weights",
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Nesterov")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        5e-4, description="L2; not applied to norms and biases"
    )
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(1.0, description="linear rise from zero")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="cosine | linear decay")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of each label spread over all classes"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay a step of the averaged weights that are kept; null: none"
    )
    keep: Literal["best", "balanced", "last"] = Field(
        "best",
        description="best | balanced (best by the mean over classes) | last epoch, on validation",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device computes in it, else fp32; fp16: GPU only"
    )
    sync_batch_norm: bool = Field(
        False, description="BatchNorm over the batch of all workers, not each one's own slice; GPUs only"
    )
    channels_last: bool = Field(
        True, description="memory format; not used by a network whose forward cannot take it"
    )
    compile: bool = Field(False, description="torch.compile; pays on long trainings only")
    cuda_graphs: bool = Field(
        False, description="replay the network's kernels: faster where it is small; one GPU, not with compile"
    )
    augment: Augment = Field(default_factory=Augment)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be below epochs ({self.epochs})")
        if self.compile and self.cuda_graphs:
            raise ValueError("compile and cuda_graphs are both true: at most one of them may be")
        return self
