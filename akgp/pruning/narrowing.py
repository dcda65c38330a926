"""Prepares a network for cuts through its attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from akgp.models.attention import make_narrowable, narrowable
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Inputs
from akgp.pruning.coupling.preparation import as_pruning_error, copy_network


def with_narrowable_attention(model: nn.Module, example_input: Inputs, skipped: set[nn.Module]) -> nn.Module:
    """`model`, or a copy whose attention modules, except those skipped, are `models.attention`'s.

    Cross-attention, whose queries and keys stem from different tensors, stays as it is.
    """
    names = [name for name, module in model.named_modules() if module not in skipped and narrowable(module)]
    if not names:
        return model
    names = sorted(set(names) - _cross_attention(model, example_input, names))
    twin = copy_network(model)
    for name in names:
        make_narrowable(twin.get_submodule(name))
    return twin


def _cross_attention(model: nn.Module, example_input: Inputs, names: list[str]) -> set[str]:
    """Those modules that are called with several tensors, or not at all."""
    probe = copy_network(model)
    seen: dict[str, bool] = {}

    def observe(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = [*args, *(kwargs[key] for key in ("query", "key", "value") if key in kwargs)][:3]
            alike = all(each is given[0] for each in given)
            seen[name] = alike and seen.get(name, True)

        return hook

    for name in names:
        probe.get_submodule(name).register_forward_pre_hook(observe(name), with_kwargs=True)
    failure = f"cannot be traced with {example_input}"
    with as_pruning_error(model, failure), torch.no_grad(), eval_mode(probe):
        example_input.run(probe)
    return {name for name in names if not seen.get(name, False)}
