"""Units: what is removed as a whole, such as a filter with all that depends on it.

Every position along a dimension of a parameter starts as a unit of its own, an integer id. Tracing unites
ids; in the end a unit is a set of ids. Id 0 stands for positions that are never removed, such as the
network's input and constants.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from akgp.pruning.coupling.marks import shrink


@dataclass(frozen=True)
class Table:
    """Units in rows [R, n], of which every row must lose equally many: the groups of a convolution.

    A table that is not `needed` stems from a view or a split: where it cannot be met, its units keep
    their dense layout.
    """

    ids: Tensor
    needed: bool
    reason: str


@dataclass(frozen=True)
class Fold:
    """A constant that a reader's removed columns have added to its outputs: added to its bias instead."""

    module: str
    ids: Tensor  # [K], of the columns
    values: Tensor  # [K]


@dataclass(frozen=True)
class Product:
    """A product without a parameter, such as of queries and keys: it costs less without units.

    Attributes:
        macs: of the example's whole batch.
        layers: ids [n] of its rows, of its columns, and of what is summed over, where they have units.
        weight: whether one of its sides is computed from parameters, which lose filters even where
            activations keep their layout.
    """

    macs: int
    layers: tuple[Tensor, ...]
    weight: bool = False


@dataclass
class Units:
    """The ids of a network, and what tracing has learned about them."""

    count: int = 1
    pairs: list[Tensor] = field(default_factory=list)
    blocked: list[tuple[Tensor, str]] = field(default_factory=list)
    held: list[tuple[Tensor, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folds: list[Fold] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    columns: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    in_groups: set[str] = field(default_factory=set)
    foldable: frozenset[str] = frozenset()
    training: bool = False
    whole: list[tuple[Tensor, str]] = field(default_factory=list)
    _blocked: Tensor = field(default_factory=lambda: torch.zeros(1024, dtype=torch.bool))

    def fresh(self, size: int) -> Tensor:
        """`size` new ids."""
        ids = torch.arange(self.count, self.count + size)
        self.count += size
        while len(self._blocked) < self.count:
            self._blocked = torch.cat([self._blocked, torch.zeros_like(self._blocked)])
        return ids

    def unite(self, one: Tensor, other: Tensor, what: str) -> None:
        """Make the ids at equal positions of two tensors, which broadcast, one unit; id 0 is left out."""
        one, other = torch.broadcast_tensors(shrink(one), shrink(other))
        both = torch.stack([one.reshape(-1), other.reshape(-1)])
        both = both[:, (both[0] != both[1]) & (both != 0).all(0)]
        if both.numel():
            self.pairs.append(both.unique(dim=1) if both.shape[1] > 4096 else both)

    def block(self, ids: Tensor, reason: str) -> None:
        """Never remove these units."""
        ids = shrink(ids).reshape(-1)
        ids = ids[ids > 0]
        if len(ids):
            self._blocked[ids] = True
            self.blocked.append((ids, reason))

    def read_whole(self, ids: Tensor, reason: str) -> None:
        """Never remove units of a parameter if a layer reads them as its columns, which are not zero."""
        self.whole.append((shrink(ids).reshape(-1), reason))

    def block_columns(self) -> None:
        """Block the columns among what `read_whole` was given so far."""
        columns = torch.zeros(self.count, dtype=torch.bool)
        for ids in self.columns:
            columns[ids] = True
        for ids, reason in self.whole:
            self.block(ids[columns[ids]], reason)

    def is_blocked(self, ids: Tensor) -> Tensor:
        """Whether each of `ids` has been blocked itself, whatever it is united with."""
        return self._blocked[ids]

    def hold(self, ids: Tensor, reason: str) -> None:
        """Keep the dense layout of activations that hold these units; removed ones are zeros there."""
        ids = shrink(ids).reshape(-1)
        ids = ids[ids > 0]
        if len(ids):
            self.held.append((ids, reason))

    def tabulate(self, ids: Tensor, *, needed: bool, reason: str) -> None:
        """Let every row of ids [R, n] lose equally many units."""
        if ids.shape[0] > 1 and ids.shape[1] > 0:
            self.tables.append(Table(ids, needed, reason))

    def fold(self, module: str, ids: Tensor, values: Tensor) -> None:
        """Note a constant that removed columns of a module's weight would have read."""
        self.folds.append(Fold(module, ids, values))

    def labels(self) -> Tensor:
        """The smallest id of its unit, for every id: [count]."""
        label = torch.arange(self.count)
        if not self.pairs:
            return label
        one, other = torch.cat(self.pairs, 1).unique(dim=1)
        while True:
            # Both ends of every pair, and the units that they are in, take the smaller label.
            smaller = torch.minimum(label[one], label[other])
            new = label.clone()
            for ends in (label[one], label[other], one, other):
                new.scatter_reduce_(0, ends, smaller, "amin")
            new = new[new]
            if torch.equal(new, label):
                return label
            label = new

    def reasons(self, labels: Tensor, marked: Iterable[tuple[Tensor, str]]) -> dict[int, str]:
        """Label of a unit -> the first reason given for any of its ids."""
        result: dict[int, str] = {}
        for ids, reason in marked:
            for label in labels[ids].unique().tolist():
                result.setdefault(label, reason)
        return result
