"""Budgets that cannot be met, ratios of single layers, and limits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akgp.evaluation.cost import count
from akgp.models import cifar_resnet
from akgp.pruning import Limit, Pruned, PruningError, budget, prune
from akgp.pruning.bounds import Bound
from akgp.pruning.budget import budget_widths, per_cost

SMALL = torch.zeros(1, 3, 16, 16)


def small() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8)


def widths(pruned: Pruned) -> dict[str, int]:
    return {layer.name: layer.pruned_width for layer in pruned.layers}


def share(pruned: Pruned, key: str) -> float:
    return float(getattr(count(pruned.model, SMALL), key) / getattr(count(small(), SMALL), key))


@pytest.mark.parametrize(
    ("amount", "why"),
    [
        ({"macs": 0.01}, "every layer has its least width, widths are multiples of 8"),
        ({"params": 0.95, "round_to": 32, "scope": "inside"}, "4 of 7 groups of layers stay dense"),
    ],
)
def test_a_budget_out_of_reach_takes_the_nearest_and_says_why(amount: dict[str, Any], why: str) -> None:
    pruned = prune(small(), SMALL, **amount)
    key, asked = next(iter(amount.items()))
    assert pruned.budget is not None and pruned.budget.why is not None and why in pruned.budget.why
    assert pruned.budget.reached == pytest.approx(share(pruned, key))
    assert str(pruned.budget).startswith(f"prune.{key}: {asked:g} asked, ")


def test_a_met_budget_needs_no_reason() -> None:
    budget = prune(small(), SMALL, macs=0.5).budget
    assert budget is not None and budget.why is None and budget.reached == pytest.approx(0.5, rel=0.02)
    assert prune(small(), SMALL, ratio=0.5).budget is None


class Product:
    """A measure with a product of widths, as MACs have."""

    dense = 40.0 * 24 + 24 * 16

    def of(self, widths: list[int]) -> float:
        return float(widths[0] * widths[1] + widths[1] * widths[2])


@pytest.mark.parametrize("target", [100.0, 333.0, 500.0, 700.0, 1000.0, 1300.0])
def test_the_nearest_is_that_of_all_combinations(target: float) -> None:
    bounds = [Bound(dense, 8, 8, dense) for dense in (40, 24, 16)]
    generator = torch.Generator().manual_seed(1)
    scores = [torch.rand(bound.dense, generator=generator) for bound in bounds]
    measure = Product()
    got = measure.of(budget_widths(scores, bounds, measure, target, {}))
    every = {
        measure.of(list(each)) for each in itertools.product(*(range(8, b.dense + 1, 8) for b in bounds))
    }
    nearest = min(abs(each - target) for each in every - {measure.dense})
    assert abs(got - target) <= max(nearest, 0.02 * target)


class Counting(Product):
    """Counts how often it is asked."""

    asked = 0

    def of(self, widths: list[int]) -> float:
        self.asked += 1
        return float(sum(widths))


def test_a_budget_out_of_reach_is_not_searched_for() -> None:
    measure, scores = Counting(), [torch.rand(16) for _ in range(60)]
    assert budget_widths(scores, [Bound(16, 8, 8, 16)] * 60, measure, 479.0, {}) == [8] * 60
    assert measure.asked < 10


def test_a_search_ends_between_two_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiples of 8 come no nearer to 604 than 4, which all 7,140 pairs of steps would have to show."""
    times = itertools.count()
    monkeypatch.setattr(budget, "ended", lambda: "over" if next(times) > 10 else None)
    measure, scores = Counting(), [torch.rand(16) for _ in range(60)]
    found = budget_widths(scores, [Bound(16, 8, 8, 16)] * 60, measure, 604.0, {}, tolerance=0.001)
    assert abs(sum(found) - 604) == 4 and measure.asked < 1000


