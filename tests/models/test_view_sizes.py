"""Views and attention in a module's code get other sizes, by the number of the call."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.models.view_sizes import all_view_sizes, set_view_sizes, uncounted


class Calls(nn.Module):
    """Every kind of call, with sizes for four heads of four; what is in the submodule counts too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Unflatten(-1, (4, 4))

    def forward(self, x: Tensor) -> Any:
        given = (
            x.view(-1, 4, 4), x.reshape((-1, 4, 4)), torch.reshape(x, shape=(-1, 4, 4)), self.inner(x),
            x.unflatten(dim=1, sizes=(4, 4)),
        )  # fmt: skip
        if x.shape[1] == 1:
            raise ValueError("refused")
        return given, F.scaled_dot_product_attention(*[given[0][None]] * 3)


def test_sizes_of_every_call() -> None:
    module, x = Calls(), torch.randn(3, 8)
    set_view_sizes(module, {str(number): {"2": 2} for number in range(5)} | {"5": {"scale": 0.5}})
    twin = copy.deepcopy(module)
    for network in (module, twin):
        given, attended = network(x)
        assert all(torch.equal(each, x.view(3, 4, 2)) for each in given)
        weights = (0.5 * x.view(3, 4, 2) @ x.view(3, 4, 2).transpose(1, 2)).softmax(-1)
        torch.testing.assert_close(attended[0], weights @ x.view(3, 4, 2))
    assert all_view_sizes(nn.Sequential(twin)) == {"0": all_view_sizes(module)[""]}
    x.view(2, 12)  # outside of the module nothing is changed


def test_an_error_in_the_forward_pass_changes_nothing_outside() -> None:
    module = Calls()
    set_view_sizes(module, {str(number): {"1": 1, "2": 1} for number in range(5)})
    with pytest.raises(ValueError, match="refused"):
        module(torch.zeros(3, 1))
    assert torch.zeros(4, 16).view(-1, 4, 4).shape == (4, 4, 4)


def test_what_hooks_call_is_not_counted() -> None:
    module = Calls()

    def hook(inner: nn.Module, inputs: Any, output: Tensor) -> None:
        with uncounted():
            output.reshape(-1)

    module.inner.register_forward_hook(hook)
    set_view_sizes(module, {str(number): {"2": 2} for number in range(5)})
    module(torch.zeros(3, 8))
