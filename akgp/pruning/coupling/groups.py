"""Groups: units of one kind, such as the filters of a layer, among which pruning chooses.

Units are of one kind if they have equally many positions in every dimension of every parameter. Kinds of
which equally many units must go, such as the two halves of a split, form one group.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from akgp.pruning.coupling.layers import PRUNABLE, WEIGHTS, filter_dimension
from akgp.pruning.coupling.marks import shrink, varying
from akgp.pruning.coupling.network import Coupling
from akgp.pruning.coupling.trace import named_tensors
from akgp.pruning.coupling.units import Table

SCOPES = ("inside", "all")
"""inside: channels in which layers are summed, the residual streams, stay dense; all: they are cut too."""


@dataclass(frozen=True)
class Sparing:
    """What a user wants to stay dense: modules that are skipped, and by the scope."""

    skipped: set[nn.Module]
    scope: str


@dataclass(frozen=True)
class Writer:
    """A layer whose filters are units of a group.

    Attributes:
        members: positions among the group's units [m].
        filters: the filters of each [m, n], as numbers from 0.
    """

    name: str
    module: nn.Module
    members: Tensor
    filters: Tensor


@dataclass(frozen=True)
class Group:
    """Units of one kind, or of kinds that lose equally many.

    Attributes:
        units: their labels [width], in the order of the first writer's filters.
        writers: layers that write them, in the network's order.
        rows: [width], numbers from 0: every row must lose equally many units.
        reason: why none may be removed, else None.
    """

    units: Tensor
    writers: tuple[Writer, ...]
    rows: Tensor
    reason: str | None

    @property
    def width(self) -> int:
        return len(self.units)

    @property
    def copies(self) -> int:
        """Filters of one layer that go with one unit, at most."""
        return max(writer.filters.shape[1] for writer in self.writers)

    @property
    def filters(self) -> int:
        """All filters of the units in the layer that has most of them."""
        by_layer = Counter[str]()
        for writer in self.writers:
            by_layer[writer.name] += writer.filters.numel()
        return max(by_layer.values())

    def step(self, round_to: int) -> int:
        """The number of units by which the width may change, for layers of multiples of `round_to`."""
        rows = int(self.rows.max()) + 1
        step = math.lcm(round_to // math.gcd(round_to, self.copies), rows)
        # The groups of a convolution, such as 25, may leave no multiple of 8 to choose.
        narrow = self.width * self.copies <= round_to
        return step if step < self.width or rows == 1 or narrow else rows


def layer_filters(model: nn.Module, coupling: Coupling) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, module and ids of the filters [O] of every layer whose filters have ids."""
    names = {id(tensor): name for name, tensor in named_tensors(model)}
    for name, module in model.named_modules():
        if not isinstance(module, PRUNABLE):
            continue
        row = filter_dimension(module)
        own = dict(module.named_parameters())
        for leaf in WEIGHTS:
            tensor = own.get(leaf)
            layers = coupling.layers.get(names.get(id(tensor), ""), ())
            ids = next((each for each in layers if varying(each) == (row,)), None)
            if ids is not None:
                yield name, module, shrink(ids).reshape(-1)
                break


def groups(model: nn.Module, coupling: Coupling, sparing: Sparing) -> list[Group]:
    """The groups of a network, in the order of their first writers."""
    while True:
        tables = _met_tables(coupling)
        found = _groups(model, coupling, tables)
        uneven = [group for group in found if len(group.rows.bincount().unique()) > 1]
        kept = [_keep_layout(group, tables, coupling) for group in uneven]
        if not any(kept):
            return [replace(group, reason=_reason(group, coupling, sparing)) for group in found]


def _keep_layout(group: Group, tables: Sequence[Table], coupling: Coupling) -> bool:
    """Keep the layout of units in views and splits whose parts of unequal size would lose equally many."""
    mine = [
        table
        for table in tables
        if not table.needed and torch.isin(coupling.labels[table.ids], group.units).any()
    ]
    held = [coupling.hold([table.ids], table.reason) for table in mine]
    return any(held)


def _groups(model: nn.Module, coupling: Coupling, tables: Sequence[Table]) -> list[Group]:
    kinds = _kinds(coupling, tables)
    units: dict[int, list[int]] = {}
    found: list[tuple[str, nn.Module, Tensor]] = []
    for name, module, ids in layer_filters(model, coupling):
        labels = coupling.labels[ids]
        found.append((name, module, labels))
        for label, kind in zip(labels.tolist(), kinds[labels].tolist(), strict=True):
            units.setdefault(kind, []).append(label)
    result = []
    for kind, labels_of_kind in units.items():
        order = torch.tensor(list(dict.fromkeys(labels_of_kind)))
        writers = tuple(_writers(found, kinds, kind, order, len(coupling.labels)))
        result.append(Group(order, writers, _rows(order, tables, coupling), None))
    return result


