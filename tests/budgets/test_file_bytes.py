"""A budget of bytes: of the values in an int8 file, and of the file itself."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from akgp.budgets.file_bytes import file_bytes, prune_to_file_bytes
from akgp.models import cifar_resnet
from akgp.pruning import Pruned, PruningError, Reached, int8_bytes, prune
from akgp.runtimes import RUNTIMES

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 48, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(48 * 16, 10),
    ).eval()  # fmt: skip


def test_values_are_counted_by_kind() -> None:
    model = nn.Sequential(*network()[:4], nn.LayerNorm([48, 4, 4]))
    weights, filters = 64 * 27 + 48 * 576, 64 + 48
    assert int8_bytes(model) == weights + 17 * filters + 4 * 2 * 48 * 16


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_file_that_a_runtime_is_given_is_below_the_budget(runtime: str) -> None:
    """So small that layers have fewer than 16 filters, which onnxruntime's file fills up with zeros."""
    model, size = network(), partial(file_bytes, example=EXAMPLE, runtime=RUNTIMES[runtime])
    made = prune_to_file_bytes(
        lambda values: prune(model, EXAMPLE, bytes=values, round_to=2), size, model, 14_000
    )
    assert made.budget is not None and size(made.model) == made.budget.reached <= 14_000
    assert min(layer.pruned_width for layer in made.layers) < 16


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_budget_of_values_is_met_and_is_what_the_cut_network_has(share: float) -> None:
    model = cifar_resnet(8).eval()
    asked = int(share * int8_bytes(model))
    pruned = prune(model, EXAMPLE, bytes=asked, round_to=2)
    assert pruned.budget == Reached("bytes", asked, int8_bytes(pruned.model), None)
    assert int8_bytes(pruned.model) == pytest.approx(asked, rel=0.01)


def fixed(values: int) -> Pruned:
    """A cut of a layer to multiples of 50 bytes, somewhat less than asked for."""
    model = nn.Linear(max(1, (values - 17) // 50 * 50), 1, bias=False)
    return Pruned(model, [], Reached("bytes", values, int8_bytes(model), None))


@pytest.mark.parametrize("beside", [0, 100, 3000])
def test_the_file_is_below_the_budget_whatever_it_holds_beside_the_values(beside: int) -> None:
    dense = nn.Linear(20_000, 1, bias=False)
    made = prune_to_file_bytes(
        fixed, lambda model: int8_bytes(model) + beside + int8_bytes(model) // 10, dense, 10_000
    )
    assert made.budget is not None and made.budget.why is None
    assert 9_800 <= made.budget.reached <= 10_000


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (25_000, "25,000 asked, but the dense network's int8 file has 20,917"),
        (800, "800 asked, but no int8 file is that small: the dense network's has 20,917, 900 of them names"),
    ],
)
def test_a_budget_that_no_file_meets_is_refused(asked: int, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune_to_file_bytes(
            fixed, lambda model: int8_bytes(model) + 900, nn.Linear(20_000, 1, bias=False), asked
        )


def test_bytes_must_be_a_number_of_them() -> None:
    for wrong in (0, True, float("inf")):
        with pytest.raises(PruningError, match=r"bytes must be in \(0, inf\)"):
            prune(network(), EXAMPLE, bytes=wrong)  # type: ignore[arg-type]
