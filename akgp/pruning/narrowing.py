"""Prepares a network for cuts through its attention."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from akgp.models.attention import make_narrowable_in, narrowable
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Inputs
from akgp.pruning.coupling.preparation import as_pruning_error, copy_network


def with_narrowable_attention(model: nn.Module, example_input: Inputs, skipped: set[nn.Module]) -> nn.Module:
    """`model`, or a copy whose attention modules, except those skipped, are `models.attention`'s.

    A module that is not called stays as it is, and one of several sequences whose weights others have too.
    """
    names = [name for name, module in model.named_modules() if module not in skipped and narrowable(module)]
    if not names:
        return model
    twin = copy_network(model)
    users = Counter(id(each) for module in twin.modules() for each in module._parameters.values())
    for name, several in _called_with_several(model, example_input, names).items():
        module = twin.get_submodule(name)
        shared = any(users[id(each)] > 1 for each in module.parameters(recurse=False))
        if not (several and shared):
            make_narrowable_in(twin, name, several)
    return twin


def _called_with_several(model: nn.Module, example_input: Inputs, names: list[str]) -> dict[str, bool]:
    """Of those modules that are called, whether it is with different tensors as query, key and value."""
    probe = copy_network(model)
    seen: dict[str, bool] = {}

    def observe(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = [*args, *(kwargs[key] for key in ("query", "key", "value") if key in kwargs)][:3]
            several = any(each is not given[0] for each in given)
            seen[name] = several or seen.get(name, False)

        return hook

    for name in names:
        probe.get_submodule(name).register_forward_pre_hook(observe(name), with_kwargs=True)
    failure = f"cannot be traced with {example_input}"
    with as_pruning_error(model, failure), torch.no_grad(), eval_mode(probe):
        example_input.run(probe)
    return seen
