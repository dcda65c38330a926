"""Residual blocks of which only the shortcut is left, a module that hands on what it is given."""

from __future__ import annotations

from torch import nn


class Bypassed(nn.Identity):
    """What is left of a block."""


def bypass(model: nn.Module, name: str) -> None:
    """Put a `Bypassed` in the place of the module `name`, in place.

    Raises:
        AttributeError: there is no such module.
    """
    model.get_submodule(name)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, Bypassed())


def bypassed_names(model: nn.Module) -> list[str]:
    """The names of a network's bypassed blocks."""
    return [name for name, module in model.named_modules() if isinstance(module, Bypassed)]
