"""The whole of params.yaml; rules across its sections are in `rules`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from akgp.params.base import Name, Section
from akgp.params.cluster import Ray
from akgp.params.compression import Deploy, Evaluate, Prune, Quantize
from akgp.params.data import Data, Splits
from akgp.params.distill import Distill
from akgp.params.network import Network
from akgp.params.release import Release
from akgp.params.rules import RULES
from akgp.params.sweep import Sweep
from akgp.params.training import Training


class Params(Section):
    """Everything in params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of splits, weights and batches")
    data: Data = Field(default_factory=lambda: Data(splits=Splits(test=0.25)))
    networks: dict[Name, Network] = Field(
        description="the dense networks, by name; all of them are trained", min_length=1
    )
    teachers: tuple[str, ...] = Field(description="networks that teach", min_length=1)
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="cross-fitting: an image is taught by a network trained without its fold; 5 or more do "
        "well; null: off",
    )
    student: str = Field(description="network that is pruned")
    teacher: Training = Field(default_factory=Training, description="training of the dense networks")
    prune: Prune = Field(default_factory=lambda: Prune(ratio=0.5))
    distill: Distill = Field(default_factory=Distill)
    quantize: Quantize = Field(default_factory=Quantize)
    deploy: Deploy = Field(default_factory=Deploy)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    ray: Ray = Field(default_factory=Ray)
    sweep: Sweep = Field(default_factory=Sweep)
    release: Release = Field(default_factory=Release)

    @property
    def another_teaches(self) -> bool:
        """Whether a network other than the student's own dense one teaches."""
        return self.teachers != (self.student,)

    def seed_of(self, network: str) -> int:
        """The seed of a dense network's new weights and of its training."""
        own = self.networks[network].seed
        return self.seed if own is None else own

    # Last: each section has been validated by now, and the rules compare them.
    @model_validator(mode="after")
    def _keeps_the_rules(self) -> Self:
        for rule in RULES:
            rule(self)
        return self