def _writers(
    found: Sequence[tuple[str, nn.Module, Tensor]], kinds: Tensor, kind: int, order: Tensor, count: int
) -> Iterator[Writer]:
    """The layers that write units of a kind, once for each number of filters that these have in a layer.

    In attention's, a query goes with its key, and a value alone.
    """
    position = torch.full((count,), -1)
    position[order] = torch.arange(len(order))
    for name, module, labels in found:
        mine = torch.arange(len(labels))[kinds[labels] == kind]
        members = position[labels[mine]]
        copies = members.bincount(minlength=1)[members]
        for many in copies.unique().tolist():
            filters, units = mine[copies == many], members[copies == many]
            by_unit = filters[units.argsort(stable=True)]
            yield Writer(name, module, units.unique(), by_unit.reshape(-1, many))


def _kinds(coupling: Coupling, tables: Sequence[Table]) -> Tensor:
    """A number for every label [count], the same for units of one group."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda: int(torch.randint(2**62, (), generator=generator))  # noqa: E731
    hashes = torch.zeros(coupling.units.count, dtype=torch.long)
    for layers in coupling.layers.values():
        for ids in layers:
            labels = coupling.labels[shrink(ids).reshape(-1)]
            hashes.scatter_add_(0, labels, torch.tensor(draw()).expand(len(labels)))
    for units in (coupling.blocked, coupling.held):
        hashes[list(units)] += draw()
    _, kinds = hashes.unique(return_inverse=True)
    while True:  # kinds that share a table are one
        before = kinds
        for table in tables:
            present = kinds[coupling.labels[table.ids]].unique()
            if len(present) > 1:
                kinds = torch.where(torch.isin(kinds, present), present.min(), kinds)
        if torch.equal(before, kinds):
            return kinds


def _met_tables(coupling: Coupling) -> list[Table]:
    """The tables whose rows can lose equally many units; the units of others keep their layout or stay."""
    changed, met = True, list[Table]()
    while changed:
        changed, met = False, []
        for table in coupling.units.tables:
            labels = coupling.labels[table.ids]
            roots = set(labels.unique().tolist()) - {0}
            blocked, held = roots & set(coupling.blocked), roots & set(coupling.held)
            rows = _row_of(labels, table.needed)
            simple = rows is not None and not (labels == 0).any()
            if table.needed and (blocked or not simple):
                new = roots - set(coupling.blocked)
                coupling.blocked |= dict.fromkeys(new, table.reason)
                changed |= bool(new)
            elif not table.needed and (blocked or held or not simple):
                new = roots - set(coupling.held) - set(coupling.blocked)
                coupling.held |= dict.fromkeys(new, table.reason)
                changed |= bool(new)
            elif rows:
                met.append(table)
    return met


def _row_of(labels: Tensor, needed: bool) -> dict[int, int] | None:
    """Unit -> its row in a table, left out if it is in all rows alike; None if that is not so simple.

    Rows of the same units, such as those of a head's queries and keys, are one. Rows of one unit each, such
    as maxout's, go as a whole; those of a convolution's groups cannot.
    """
    if bool((labels == labels[:, :1]).all()):
        return None if needed else {}
    different = labels.sort(1).values.unique(dim=0)
    if len(different) == 1:
        return {}
    number = torch.arange(len(different))[:, None].expand_as(different).reshape(-1)
    pairs, counts = torch.stack([different.reshape(-1), number]).unique(dim=1, return_counts=True)
    units, many = pairs[0].unique_consecutive(return_counts=True)
    unit = torch.arange(len(units)).repeat_interleave(many)
    least, most = (torch.zeros_like(many).scatter_reduce(0, unit, counts, by, include_self=False)
                   for by in ("amin", "amax"))  # fmt: skip
    single = many == 1
    if (~single & ~((many == len(different)) & (least == most))).any() or len(most[single].unique()) > 1:
        return None
    first = (many.cumsum(0) - many)[single]
    return dict(zip(units[single].tolist(), pairs[1][first].tolist(), strict=True))


def _rows(order: Tensor, tables: Sequence[Table], coupling: Coupling) -> Tensor:
    """The row of every unit: by its rows in all tables together."""
    keys: list[list[int]] = [[] for _ in order]
    for table in tables:
        rows = _row_of(coupling.labels[table.ids], table.needed) or {}
        mine = [rows.get(unit, -1) for unit in order.tolist()]
        if any(row >= 0 for row in mine):
            for key, row in zip(keys, mine, strict=True):
                key.append(row)
    numbers: dict[tuple[int, ...], int] = {}
    return torch.tensor([numbers.setdefault(tuple(key), len(numbers)) for key in keys])


def _reason(group: Group, coupling: Coupling, sparing: Sparing) -> str | None:
    blocked = [coupling.blocked[unit] for unit in group.units.tolist() if unit in coupling.blocked]
    if blocked:
        return blocked[0]
    names = [writer.name for writer in group.writers if writer.module in sparing.skipped]
    if names:
        alone = all(writer.module in sparing.skipped for writer in group.writers)
        return "skipped" if alone else f"summed with {names[0]}, which is skipped"
    if sparing.scope == "inside" and coupling.is_summed()[group.units].any():
        return "a residual stream, which scope inside leaves whole"
    if len(group.rows.bincount().unique()) > 1:
        return f"{group.writers[0].name} is divided in unequal parts"
    if group.width == 1 and group.copies > 1:
        return "its filters can only be removed together"
    return None