class Linear:
    """A measure to which a channel of each group adds as much whatever the others' widths."""

    def __init__(self, costs: tuple[float, ...], dense: list[int]) -> None:
        self.costs = costs
        self.dense = self.of(dense)

    def of(self, widths: list[int]) -> float:
        return sum(cost * width for cost, width in zip(self.costs, widths, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_losses_by_cost_lose_hardly_more_than_the_best_of_all_widths(seed: int) -> None:
    """A fractional knapsack is solved by the ratio of worth and weight, but for the last channel."""
    dense = [14, 12, 10]
    bounds, measure = [Bound(width, 1, 1, width) for width in dense], Linear((9.0, 3.0, 1.0), dense)
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.rand(width, generator=generator, dtype=torch.float64) for width in dense]
    lost = [torch.cat([torch.zeros(1), each.sort().values.cumsum(0)]) for each in scores]

    def loss(widths: list[int] | tuple[int, ...]) -> float:
        return sum(float(sums[all - kept]) for sums, all, kept in zip(lost, dense, widths, strict=True))

    target = 0.5 * measure.dense
    every = itertools.product(*(range(1, width + 1) for width in dense))
    best = min(loss(each) for each in every if measure.of(list(each)) <= 1.02 * target)
    by_cost, as_they_are = (
        loss(budget_widths(given, bounds, measure, target, {}))
        for given in (per_cost(scores, bounds, measure), scores)
    )
    assert best <= by_cost < 1.1 * best and by_cost < as_they_are


def test_layers_have_ratios_of_their_own() -> None:
    pruned = prune(small(), SMALL, ratio=0.5, scope="inside", layers={"layer3.*": 0.75, "layer1.0.conv1": 0})
    got = widths(pruned)
    assert (got["layer1.0.conv1"], got["layer2.0.conv1"], got["layer3.0.conv1"]) == (16, 16, 16)
    layers = {layer.name: layer for layer in pruned.layers}
    assert layers["layer1.0.conv1"].reason == "layers layer1.0.conv1: 0"
    assert layers["layer3.0.conv1"].rule == "layers layer3.*: 0.75"
    assert layers["layer2.0.conv1"].rule is None


class HalfReturned(nn.Module):
    """Half of the first layer's channels are an output of the network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.head(x[:, :16].relu()), x[:, 16:]


def test_a_ratio_says_which_filters_it_does_not_hold_for() -> None:
    layer, _ = prune(HalfReturned(), SMALL, ratio=0.0, layers={"stem": 0.5}).layers
    assert (layer.dense_width, layer.pruned_width, layer.reason) == (32, 24, None)
    assert set(range(16, 32)) < set(layer.kept)
    assert layer.rule == "layers stem: 0.5; 16 filters stay (is the network's output)"


def test_a_budget_is_met_by_the_other_layers() -> None:
    pruned = prune(small(), SMALL, macs=0.6, round_to=1, layers={"layer1.0.conv1": 0.25})
    assert widths(pruned)["layer1.0.conv1"] == 12
    assert share(pruned, "macs") == pytest.approx(0.6, rel=0.02)


@pytest.mark.parametrize("amount", [{"macs": 0.1}, {"ratio": 0.9}])
def test_limits_hold_under_any_amount(amount: dict[str, float]) -> None:
    limits = {"*": Limit(max=0.6), "layer1.*": Limit(width=12), "layer3.0.conv1": Limit(min=0.5)}
    got = widths(prune(small(), SMALL, round_to=4, scope="inside", limits=limits, **amount))  # type: ignore[arg-type]
    assert got["layer1.0.conv1"] == 12 and got["layer2.0.conv1"] == 16 and got["layer3.0.conv1"] == 28
    high = widths(prune(small(), SMALL, ratio=0, round_to=4, limits=limits))
    assert high["layer3.0.conv1"] == 32 and high["layer2.0.conv1"] == 32


def test_what_nothing_is_removed_of_keeps_a_width_that_is_no_multiple() -> None:
    odd = cifar_resnet(8, (18, 32, 32)).eval()
    for rules in ({"layers": {"layer1.0.conv1": 0}}, {"limits": {"layer1.0.conv1": Limit(max=0)}}):
        assert widths(prune(odd, SMALL, ratio=0.5, scope="inside", **rules))["layer1.0.conv1"] == 18  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [0.75, 0.8])
def test_as_many_filters_as_asked_for_stay_whatever_min_is(most: float) -> None:
    limits = {"layer3.0.conv1": Limit(min=0.75, max=most, width=32)}
    assert widths(prune(small(), SMALL, ratio=0.5, scope="inside", limits=limits))["layer3.0.conv1"] == 32


class Branches(nn.Module):
    """Two layers whose outputs are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(3, 16, 1), nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head((self.one(images) + self.other(images)).relu().mean((2, 3)))
        return logits


def test_a_ratio_holds_for_layers_that_are_cut_together() -> None:
    pruned = prune(Branches(), SMALL, ratio=0, round_to=1, layers={"one": 0.25})
    assert widths(pruned) == {"one": 12, "other": 12, "head": 4}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"layers": {"one": 0.25, "other": 0.5}},
            "one and other lose the same filters, but are given 'layers one: 0.25' and 'layers other: 0.5'",
        ),
        ({"layers": {"one": 0.25, "o*": 0.5}}, "one is given 'layers one: 0.25' and 'layers o*: 0.5'"),
        ({"layers": {"one": 0.5}, "limits": {"*": Limit(max=0.3)}}, "limits *: {max: 0.3}'"),
        (
            {"layers": {"oen": 0.5}},
            "layers: 'oen' matches no convolution or linear layer.*; did you mean one",
        ),
        (
            {"layers": {"head": 0.5}},
            "head stays dense (is the network's output); prunable is other",
        ),
        ({"layers": {"one": 1.0}}, "layers: 'one' must be in [0, 1), the share to remove, got 1.0"),
    ],
)
def test_rules_that_cannot_hold_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError) as error:
        prune(Branches(), SMALL, ratio=0.5, round_to=1, **rules)
    for part in message.split(".*"):
        assert part in str(error.value)


def test_a_shortcut_may_forbid_a_ratio() -> None:
    with pytest.raises(
        PruningError, match=r"cannot be cut to 8 filters by 'layers layer2.\*: 0.75': a shortcut"
    ):
        prune(small(), SMALL, ratio=0, layers={"layer2.*": 0.75})
