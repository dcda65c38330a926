"""prune, distill, quantize and evaluate: what becomes of the student's dense network."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from akgp.params.base import Fraction, Section, Share
from akgp.params.strategies import STRATEGIES, Strategy
from akgp.params.training import Training

W0 = 0.3
"""w0 of the student's own dense network as a teacher, and of another before it is asked."""


class Prune(Section):
    """How many filters go and which; exactly one of ratio, macs and params says how many."""

    criterion: Literal["fpgm", "l1", "l2", "random"] = Field(
        "fpgm", description="fpgm (geometric median) | l1 | l2 (norms) | random"
    )
    ratio: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="share of filters to remove in each layer"
    )
    macs: Fraction | None = Field(None, description="share of the dense MACs to keep, met within 2 %")
    params: Fraction | None = Field(None, description="share of the dense parameters to keep, met within 2 %")
    round_to: Annotated[int, Field(ge=1, le=128)] = Field(
        8, description="widths are multiples of this; odd widths run slower in int8"
    )
    skip: tuple[str, ...] = Field((), description="qualified names of modules left dense")

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        given = [key for key in ("ratio", "macs", "params") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of ratio, macs, params must be a number, got {', '.join(given) or 'none'}"
            )
        return self


class Distill(Section):
    """Recovery of the pruned student from its teachers and the true labels."""

    strategy: Literal[
        "labels", "teacher", "fixed", "annealed", "wsld", "dkd", "confidence", "learned", "self", "akgp"
    ] = Field(
        "akgp",
        description="labels | teacher | fixed | annealed | wsld | dkd | confidence, learned (several "
        "teachers) | self | akgp",
    )
    temperature: Annotated[float, Field(gt=0, le=100)] = Field(2.0, description="softens the logits")
    logit_std: bool = Field(
        False, description="standardise the logits of teacher and student before they are softened"
    )
    w0: Share | None = Field(
        None,
        description="teacher's weight: of every sample (fixed), of one whose label is right (akgp); null: "
        "0.3, and with akgp, if another network than the student's teaches, what its answers are worth",
    )
    measure_w0: bool = Field(
        False,
        description="akgp: measure w0 on the way by two branches, from w0 as a guess; 1.3 times the training",
    )
    alpha: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None,
        description="wsld, dkd (on the label), confidence, learned, self: factor of the teacher; "
        "null: 2.5, 1, 1, 1, 0.3",
    )
    beta: Annotated[float, Field(ge=0, le=100)] = Field(
        8.0, description="dkd: factor of the teacher on the other classes"
    )
    heads: tuple[str, ...] = Field(
        (), description="self: modules whose feature maps get a head; []: layer1, layer2, … but the last"
    )
    noise_posterior: bool = Field(
        True, description="akgp: trust the teacher more where a label is probably wrong"
    )
    logit_adjustment: Literal["auto", "on", "off"] = Field(
        "auto",
        description="shift by the log class prior, keep best is balanced then; auto: akgp alone, if "
        "imbalance exceeds 3",
    )
    training: Training = Field(default_factory=Training)

    @property
    def w0_or_default(self) -> float:
        return W0 if self.w0 is None else self.w0

    @property
    def facts(self) -> Strategy:
        return STRATEGIES[self.strategy]

    @property
    def alpha_or_default(self) -> float:
        """`alpha`, or the strategy's own; 1 for one that reads none."""
        return next(each for each in (self.alpha, self.facts.alpha, 1.0) if each is not None)

    @property
    def measures_w0(self) -> bool:
        """Whether `measure_w0` has a say: with the other strategies it has none."""
        return self.measure_w0 and self.facts.adaptive

    @property
    def asks_for_w0(self) -> bool:
        """Whether w0 is taken from what the teachers answer."""
        return self.w0 is None and self.facts.adaptive

    @model_validator(mode="after")
    def _fits_strategy(self) -> Self:
        if self.measures_w0 and self.training.epochs < 2:
            raise ValueError("measure_w0 needs training.epochs of 2 or more, got 1")
        if self.facts.heads and self.training.cuda_graphs:
            raise ValueError(
                f"training.cuda_graphs hides what strategy {self.strategy} looks at: it must be false"
            )
        if self.alpha is not None and self.alpha > self.facts.alpha_max:
            raise ValueError(
                f"alpha must be in [0, {self.facts.alpha_max:g}] for strategy {self.strategy!r}, "
                f"got {self.alpha:g}"
            )
        return self


class Quantize(Section):
    """Static post-training int8: unsigned activations a tensor, signed weights a channel."""

    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax", description="how activation ranges are chosen: minmax | entropy | percentile"
    )
    images: Annotated[int, Field(ge=1)] = Field(
        512, description="images of the calibration split used, at most"
    )
    license: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="of the weights, such as CC-BY-4.0, written into the file; null: not stated"
    )


class Evaluate(Section):
    """Latency protocol; accuracy always uses the whole test split."""

    threads: Annotated[int, Field(ge=1)] = Field(1, description="threads of the timed process")
    warmup_seconds: Annotated[float, Field(ge=0, le=60)] = Field(0.3, description="before timing")
    rounds: Annotated[int, Field(ge=3, le=1000)] = Field(
        20, description="interleaved rounds; each times every network once, for 10 ms or more"
    )
