"""The section `distill` of params.yaml: how the pruned student is recovered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from akgp.params.base import Section
from akgp.params.strategies import STRATEGIES, Strategy, branch_epochs, reading
from akgp.params.training import Training

W0 = 0.3
"""w0 of the student's own dense network as a teacher, and of another before it is asked."""

W0Source = Literal["fixed", "answers", "branches"]

if TYPE_CHECKING:
    StrategyName = str
else:
    StrategyName = Literal[tuple(STRATEGIES)]  # so that an error names all of them


SEVERAL = [name for name, strategy in STRATEGIES.items() if strategy.teachers > 1]


def _readers(parameter: str) -> str:
    return ", ".join(reading(parameter))


class Distill(Section):
    """Recovery of the pruned student from its teachers and the true labels."""

    strategy: StrategyName = Field(
        "akgp",
        description=f"{' | '.join(STRATEGIES)}; {' and '.join(SEVERAL)} need two teachers or more",
    )
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(2.0, description="softens the logits")
    logit_std: bool = Field(
        False, description="standardise the logits of teacher and student before they are softened"
    )
    w0: Annotated[float, Field(ge=0, le=max(each.w0_max for each in STRATEGIES.values()))] | None = Field(
        None,
        description=f"{_readers('w0')}: the teacher's weight, of every sample (fixed, up to 2: above 1 "
        f"against the label) or of one whose label is right (akgp, up to 1); null: by w0_from, else {W0:g}",
    )
    w0_from: W0Source | None = Field(
        None,
        description=f"{_readers('w0_from')}: fixed: w0 as it is | answers: what other teachers' answers are "
        "worth beside the dense network's, w0 the guess | branches: measured on the way, w0 the guess "
        "(null: answers), 1.3 times the training; null: fixed if w0 is a number, else answers",
    )
    alpha: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description=f"{_readers('alpha')}: factor of the teacher (dkd: on the label; dist: within an image); "
        "null: " + ", ".join(f"{STRATEGIES[name].alpha:g}" for name in reading("alpha")),
    )
    beta: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description=f"{_readers('beta')}: factor of the teacher on the other classes (dist: within a class); "
        "null: " + ", ".join(f"{STRATEGIES[name].beta:g}" for name in reading("beta")),
    )
    heads: tuple[str, ...] = Field(
        (),
        description=f"{_readers('heads')}: modules whose feature maps get a head; []: layer1, layer2, … but "
        "the last",
    )
    teacher_views: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="views of each image about which the teachers are asked once, before the training, "
        "instead of in every step: faster, but no view is new after so many epochs; null: in each step",
    )
    noise_posterior: bool = Field(
        True,
        description=f"{_readers('noise_posterior')}: trust the teacher more where a label is probably wrong",
    )
    logit_adjustment: Literal["auto", "on", "off"] = Field(
        "auto",
        description="shift by the log class prior, keep best is balanced then; auto: akgp alone, if "
        "imbalance exceeds 3",
    )
    training: Training = Field(default_factory=Training)

    @property
    def facts(self) -> Strategy:
        """The record of the strategy."""
        return STRATEGIES[self.strategy]

    @property
    def w0_or_default(self) -> float:
        return W0 if self.w0 is None else self.w0

    @property
    def alpha_or_default(self) -> float:
        """`alpha`, or the strategy's own; 1 for one that reads none."""
        return next(each for each in (self.alpha, self.facts.alpha, 1.0) if each is not None)

    @property
    def beta_or_default(self) -> float:
        """`beta`, or the strategy's own; 1 for one that reads none."""
        return next(each for each in (self.beta, self.facts.beta, 1.0) if each is not None)

    @property
    def w0_source(self) -> W0Source:
        """`w0_from`, or what null stands for; fixed with a strategy that does not read it."""
        if "w0_from" not in self.facts.reads:
            return "fixed"
        return self.w0_from or ("answers" if self.w0 is None else "fixed")

    @property
    def asks_for_w0(self) -> bool:
        """Whether the teachers' answers give w0, or the guess with which the branches begin."""
        return self.w0_source == "answers" or (self.w0_source == "branches" and self.w0 is None)

    @property
    def epochs(self) -> int:
        """Epochs that are trained in all, those of the two branches included."""
        measured = self.w0_source == "branches"
        return self.training.epochs + (2 * branch_epochs(self.training.epochs)[1] if measured else 0)

    @model_validator(mode="after")
    def _fits_strategy(self) -> Self:
        facts = self.facts
        if self.w0_source == "branches" and self.training.epochs < 2:
            raise ValueError("w0_from: branches needs training.epochs of 2 or more, got 1")
        if facts.heads and self.training.cuda_graphs:
            raise ValueError(
                f"training.cuda_graphs hides what strategy {self.strategy} looks at: it must be false"
            )
        if self.teacher_views is not None and not facts.teachers:
            raise ValueError(f"teacher_views: strategy {self.strategy!r} has no teacher, it must be null")
        if self.teacher_views is not None and self.w0_source == "branches":
            raise ValueError("teacher_views must be null with w0_from: branches")
        if self.teacher_views is not None and self.training.augment.mixes:
            raise ValueError(
                "teacher_views: an image is mixed with another one in every epoch, so that the teachers must "
                "be asked in every step: it must be null, or training.augment.mixup and cutmix 0"
            )
        if self.training.augment.mixes and (not facts.mixes or self.w0_source == "branches"):
            able = ", ".join(name for name, each in STRATEGIES.items() if each.mixes)
            raise ValueError(
                "training.augment.mixup and cutmix leave mixed images to the teacher: they need a strategy "
                f"of {able}, without w0_from: branches, got {self.strategy!r}"
            )
        if self.w0 is not None and "w0" in facts.reads and self.training.augment.mixed_share == 1:
            raise ValueError(
                "w0 weighs images that are not mixed, and there are none: training.augment.mix_share must be "
                f"below 1, or w0 null, got {self.w0:g}"
            )
        for key, value, largest in (("alpha", self.alpha, facts.alpha_max), ("w0", self.w0, facts.w0_max)):
            if value is not None and value > largest:
                raise ValueError(
                    f"{key} must be in [0, {largest:g}] for strategy {self.strategy!r}, got {value:g}"
                )
        return self
