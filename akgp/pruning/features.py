"""Runs a network once and hands out what its layers compute: the features by which a cut is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Inputs
from akgp.pruning.coupling.layers import PRUNABLE
from akgp.pruning.coupling.outputs import output_tensors
from akgp.pruning.masking import Different
from akgp.pruning.module_progress import module_progress

NORMS = (_BatchNorm,)
COMPARED = 2
"""How many inputs of a batch have their features kept and compared."""
OUTPUT = "the network's output"
"""The name of an output among the features, followed by its number."""

DROPOUTS = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
    torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout,
)  # fmt: skip

Feature = Callable[[str, Tensor, int], None]
"""Takes a layer's name, its output, and its dimension of channels."""


def restricted(feature: Feature, kept: dict[str, Tensor]) -> Feature:
    """`feature`, called with the first inputs and the surviving channels alone."""

    def restricted(name: str, value: Tensor, channels: int) -> None:
        value = value[:COMPARED] if channels % max(1, value.ndim) else value  # where dimension 0 is the batch
        indices = kept.get(name)
        # Always a copy: an in-place activation behind the layer would change its output.
        value = value.clone() if indices is None else value.index_select(channels, indices.to(value.device))
        feature(name, value, channels)

    return restricted


def recorder(features: list[tuple[str, Tensor, int]]) -> Feature:
    """A function that appends what it is given to `features`."""
    return lambda *feature: features.append(feature)


def run(model: nn.Module, noise: Inputs, feature: Feature) -> None:
    """Run one forward pass in eval mode; call `feature` with every layer's output, then the network's."""

    def hook(name: str, channels: int) -> Callable[..., None]:
        def observe(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                feature(name, output, channels)

        return observe

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*PRUNABLE, *NORMS)):
            # Counted from the end for convolutions and linear layers, which take unbatched inputs too.
            channels = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else 1
            channels = -1 if isinstance(module, nn.Linear) else channels
            handles.append(module.register_forward_hook(hook(name, channels)))
    try:
        torch.default_generator.manual_seed(0)  # a forward pass may be random in eval mode too
        with torch.no_grad(), eval_mode(model), module_progress(model), _Undropped():
            outputs = list(output_tensors(noise.run(model)))
    finally:
        for handle in handles:
            handle.remove()
    if not outputs:
        raise ValueError(
            "its forward pass returns no tensor, or in an object other than a tuple, list, dict or dataclass"
        )
    for index, output in enumerate(outputs):
        feature(f"{OUTPUT} {index}", output, 1 if output.ndim > 1 else 0)


class _Undropped(TorchFunctionMode):
    """Lets dropout that stays on in eval mode pass its input on: a cut network would draw other noise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


def first_finite(
    model: nn.Module, inputs: Sequence[Inputs], record: Feature, features: list[tuple[str, Tensor, int]]
) -> Inputs:
    """Run `model` on each of `inputs` until it gives finite values; those, or the last."""
    for noise in inputs:
        features.clear()
        try:
            run(model, noise, record)
        except Exception as error:
            if noise is inputs[-1] or isinstance(error, Different):
                raise
            continue
        if is_finite(features[-1][1]):  # the network's output
            break
    return noise


def is_finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())
