"""Widths by milliseconds: the knapsack against all combinations, its correction by whole networks."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import nn

from akgp.models import cifar_resnet
from akgp.pruning import PruningError, prune
from akgp.pruning.bounds import Bound
from akgp.pruning.budget import Widths
from akgp.pruning.knapsack import Knapsack, allowed_widths, worth
from akgp.pruning.latency import Filters, latency_widths
from akgp.pruning.record import layers_table
from akgp.timed_search import search

IMAGE = torch.zeros(1, 3, 16, 16)


class Clock:
    """Times of networks by a formula, far from what its own table says."""

    def __init__(self) -> None:
        self.timed: list[dict[str, int]] = []
        self.allowed: dict[str, list[int]] = {}

    def prepare(self, allowed: Mapping[str, Sequence[int]]) -> None:
        self.allowed = {name: list(widths) for name, widths in allowed.items()}

    def predicted(self, widths: Mapping[str, int]) -> float:
        assert all(width in self.allowed.get(name, [width]) for name, width in widths.items())
        return sum(self.by_part(widths).values())

    def by_part(self, widths: Mapping[str, int]) -> dict[str, float]:
        return {name: 0.05 + width / 100 for name, width in (widths or self.timed[0]).items()}

    def measured(self, widths: Mapping[str, int]) -> float:
        self.timed.append(dict(widths))
        return self.true(widths)

    def true(self, widths: Mapping[str, int]) -> float:
        return 0.3 + sum(width**1.3 for width in widths.values()) / 200


def random_knapsack(seed: int) -> Knapsack:
    """Four groups in a chain; what a pair of neighbours costs is a table with plateaus and noise."""
    generator = random.Random(seed)
    widths = (8, 16, 24, 32)
    tables = [
        {(a, b): (a + generator.choice((0, 8))) * b * generator.uniform(0.8, 1.2)
         for a, b in itertools.product(widths, widths)}
        for _ in range(3)
    ]  # fmt: skip
    scores = [torch.tensor([generator.uniform(0.5, 1.5) for _ in range(32)]) for _ in range(4)]

    def cost(chosen: Widths) -> float:
        return sum(table[pair] for table, pair in zip(tables, itertools.pairwise(chosen), strict=True))

    return Knapsack([Bound(32, 8, 8, 32)] * 4, [worth(each, 1.0) for each in scores], cost, {})


def test_the_knapsack_is_worth_nearly_what_the_best_of_all_combinations_is() -> None:
    shortfalls = []
    for seed in range(20):
        knapsack = random_knapsack(seed)
        every = list(map(list, itertools.product((8, 16, 24, 32), repeat=4)))
        for share in (0.25, 0.4, 0.6, 0.8):
            limit = share * knapsack.cost([32] * 4)
            best = max(knapsack.value(each) for each in every if knapsack.cost(each) <= limit)
            filled = knapsack.fill(limit)
            assert knapsack.cost(filled) <= limit
            shortfalls.append(best - knapsack.value(filled))
    # Of a worth of 4 · log 4 between the narrowest and the widest.
    assert max(shortfalls) < 0.35 and sorted(shortfalls)[len(shortfalls) // 2] < 0.01


def test_a_width_that_costs_what_a_wider_one_does_is_not_chosen() -> None:
    cheap = {8: 4.3, 16: 4.2, 24: 9.5, 32: 17.8}
    knapsack = Knapsack(
        [Bound(32, 8, 8, 32)] * 2, [worth(torch.ones(32), 1.0)] * 2, lambda w: sum(map(cheap.get, w)), {}
    )
    chosen = {width for limit in range(8, 36) for width in knapsack.fill(limit)}
    assert chosen == {16, 24, 32}


def test_floors_hold_in_the_knapsack() -> None:
    bounds = [Bound(16, 8, 8, 16), Bound(32, 8, 8, 32)]
    knapsack = Knapsack(bounds, [worth(torch.ones(16), 9.0), worth(torch.ones(32), 1.0)], sum, {1: 0})
    assert all(widths[1] >= widths[0] for widths in map(knapsack.fill, range(8, 48)))


def test_worth_falls_by_the_score_of_what_is_removed_and_faster_the_less_is_left() -> None:
    scores = torch.tensor([0.01, 4.0, 2.0, 3.0, 1.0])
    values = worth(scores, factor=float(scores.sum()))
    assert values[5] == 0 and values[5] - values[4] == pytest.approx(0.01, rel=1e-2)
    assert values[2] - values[1] > values[3] - values[2] and values[0] == -float("inf")
    assert worth(torch.zeros(3), 1.0)[1:] == [0, 0, 0]


def test_wide_groups_have_few_widths_and_narrow_ones_all() -> None:
    assert allowed_widths(Bound(32, 8, 8, 32)) == [8, 16, 24, 32]
    assert allowed_widths(Bound(30, 8, 8, 30)) == [8, 16, 24, 30]
    wide = allowed_widths(Bound(512, 8, 24, 512))
    assert (wide[0], wide[-1], len(wide)) == (24, 512, 27) and not any(each % 8 for each in wide)
    assert allowed_widths(Bound(16, 8, 16, 16)) == [16]


@pytest.mark.parametrize("asked", [4, 2.5])
def test_a_time_is_met_though_the_table_is_far_off(asked: float) -> None:
    torch.manual_seed(0)
    clock = Clock()
    pruned = prune(cifar_resnet(8), IMAGE, latency_ms=asked, latencies=clock)
    assert clock.true(clock.timed[0]) > 5  # the dense network
    assert pruned.budget is not None and pruned.budget.why is None and len(clock.timed) <= 10
    assert pruned.budget.reached == pytest.approx(asked, rel=0.03)
    assert pruned.budget.predicted == pytest.approx(asked, rel=0.1)
    # The widths that were timed are those of the network: shortcuts are layers of the exported one.
    rows = layers_table(pruned)
    kept = {row["name"]: row["pruned_width"] for row in rows}
    assert all(
        row[f"{when}_ms"] == pytest.approx(0.05 + row[f"{when}_width"] / 100)
        for row in rows for when in ("dense", "pruned")
    )  # fmt: skip
    last = next(each for each in clock.timed if clock.true(each) == pruned.budget.reached)
    assert {name: last[name] for name in kept if name in last} == {n: w for n, w in kept.items() if n in last}
    assert last["layer2.0.shortcut"] == kept["layer2.0.conv2"]


def test_a_time_that_no_widths_meet_is_refused() -> None:
    clock = Clock()
    with pytest.raises(PruningError, match=r"0.01 ms are asked, but the fastest widths take .* \(dense"):
        prune(cifar_resnet(8), IMAGE, latency_ms=0.01, latencies=clock)
    assert len(clock.timed) == 2  # the widest and the narrowest


def test_the_timing_of_networks_ends_with_the_nearest_so_far() -> None:
    clock = Clock()
    with search(1e-9):
        pruned = prune(cifar_resnet(8), IMAGE, latency_ms=4, latencies=clock)
    assert len(clock.timed) == 2 and pruned.budget is not None  # the widest and the narrowest
    assert pruned.budget.why == "the search ended after 1e-09 s (time_limit)"
    assert pruned.budget.reached == clock.true(clock.timed[1])


def test_a_network_that_is_fast_enough_stays_whole_and_it_is_said() -> None:
    pruned = prune(cifar_resnet(8), IMAGE, latency_ms=1000, latencies=Clock())
    assert all(layer.pruned_width == layer.dense_width for layer in pruned.layers)
    assert "1000 asked" in str(pruned.budget) and "so nothing more is cut" in str(pruned.budget)


def test_rules_for_single_layers_hold() -> None:
    clock = Clock()
    pruned = prune(
        cifar_resnet(8),
        IMAGE,
        latency_ms=4,
        latencies=clock,
        layers={"layer1.*.conv1": 0, "layer3.*.conv1": 0.75},
    )
    widths = {layer.name: layer.pruned_width for layer in pruned.layers}
    assert {widths["layer1.0.conv1"], widths["layer3.0.conv1"]} == {16}


def test_what_measures_is_given_with_the_time_alone() -> None:
    with pytest.raises(PruningError, match="latency_ms and latencies"):
        prune(nn.Conv2d(3, 8, 1), IMAGE, latency_ms=1)
    with pytest.raises(
        PruningError, match=r"latency_ms must be in \(0, inf\), got 0; it is the milliseconds"
    ):
        prune(nn.Conv2d(3, 8, 1), IMAGE, latency_ms=0, latencies=Clock())


class Groups(Filters):
    """A layer in each group, called by its index."""

    def __init__(self) -> None: ...

    def of(self, widths: Widths) -> dict[str, int]:
        return {str(index): width for index, width in enumerate(widths)}


class Stepped(Clock):
    """A chain of kernels that pad their filters to 8, 16 or 32 and are slower where 16 does not divide them.

    In a whole network each takes up to 30 % more or less than its table says, and something is added.
    """

    def __init__(self, seed: int, groups: int) -> None:
        super().__init__()
        generator = random.Random(seed)
        self.pad = generator.choice((8, 16, 32))
        self.macs = [generator.choice((1, 2, 4, 16)) for _ in range(groups + 1)]
        self.factors = [generator.uniform(0.7, 1.3) for _ in self.macs]
        self.overhead = generator.uniform(0, 0.3) * sum(self.macs)
        scores = [torch.tensor([generator.uniform(0.2, 1.8) for _ in range(64)]) for _ in range(groups)]
        worths = [worth(each, generator.uniform(32, 128)) for each in scores]
        self.knapsack = Knapsack([Bound(64, 8, 8, 64)] * groups, worths, lambda w: sum(self.parts(w)), {})
        self.known: dict[tuple[int, ...], list[float]] = {}

    def parts(self, widths: Sequence[int]) -> list[float]:
        key = tuple(widths)
        if key not in self.known:
            self.known[key] = self.computed(widths)
        return self.known[key]

    def computed(self, widths: Sequence[int]) -> list[float]:
        return [
            macs * (0.3 + entering * -(-filters // self.pad) * self.pad / 600) * (1.15 if filters % 16 else 1)
            for macs, (entering, filters) in zip(self.macs, itertools.pairwise((3, *widths, 10)), strict=True)
        ]

    def by_part(self, widths: Mapping[str, int]) -> dict[str, float]:
        return {str(index): part for index, part in enumerate(self.parts(list(widths.values())))}

    def true(self, widths: Mapping[str, int]) -> float:
        parts = self.parts(list(widths.values()))
        return self.overhead + sum(part * factor for part, factor in zip(parts, self.factors, strict=True))


@pytest.mark.parametrize("groups", [2, 3])
def test_every_time_that_some_widths_take_is_met(groups: int) -> None:
    for seed in range(12):
        clock, generator = Stepped(seed, groups), random.Random(seed)
        least, most = (clock.true(Groups().of(each)) for each in ([8] * groups, clock.knapsack.widest))
        every = [clock.true(Groups().of(w)) for w in itertools.product(range(8, 65, 8), repeat=groups)]
        for asked in (generator.uniform(least, most) for _ in range(10)):
            found = latency_widths(clock.knapsack, Groups(), clock, asked)
            met = abs(found.measured_ms / asked - 1) <= 0.03
            assert met == (found.why is None)
            assert met or not any(abs(each / asked - 1) <= 0.03 for each in every), (seed, asked)


def test_where_widths_leave_nothing_near_the_nearest_is_named() -> None:
    class Coarse(Clock):
        def measured(self, widths: Mapping[str, int]) -> float:
            return sum(widths.values())

    knapsack = Knapsack([Bound(16, 8, 8, 16)] * 2, [worth(torch.ones(16), 1.0)] * 2, sum, {})
    found = latency_widths(knapsack, Groups(), Coarse(), 27)
    assert (
        sorted(found.widths) == [8, 16]
        and found.why == "no nearer widths were met in 4 networks that were timed"
    )
