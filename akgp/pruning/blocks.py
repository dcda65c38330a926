"""Residual blocks that are removed whole, so that only their shortcuts are left.

A block costs a small network's kernels about the same whatever its width: one of an early stage takes more
time with it than half of its filters (results/blocks). What is removed is all filters of the block's branch.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from akgp.evaluation.cost import count
from akgp.models.attention import given_name
from akgp.models.bypassed import bypass
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Example, Inputs
from akgp.pruning.coupling.layers import PRUNABLE, width
from akgp.pruning.coupling.preparation import PruningError, as_pruning_error, copy_network, require_prunable
from akgp.pruning.int8_bytes import int8_bytes
from akgp.pruning.narrowing import with_narrowable_attention
from akgp.pruning.origin import Origin
from akgp.pruning.record import Layer, Pruned


def residual_blocks(model: nn.Module, example_input: Example) -> list[str]:
    """The modules that hand on what they are given once their parameters are zero, by name.

    So do ResNets' blocks but those that begin a stage, inverted residuals, and blocks of transformers and
    ConvNeXt. Of blocks within each other the innermost count. `model` is neither changed nor run.

    Args:
        example_input: [N, ...] for a forward pass, or as for `prune`; its values do not matter.

    Raises:
        PruningError: the network cannot be run with it.
    """
    require_prunable(model)
    twin = copy_network(model)
    noise = torch.Generator().manual_seed(0)
    inputs = Inputs.of(twin, example_input).map(lambda each: _noise(each, noise, signed=True))
    with as_pruning_error(model, f"cannot be run with {inputs}"), torch.no_grad(), eval_mode(twin):
        seen = _shape_kept(twin, inputs)
    blocks = [
        name for name, given in seen.items()
        if _hands_on(twin.get_submodule(name), _noise(given, noise, signed=bool((given < 0).any())))
    ]  # fmt: skip
    return [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]


def without_blocks(model: nn.Module, example_input: Example, names: Sequence[str]) -> Pruned:
    """A copy of `model` without these residual blocks; with it as `after`, `prune` cuts filters too.

    first = without_blocks(network, example, ["layer1.2"])
    pruned = prune(first.model, example, macs=0.5, after=first)  # half of the whole network's MACs

    Args:
        example_input: as for `residual_blocks`.
        names: of the blocks, or patterns of names (* and ?).

    Raises:
        PruningError: a name matches no residual block; as `residual_blocks`.
    """
    blocks = residual_blocks(model, example_input)
    gone = [name for name in blocks if any(fnmatchcase(name, each) for each in names)]
    for each in names:
        if not any(fnmatchcase(name, each) for name in gone):
            raise PruningError(
                f"bypass: {each!r} is no residual block of {type(model).__name__}; such are "
                f"{', '.join(blocks) or 'none of its modules'}"
            )
    smaller = copy_network(model)
    for name in gone:
        bypass(smaller, name)
    inputs = Inputs.of(model, example_input)
    layers = _layers(with_narrowable_attention(model, inputs, set()), gone)
    left = {layer.name: torch.tensor(layer.kept) for layer in layers if layer.kept}
    origin = Origin(count(copy_network(model), inputs), int8_bytes(model), left)
    return Pruned(smaller, layers, origin=origin)


def _layers(model: nn.Module, gone: Iterable[str]) -> list[Layer]:
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE):
            block = next((each for each in gone if name.startswith(f"{each}.")), None)
            dense = width(module)
            kept = () if block else tuple(range(dense))
            rule = f"bypass ({block})" if block else None
            layers.append(Layer(given_name(model, name), kept, dense, len(kept), None, rule))
    return layers


def _noise(like: Tensor, generator: torch.Generator, *, signed: bool) -> Tensor:
    """Random values instead of a tensor's, nowhere negative unless signed; whole numbers stay."""
    if not like.is_floating_point():
        return like
    values = torch.randn(like.shape, generator=generator).to(like)
    return values if signed else values.abs()


def _shape_kept(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """What each module is given that has layers and, called once with a tensor, gives one of its shape."""
    seen: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls[name] += 1
            alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
            if alone and isinstance(output, Tensor) and output.shape == args[0].shape:
                seen[name] = args[0].clone()  # the block may compute in place

        return hook

    for name, module in model.named_modules():
        if name and not isinstance(module, PRUNABLE) and _has_layers(module):
            module.register_forward_hook(note(name), with_kwargs=True)
    inputs.run(model)
    return {name: given for name, given in seen.items() if calls[name] == 1 and given.is_floating_point()}


def _has_layers(module: nn.Module) -> bool:
    return any(isinstance(each, PRUNABLE) for each in module.modules())


def _hands_on(block: nn.Module, given: Tensor) -> bool:
    """Whether the block's output is its input once all of its parameters are zero."""
    without = copy.deepcopy(block)
    without._forward_hooks.clear()
    with torch.no_grad(), eval_mode(without):
        for parameter in without.parameters():
            parameter.zero_()
        return torch.equal(without(given.clone()), given)
