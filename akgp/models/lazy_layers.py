"""Lazy layers, such as `nn.LazyLinear`, whose sizes come from the first input."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin


def settle(model: nn.Module) -> nn.Module:
    """`model`, whose lazy layers have the classes that a first input would give them, in place.

    Their parameters have no values and their sizes are 0 until both are set from a file.
    """
    modules: list[Any] = [each for each in model.modules() if isinstance(each, LazyModuleMixin)]
    for module in modules:
        for hook in ("_initialize_hook", "_load_hook"):
            getattr(module, hook).remove()
            delattr(module, hook)
        if module.cls_to_become is not None:
            module.__class__ = module.cls_to_become
    return model
