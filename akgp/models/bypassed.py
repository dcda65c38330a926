"""Residual blocks of which only the shortcut is left, a module that hands on what it is given."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Bypassed(nn.Module):
    """What is left of a block."""

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        return x


def bypass(model: nn.Module, name: str) -> None:
    """Put a `Bypassed` in the place of the module `name`, in place and wherever it is registered.

    Raises:
        AttributeError: there is no such module.
    """
    block = model.get_submodule(name)
    left = Bypassed().train(block.training)
    for parent in model.modules():
        for key, child in parent._modules.items():
            if child is block:
                parent._modules[key] = left


def bypassed_names(model: nn.Module) -> list[str]:
    """The names of a network's bypassed blocks."""
    return [name for name, module in model.named_modules() if isinstance(module, Bypassed)]
