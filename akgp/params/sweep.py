"""sweep: which parameters are searched, and how."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from akgp.params.base import Section


class Range(Section):
    """A searched parameter: an interval or a list of choices."""

    min: float | None = Field(None, description="lowest value")
    max: float | None = Field(None, description="highest value")
    log: bool = Field(False, description="search the logarithm")
    choices: tuple[JsonValue, ...] | None = Field(None, description="or these values")

    @field_validator("choices", mode="before")
    @classmethod
    def _tuple(cls, choices: object) -> object:
        """Strict validation takes a list for a tuple only where JSON has it."""
        return tuple(choices) if isinstance(choices, list) else choices

    @model_validator(mode="after")
    def _interval_or_choices(self) -> Self:
        interval = self.min is not None and self.max is not None
        if interval == (self.choices is not None) or (self.min is None) != (self.max is None):
            raise ValueError("must have either min and max, or choices")
        if self.choices is not None and not self.choices:
            raise ValueError("choices must not be empty")
        if self.min is not None and self.max is not None:
            if self.min >= self.max:
                raise ValueError(f"min ({self.min}) must be below max ({self.max})")
            if self.log and self.min <= 0:
                raise ValueError(f"log needs min above 0, got {self.min}")
        return self


class Sweep(Section):
    """`akgp sweep run`: a search over parameters of prune and distill.

    The objective is validation accuracy, the mean over classes where the imbalance exceeds 3; `against` adds
    a second one, to be kept small. Then no trial is stopped early: by accuracy alone ASHA would stop the
    small networks first.
    """

    trials: Annotated[int, Field(ge=1)] = Field(12, description="trials in all")
    concurrent: Annotated[int, Field(ge=1)] = Field(1, description="trials at a time")
    against: Literal["macs", "latency"] | None = Field(
        None,
        description="second objective: macs | latency (int8, ms, as evaluate times it); null: accuracy alone",
    )
    grace_epochs: Annotated[int, Field(ge=1)] = Field(
        2, description="epochs every trial gets before ASHA may stop it; with two objectives it stops none"
    )
    space: dict[str, Range] = Field(
        default_factory=lambda: {
            "prune.ratio": Range(min=0.3, max=0.7),
            "distill.strategy": Range(choices=("akgp", "fixed")),
            "distill.w0": Range(min=0.0, max=1.0),
            "distill.temperature": Range(min=1.0, max=6.0, log=True),
        },
        description="searched parameters by dotted name, under prune or distill",
    )
