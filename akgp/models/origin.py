"""Finds what builds a network again: its function or class by name, and its dense network without weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from akgp.models.attention import added_layers, original_kind
from akgp.models.building import create
from akgp.models.bypassed import bypass, bypassed_names
from akgp.models.lazy_layers import settle
from akgp.models.spec import ModelError, Spec


def infer_spec(model: nn.Module, architecture: str | None = None) -> Spec:
    """The spec of a network that was built elsewhere; see `save`.

    Raises:
        ModelError: there is none; says what to do.
    """
    # Pruning keeps input channels and classes, so the first and the last layer have them.
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    if layers:
        first, last = layers[0], layers[-1]
        num_classes = last.out_features if isinstance(last, nn.Linear) else last.out_channels
        in_channels = first.in_channels if isinstance(first, nn.Conv2d) else 1
        if architecture:
            create(Spec(architecture, num_classes, in_channels))  # says what is wrong with it
        for name in [architecture] if architecture else _candidates(model):
            spec = Spec(name, num_classes, in_channels)
            # An AttributeError: it lacks the block.
            with contextlib.suppress(ModelError, AttributeError):
                if modules_of(like(model, skeleton(spec))) == modules_of(model):
                    return spec
    if architecture:
        raise ModelError(f"architecture: {architecture} builds other modules than {type(model).__name__}'s")
    raise ModelError(
        f"{type(model).__name__}: nothing that can be imported builds this network again; name what does: "
        "save(model, directory, architecture='module:function'), a function of num_classes"
    )


def _candidates(model: nn.Module) -> Iterator[str]:
    """Architectures that may have built the network."""
    kind = original_kind(model)
    module = kind.__module__
    if module.startswith("torchvision.models."):
        from torchvision import models

        yield from (n for n in models.list_models() if models.get_model_builder(n).__module__ == module)
    elif module != "__main__":
        described = getattr(model, "pretrained_cfg", None)  # timm's networks name their function
        if isinstance(described, dict) and module.startswith("timm."):
            yield f"timm.models:{described.get('architecture')}"  # in whatever module of it the function is
        yield f"{module}:{kind.__qualname__}"


def skeleton(spec: Spec) -> nn.Module:
    """The dense network of `spec`, if possible without weights: initialising them can take seconds."""
    # On the meta device nothing has values, so a constructor that computes fails, as RegNet's does.
    for device in (torch.device("meta"), _EmptyOnMeta()):
        with contextlib.suppress(NotImplementedError, RuntimeError, ModelError), device:
            return settle(create(spec))
    return settle(create(spec))  # its constructor computes with the weights themselves


class _EmptyOnMeta(TorchFunctionMode):
    """Gives parameters, which modules make by torch.empty, no storage; other tensors have values."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        on_meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **(kwargs or {}) | on_meta)


def like(model: nn.Module, dense: nn.Module) -> nn.Module:
    """`dense`, in which the blocks are bypassed, in place, that are in `model`."""
    for name in bypassed_names(model):
        bypass(dense, name)
    return dense


def modules_of(model: nn.Module) -> list[tuple[str, str, str]]:
    """Names and classes of all modules: what pruning leaves as it is."""
    # By name: a parametrised layer, such as one of weight_norm, has a class of its own.
    added = {
        f"{name}.{each}".lstrip(".")
        for name, module in model.named_modules()
        for each in added_layers(module)
    }
    kinds = ((name, original_kind(module)) for name, module in model.named_modules() if name not in added)
    return [(name, kind.__module__, kind.__qualname__) for name, kind in kinds]
