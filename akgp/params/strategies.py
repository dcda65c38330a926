"""The strategies of distillation: a record of everything about each one but its loss.

Its loss is in `akgp.distillation.strategies`, under the same name. What params.yaml allows, what the stages
charge and what the report tells of a strategy follows from its record: nothing else compares names.
Importing this needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

SOFTENED = ("temperature", "logit_std")
"""Parameters of every strategy that compares softened logits."""


@dataclass(frozen=True)
class Strategy:
    """What a strategy reads, needs and costs.

    reads: the parameters of `distill` that it uses, besides logit_adjustment and training.
    teachers: the fewest it needs: 0, it uses none; 1, several are averaged; 2, they are weighed against
        each other.
    alpha, beta: what `distill.alpha` and `beta` are where they are left out: the paper's own numbers, or its
        code's.
    alpha_max, w0_max: the largest alpha and w0.
    adaptive: it follows the data, so that `logit_adjustment: auto` applies.
    mixes: it can leave a mixed image to the teacher alone; otherwise its loss needs the one label of each.
    heads: it trains heads on the student's feature maps, which cost MACs and rule out CUDA graphs.
    """

    reads: tuple[str, ...] = SOFTENED
    teachers: int = 1
    alpha: float | None = None
    beta: float | None = None
    alpha_max: float = 100.0
    w0_max: float = 1.0
    adaptive: bool = False
    mixes: bool = False
    heads: bool = False


STRATEGIES: dict[str, Strategy] = {
    "labels": Strategy(reads=(), teachers=0),
    "teacher": Strategy(mixes=True),
    # Above 1 the label is learnt against: Das & Sanghavi 2023 gain by that where many labels are wrong.
    "fixed": Strategy(reads=("w0", *SOFTENED), w0_max=2.0, mixes=True),
    "annealed": Strategy(mixes=True),
    "wsld": Strategy(reads=(*SOFTENED, "alpha"), alpha=2.5),
    "dkd": Strategy(reads=(*SOFTENED, "alpha", "beta"), alpha=1.0, beta=8.0),
    "wttm": Strategy(reads=(*SOFTENED, "alpha"), alpha=4.0, mixes=True),
    "dist": Strategy(reads=(*SOFTENED, "alpha", "beta"), alpha=2.0, beta=2.0, mixes=True),
    "ca_mkd": Strategy(reads=(*SOFTENED, "alpha"), teachers=2, alpha=1.0),
    "amtml_kd": Strategy(reads=(*SOFTENED, "alpha"), teachers=2, alpha=1.0),
    "self_distillation": Strategy(
        reads=(*SOFTENED, "alpha", "heads"), teachers=0, alpha=0.3, alpha_max=1.0, heads=True
    ),
    "akgp": Strategy(reads=("w0", "w0_from", *SOFTENED, "noise_posterior"), adaptive=True, mixes=True),
}


def reading(parameter: str) -> list[str]:
    """The names of the strategies that read this parameter of `distill`."""
    return [name for name, strategy in STRATEGIES.items() if parameter in strategy.reads]


TRUNK, BRANCH = 0.4, 0.15
"""Shares of the training before the two branches that measure w0, and of each branch."""


def branch_epochs(epochs: int) -> tuple[int, int]:
    """Epochs of the trunk and of each of the two branches, for a training of `epochs`; 1 or more each."""
    return max(round(TRUNK * epochs), 1), max(round(BRANCH * epochs), 1)
