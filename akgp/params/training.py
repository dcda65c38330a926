"""teacher and distill.training: how a network is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from akgp.params.base import Section, Share

LARGEST_BATCH = 128
"""Of the batch sizes that follow from the number of images."""


class Augment(Section):
    """Random changes of the training images, made on the device for a whole batch."""

    crop_padding: Annotated[int, Field(ge=0, le=64)] = Field(
        4, description="pixels of reflected border before a random crop; 0: none"
    )
    flip: bool = Field(True, description="mirror left-right half of the time")
    resized_crop: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="instead of crop_padding: a random rectangle of this share of the area or more, enlarged "
        "to the whole; 0.08 is usual at 224; null: none",
    )
    color_jitter: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="brightness, contrast and saturation times 1 ± at most this; 0: none"
    )
    policy: Literal["none", "trivial"] = Field(
        "none", description="none | trivial (TrivialAugment: one of 14 operations, of random strength)"
    )
    erasing: Share = Field(
        0.0, description="share of the images with a random rectangle set to the mean; 0: none"
    )
    cutout: Annotated[int, Field(ge=0, le=512)] = Field(
        0, description="side of a random square set to the mean, pixels; 0: none"
    )
    mixup: Annotated[float, Field(ge=0, le=100)] = Field(
        0.0,
        description="α: two images are averaged with weights of Beta(α, α); 0: none. A mixed image is "
        "labelled by both labels, in distillation by the teacher alone",
    )
    cutmix: Annotated[float, Field(ge=0, le=100)] = Field(
        0.0,
        description="α: a rectangle of another image, its area of Beta(α, α), is pasted in; 0: none; with "
        "mixup: either, half of the time each",
    )
    mix_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the images that mixup and cutmix mix"
    )

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0

    def require_visible(self, height: int, width: int) -> None:
        """Raise ValueError if cutout may hide whole images of this size."""
        if self.cutout >= min(height, width):
            raise ValueError(
                f"augment.cutout: {self.cutout} hides images of {height}×{width} pixels, must be below "
                f"{min(height, width)}"
            )

    @property
    def mixed_share(self) -> float:
        """The share of the images that are mixed with others."""
        return self.mix_share if self.mixes else 0.0


class Training(Section):
    """One training: SGD with Nesterov momentum or AdamW, warm-up, then decay to zero."""

    epochs: Annotated[int, Field(ge=1)] = Field(20, description="passes over the training split")
    batch_size: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="images a step, over all workers together; null: the square root of the number of "
        "training images, as a power of two, 16 to 128",
    )
    learning_rate: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None,
        description="peak value; null: 0.2 · batch_size / 128 (adamw: 0.002), and a tenth of that from "
        "networks.*.weights",
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd | adamw (usual for transformers)")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="Nesterov; adamw: β1")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        5e-4, description="L2, adamw: decoupled, where 0.05 is usual; not applied to norms and biases"
    )
    warmup_epochs: Annotated[float, Field(ge=0)] | None = Field(
        None, description="linear rise from zero; null: 1, or a quarter of the epochs if that is less"
    )
    schedule: Literal["cosine", "linear"] = Field("cosine", description="cosine | linear decay")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of each label spread over all classes"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay a step of the averaged weights that are kept; null: none"
    )
    keep: Literal["best", "balanced", "last"] = Field(
        "best",
        description="best | balanced (best by the mean over classes) | last epoch, on validation; of equally "
        "good ones that with the lowest loss",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 where the device is faster in it, else fp32; fp16: GPU only"
    )
    freeze: tuple[str, ...] = Field(
        (),
        description="qualified names of modules that are not trained, with their submodules and the "
        "statistics of their norms",
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

    @property
    def warmup(self) -> float:
        """Epochs of the linear rise."""
        return min(1.0, self.epochs / 4) if self.warmup_epochs is None else self.warmup_epochs

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup}) must be below epochs ({self.epochs})")
        if self.compile and self.cuda_graphs:
            raise ValueError("compile and cuda_graphs are both true: at most one of them may be")
        return self
