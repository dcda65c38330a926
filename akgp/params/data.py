"""data: where the images come from, how they are split, and what is altered to study it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from akgp.params.base import Address, Fraction, Section

CIFAR10_VARIABLE = "AKGP_CIFAR10"
"""Of the environment: where CIFAR-10 is, for the source cifar10 without a path."""


class Splits(Section):
    """Shares of the images that are kept out of training, stratified by class."""

    calibration: Fraction = Field(
        0.1, description="share of the training images kept for calibration (never trained on)"
    )
    validation: Fraction = Field(
        0.1,
        description="share of the training images on which every choice is made; not taken where the source "
        "has a validation split of its own",
    )
    test: Fraction | None = Field(
        None, description="share of all images; null: the source has a test split of its own"
    )

    @model_validator(mode="after")
    def _leaves_training_images(self) -> Self:
        if self.calibration + self.validation >= 0.9:
            raise ValueError(
                f"calibration + validation must be below 0.9, got {self.calibration} + {self.validation}"
            )
        return self


class Regime(Section):
    """Fewer, unequal or wrong labels, to study what they do; by default nothing is changed.

    Applied to the training side as a whole, before it is split: first the subset, then the long
    tail, then the noise. So train, calibration and validation share it, as a user's would; the test
    split stays as it is, and so does a validation split that the source brings.

    `label_noise` is the share of labels that are *wrong*, exact in each class. Symmetric: a wrong
    label is any other class, all alike. Asymmetric: it is the next class (after the last the first);
    for source cifar10 truck → automobile, bird → airplane, deer → horse, cat ↔ dog (Patrini et al.
    2017), and the share is that of the images of these five classes: .4 makes 20 % of all wrong.
    """

    label_noise: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of wrong labels in each class (asymmetric: each flipped class); 0: none"
    )
    noise: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="symmetric (any other class) | asymmetric (the next; cifar10: like pairs)"
    )
    imbalance: Annotated[float, Field(ge=1, le=1e6)] = Field(
        1.0, description="largest class / smallest, an exponential long tail in class order; 1: as it is"
    )
    subset: Annotated[int, Field(ge=1)] | None = Field(
        None, description="images kept of all but the test split, stratified; null: all"
    )

    def alters(self) -> bool:
        """Whether images or labels differ from the source's."""
        return self.label_noise > 0 or self.imbalance > 1 or self.subset is not None


class Data(Section):
    """Where the images come from and how they are split."""

    source: Literal["digits", "cifar10", "image_folder", "parquet"] = Field(
        "digits", description="digits | cifar10 | image_folder | parquet"
    )
    path: Address | None = Field(
        None, description="directory or s3:// prefix; cifar10 also reads AKGP_CIFAR10, or downloads"
    )
    image_column: str = Field("image", description="parquet: column of image bytes or paths")
    label_column: str = Field("label", description="parquet: column of labels (int or text)")
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = Field(
        None, description="pixels a side, resized to; null: as they are, if all are alike"
    )
    color: Literal["rgb", "gray"] = Field("rgb", description="rgb | gray (one channel)")
    splits: Splits = Field(default_factory=Splits)
    regime: Regime = Field(default_factory=Regime)
    on_bad_rows: Literal["error", "skip"] = Field(
        "error", description="error | skip: corrupt images and bad labels stop the run or are counted"
    )

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.source in ("image_folder", "parquet") and not self.path:
            raise ValueError(f"path must be a directory or s3:// prefix for source {self.source!r}")
        if self.source == "digits" and self.path:
            raise ValueError(f"path must be null for source 'digits', which is embedded, got {self.path!r}")
        if self.source == "digits" and self.splits.test is None:
            raise ValueError("splits.test must be a share, such as 0.25, for source 'digits', got null")
        if self.source == "cifar10" and self.splits.test is not None:
            raise ValueError("source 'cifar10' has its own test split: splits.test must be null")
        return self
