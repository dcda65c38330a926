"""The scores of all groups by a criterion, whatever it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from akgp.models.attention import given_name
from akgp.models.inputs import Inputs
from akgp.pruning.coupling.groups import Group, Writer
from akgp.pruning.coupling.layers import PRUNABLE, filter_dimension
from akgp.pruning.coupling.preparation import PruningError, copy_network
from akgp.pruning.criteria import CRITERIA, coupled_scores
from akgp.pruning.evidence import Evidence
from akgp.pruning.group_criteria import BY_IMAGES, BY_NETWORK, OF_LOSS

NAMES = (*CRITERIA, *BY_IMAGES, *BY_NETWORK)


@dataclass(frozen=True)
class Scoring:
    """A criterion and all that it may ask.

    seed: of the criterion random.
    evidence: for a criterion of BY_IMAGES.

    Raises:
        PruningError: there is no such criterion, or it looks at images and has no evidence.
    """

    model: nn.Module
    example_input: Inputs
    criterion: str
    seed: int
    evidence: Evidence | None

    def __post_init__(self) -> None:
        if self.criterion not in NAMES:
            raise PruningError(f"criterion must be one of {', '.join(NAMES)}, got {self.criterion!r}")
        if self.criterion in BY_IMAGES and len(self.example_input.tensors()) > 1:
            raise PruningError(
                f"criterion {self.criterion} looks at images, which are one input, but the network takes "
                f"{self.example_input}; take a criterion that looks at weights, such as fpgm"
            )
        if self.criterion in BY_IMAGES and self.evidence is None:
            raise PruningError(f"criterion {self.criterion} looks at images: give evidence")

    @property
    def comparable(self) -> bool:
        """Whether scores mean the same in all groups, instead of ranking within a group alone."""
        return self.criterion not in CRITERIA

    @property
    def of_loss(self) -> bool:
        """Whether a score is a change of the loss, which can be weighed against what a channel costs."""
        return self.criterion in OF_LOSS

    def of(self, groups: Sequence[Group]) -> list[Tensor]:
        """Scores [width] float64 of each group's units; ones where nothing may be removed.

        Raises:
            PruningError: weights are not finite, or a score is NaN.
        """
        free = [index for index, group in enumerate(groups) if group.reason is None]
        scores = [torch.ones(group.width, dtype=torch.float64) for group in groups]
        for index, found in zip(free, self._of([groups[each] for each in free]), strict=True):
            if found.isnan().any():
                name = given_name(self.model, groups[index].writers[0].name)
                raise PruningError(
                    f"criterion {self.criterion} finds no number for filters of {name}: are the "
                    "network's outputs on the images finite, and a teacher's weights in [0, 1]?"
                )
            scores[index] = found
        return scores

    def _of(self, groups: Sequence[Group]) -> list[Tensor]:
        if self.criterion in CRITERIA:
            # The criterion random draws from the CPU's generator; torch.manual_seed would seed the GPUs too.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(self.seed)
                return [_by_weights(group, self.criterion) for group in groups]
        _require_finite(groups)
        network = copy_network(self.model)  # it is run
        if self.criterion in BY_NETWORK:
            return BY_NETWORK[self.criterion](network, groups, self.example_input)
        assert self.evidence is not None
        return BY_IMAGES[self.criterion](network, groups, self.evidence)


def _by_weights(group: Group, criterion: str) -> Tensor:
    """By the filters' own weights, divided by their mean so that groups can be compared."""
    scores = torch.ones(group.width, dtype=torch.float64)
    by_members: dict[tuple[int, ...], list[Writer]] = {}
    for writer in group.writers:
        by_members.setdefault(tuple(writer.members.tolist()), []).append(writer)
    for members, writers in by_members.items():
        weights = [_weight(writer) for writer in writers]
        scores[list(members)] = coupled_scores(weights, CRITERIA[criterion]).cpu()
    return scores


def _require_finite(groups: Sequence[Group]) -> None:
    for group in groups:
        for writer in group.writers:
            _weight(writer)


def _weight(writer: Writer) -> Tensor:
    """The filters of a layer in the order of its group's units: [units, filters of each, ...]."""
    assert isinstance(writer.module, PRUNABLE)
    weight = writer.module.weight.detach().movedim(filter_dimension(writer.module), 0)
    weight = weight[writer.filters.to(weight.device)]
    if not weight.isfinite().all():
        raise PruningError(
            f"{writer.name}.weight holds values that are not finite: did the training diverge?"
        )
    return weight
