"""Which widths each group of channels may have: by `round_to`, and by the rules for single layers.

Every rule whose pattern matches a layer holds for it, and for all layers that lose the same filters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from akgp.params import Limit
from akgp.pruning.amount import is_number
from akgp.pruning.coupling.groups import Group
from akgp.pruning.coupling.preparation import PruningError


def rounded(width: float, dense: int, round_to: int) -> int:
    """The multiple of `round_to` nearest to `width` (the larger on a tie), clamped to [`round_to`, `dense`].

    A dense width of at most `round_to` is returned unchanged, and so is one of which nothing is removed.
    """
    if dense <= round_to or width >= dense:
        return dense
    # Not round(), which takes a tie to the even multiple. `dense` itself need not be a multiple.
    return min(max(int(width / round_to + 0.5) * round_to, round_to), dense)


@dataclass(frozen=True)
class Bound:
    """The widths that a group may have: multiples of `step` from `low` to `high`, or its dense width.

    Attributes:
        rule: the entry of `layers` or `limits` that narrows them, as text; else None.
    """

    dense: int
    step: int
    low: int
    high: int
    rule: str | None = None

    def nearest(self, width: float) -> int:
        """The allowed width nearest to `width`."""
        return min(max(rounded(width, self.dense, self.step), self.low), self.high)

    def narrower(self, width: int) -> int:
        """The next allowed width below; `width` if there is none."""
        below = (width - 1) // self.step * self.step
        return below if below >= self.low else width

    def wider(self, width: int) -> int:
        """The next allowed width above; `width` if there is none."""
        return max(min((width // self.step + 1) * self.step, self.high), width)


@dataclass(frozen=True)
class _Rule:
    """A limit of one layer, and the parameter that sets it."""

    layer: str
    limit: Limit
    text: str


@dataclass(frozen=True)
class Rules:
    """How wide layers may be.

    Args:
        layers: name or pattern of names (* and ?) -> share of the filters to remove, in [0, 1).
        limits: likewise -> the least and the most that may be removed.

    Raises:
        PruningError: a value is out of its range.
    """

    round_to: int = 8
    layers: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise PruningError(f"round_to must be a whole number, 1 or more, got {self.round_to!r}")
        for name, given in (("layers", self.layers), ("limits", self.limits)):
            if not isinstance(given, Mapping):
                raise PruningError(f"{name} must be a dict by names of layers, got {given!r}")
        for pattern, ratio in self.layers.items():
            if not is_number(ratio) or not 0 <= ratio < 1:
                raise PruningError(
                    f"layers: {pattern!r} must be in [0, 1), the share to remove, got {ratio!r}"
                )
        for pattern, limit in self.limits.items():
            if not isinstance(limit, Limit):
                raise PruningError(
                    f"limits: {pattern!r} must be a Limit, the least and the most, got {limit!r}"
                )

    @property
    def remove(self) -> bool:
        """Whether they ask for something to be removed."""
        return any(limit.min for *_, limit in self._entries())

    def require_matches(self, names: Sequence[str]) -> None:
        """Raise PruningError if a pattern matches none of these names of layers."""
        for parameter, pattern, *_ in self._entries():
            _matching(parameter, pattern, names)

    def bounds(
        self, groups: Sequence[Group], names: Mapping[str, str], dense_widths: Sequence[int]
    ) -> list[Bound]:
        """The widths that each group may have; a group with a reason stays dense.

        Args:
            names: of all layers that have filters: the module's -> the one that patterns match.
            dense_widths: of each group in the dense network, of which rules say a share; at least its own.

        Raises:
            PruningError: a pattern matches no layer or none that can be pruned; two rules contradict
                each other.
        """
        matched = {
            text: _matching(parameter, pattern, list(names.values()))
            for parameter, pattern, text, _ in self._entries()
        }
        self._require_prunable(groups, matched, names)
        return [
            self._bound(group, matched, names, dense)
            for group, dense in zip(groups, dense_widths, strict=True)
        ]

    def _entries(self) -> list[tuple[str, str, str, Limit]]:
        """Parameter, pattern, text and limit of every rule."""
        fixed = [
            ("layers", pattern, f"layers {pattern}: {ratio:g}", Limit(min=ratio, max=ratio))
            for pattern, ratio in self.layers.items()
        ]
        return fixed + [
            ("limits", pattern, f"limits {pattern}: {_shown(limit)}", limit)
            for pattern, limit in self.limits.items()
        ]

    def _bound(
        self, group: Group, matched: Mapping[str, Sequence[str]], names: Mapping[str, str], dense: int
    ) -> Bound:
        width, step = group.width, group.step(self.round_to)
        if group.reason:
            return Bound(width, step, width, width)
        low, high, rule = rounded(0, width, step), width, None
        lowest, highest = None, None
        for writer in group.writers:
            name = names[writer.name]
            for _, _, text, limit in self._entries():
                if name not in matched[text]:
                    continue
                # What was cut already may be narrower.
                least, most = (min(each, width) for each in _widths(limit, dense, step, group.copies))
                mine = _Rule(name, limit, text)
                if least > low:
                    low, lowest = least, mine
                if most < high:
                    high, highest = most, mine
                rule = rule or text
                if low > high:
                    assert lowest is not None and highest is not None
                    raise PruningError(_contradiction(lowest, highest))
        return Bound(width, step, low, high, rule)

    def _require_prunable(
        self, groups: Sequence[Group], matched: Mapping[str, Sequence[str]], names: Mapping[str, str]
    ) -> None:
        """Raise PruningError where something must be removed of layers that all stay dense."""
        free = {names[writer.name] for group in groups if not group.reason for writer in group.writers}
        reasons = {names[writer.name]: group.reason for group in groups for writer in group.writers}
        for parameter, pattern, text, limit in self._entries():
            if limit.min > 0 and not free.intersection(matched[text]):
                first = matched[text][0]
                raise PruningError(
                    f"{parameter}: {pattern!r} matches no layer that can be pruned: {first} stays dense "
                    f"({reasons.get(first) or 'its filters cannot be followed'}); "
                    f"{_near('prunable is', pattern, sorted(free))}"
                )


def _matching(parameter: str, pattern: str, names: Sequence[str]) -> list[str]:
    """The names that match a pattern; PruningError if there are none."""
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        parents = {name.rpartition(".")[0] for name in names} - {""}
        parents |= {name.partition(".")[0] for name in names if "." in name}
        near = _near("did you mean", pattern, [*names, *sorted(f"{parent}.*" for parent in parents)])
        raise PruningError(
            f"{parameter}: {pattern!r} matches no convolution or linear layer of the network; {near}"
        )
    return matching


def _near(words: str, pattern: str, names: Sequence[str]) -> str:
    near = get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
    return f"{words} {' or '.join(near)}" if near else "there is none"


def _widths(limit: Limit, dense: int, step: int, copies: int) -> tuple[int, int]:
    """The least and the largest width by a limit; a fixed ratio is rounded to the nearest.

    As many as `width` asks for stay, whatever `min` is.
    """
    stay = limit.width / copies
    if limit.min == limit.max:
        fixed = max(rounded(dense * (1 - limit.min), dense, step), _at_least(stay, dense, step))
        return fixed, fixed
    least = _at_least(max(dense * (1 - limit.max), stay), dense, step)
    most = dense if limit.min == 0 else int((dense * (1 - limit.min) + 1e-6) // step) * step
    least = max(least, rounded(0, dense, step))
    return least, max(most, least)


def _at_least(width: float, dense: int, step: int) -> int:
    """The allowed width from `width` on."""
    # A hair of tolerance: 64 · (1 − 0.9) is a little more than 6.4.
    return min(-int(-(width - 1e-6) // step) * step, dense)


def _contradiction(one: _Rule, other: _Rule) -> str:
    if one.layer == other.layer:
        return f"{one.layer} is given {one.text!r} and {other.text!r}, which contradict each other"
    return (
        f"{one.layer} and {other.layer} lose the same filters, but are given {one.text!r} and "
        f"{other.text!r}: give them the same"
    )


def _shown(limit: Limit) -> str:
    given = {key: value for key, value in vars(limit).items() if value != getattr(Limit(), key)}
    return "{" + ", ".join(f"{key}: {value:g}" for key, value in given.items()) + "}"
