"""What a traced run leaves for surgery."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from torch import Tensor

Site = tuple[str, int, str]
"""File, line and operation of a call in the network's own code, not in torch."""


@dataclass
class Record:
    """By module, by call site, by parameter."""

    inputs: dict[str, list[Tensor | None]] = field(default_factory=lambda: defaultdict(list))
    """Module -> the ids along the channels of its input, at each of its calls."""
    by_site: dict[Site, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    by_module: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))
    numbers: dict[Site, set[tuple[float, ...]]] = field(default_factory=lambda: defaultdict(set))
    """Floats among the arguments at a site: a scale that follows a width changes with it."""
    unfollowed: dict[Site, str] = field(default_factory=dict)
    """Why an operation's rule does not know what it does there."""
    uses: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Parameter -> the modules whose forward pass reads it."""
    views: dict[tuple[str, str], list[tuple[Tensor, ...]]] = field(default_factory=lambda: defaultdict(list))
    """Module and number of a call in its forward pass (`models.view_sizes`) -> ids of the view it makes."""
    splits: dict[tuple[str, str], list[list[tuple[Tensor, ...]]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Likewise the ids of each part of a split."""
    scales: dict[tuple[str, str], set[float]] = field(default_factory=lambda: defaultdict(set))
    """Likewise the scale of an attention whose code has none."""
    shortcuts: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """ChannelMap -> ids of its inputs and of its outputs."""
