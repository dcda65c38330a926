"""Residual blocks that are removed whole, so that only their shortcuts are left.

In a small network a kernel takes about as long with half of its filters, and without the block no time:
at equal MACs a network of fewer and wider blocks is the faster one (results/blocks).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from akgp.evaluation.cost import count
from akgp.models.attention import given_name
from akgp.models.bypassed import bypass
from akgp.models.copying import deep_copy
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Example, Inputs
from akgp.pruning.coupling.layers import PRUNABLE, width
from akgp.pruning.coupling.outputs import output_tensors
from akgp.pruning.coupling.preparation import (
    PruningError,
    as_pruning_error,
    copy_network,
    on_device,
    require_prunable,
)
from akgp.pruning.coupling.random_weights import randomise
from akgp.pruning.dense_reference import DenseReference
from akgp.pruning.int8_bytes import int8_bytes
from akgp.pruning.narrowing import with_narrowable_attention
from akgp.pruning.record import Layer, Pruned

CLOSE = 1e-4
"""Largest difference of outputs, as a share of the largest of them."""


@torch.random.fork_rng(devices=[])
def residual_blocks(model: nn.Module, example_input: Example) -> list[str]:
    """The blocks that `without_blocks` can remove, by name; `model` is neither changed nor run.

    A block is a module with layers that is called once and hands on its first argument, a tensor, once its
    parameters and statistics are zero: so do ResNets' blocks but most that begin a stage, inverted residuals,
    and blocks of ConvNeXt and pre-norm transformers. Not found are blocks that are no module of their own,
    that normalise the sum, or whose weights are reparametrised. Of blocks within each other the innermost
    count; those without which the network computes something else, or nothing, do not.

    Args:
        example_input: [N, ...] for a forward pass, or as for `prune`; its values do not matter.

    Raises:
        PruningError: the network cannot be run with it.
    """
    require_prunable(model)
    inputs = _noise_like(on_device(model, example_input))
    calls = _calls(model, inputs)
    blocks = [name for name, call in calls.items() if _hands_on(model.get_submodule(name), call)]
    innermost = [name for name in blocks if not any(other.startswith(f"{name}.") for other in blocks)]
    return [name for name in innermost if _is_as_with_zeros(model, [name], inputs)]


@torch.random.fork_rng(devices=[])
def without_blocks(model: nn.Module, example_input: Example, names: Sequence[str]) -> Pruned:
    """A copy of `model` without these residual blocks; with it as `after`, `prune` cuts filters too.

    first = without_blocks(network, example, ["layer1.2"])
    pruned = prune(first.model, example, macs=0.5, after=first)  # half of the whole network's MACs

    The copy computes what `model` does with the blocks' own parameters at zero, which is checked.

    Args:
        example_input: as for `residual_blocks`.
        names: of the blocks, or patterns of names (* and ?).

    Raises:
        PruningError: a name matches no residual block; as `residual_blocks`.
    """
    if isinstance(names, str) or not all(isinstance(each, str) for each in names):
        raise PruningError(f"bypass must be a list of names of blocks, got {names!r}")
    blocks = residual_blocks(model, example_input)
    for each in names:
        if not any(fnmatchcase(name, each) for name in blocks):
            raise PruningError(
                f"bypass: {each!r} is no residual block of {type(model).__name__}; such are "
                f"{', '.join(blocks) or 'none of its modules'}"
            )
    gone = [name for name in blocks if any(fnmatchcase(name, each) for each in names)]
    inputs = on_device(model, example_input)
    if len(gone) > 1 and not _is_as_with_zeros(model, gone, _noise_like(inputs)):
        raise PruningError(f"bypass: {', '.join(gone)} cannot all be removed from {type(model).__name__}")
    layers = _layers(with_narrowable_attention(model, inputs, set()), gone)
    left = {layer.name: torch.tensor(layer.kept) for layer in layers if layer.kept}
    origin = DenseReference(count(copy_network(model), inputs), int8_bytes(model), left)
    return Pruned(_bypassing(model, gone), layers, origin=origin)


def _bypassing(model: nn.Module, gone: Sequence[str]) -> nn.Module:
    smaller = copy_network(model)
    for name in gone:
        bypass(smaller, name)
    return smaller


def _layers(model: nn.Module, gone: Sequence[str]) -> list[Layer]:
    """Each layer by the name that it has without the blocks; one that others share is not gone with them."""
    twin = copy_network(model)
    before = _prunable(twin)
    for name in gone:
        bypass(twin, name)
    after = {id(layer): name for name, layer in _prunable(twin).items()}
    layers = []
    for name, layer in before.items():
        dense = width(layer)
        block = next((each for each in gone if name.startswith(f"{each}.")), None)
        kept = tuple(range(dense)) if id(layer) in after else ()
        rule = None if kept else f"bypass ({block})"
        given = given_name(twin, after[id(layer)]) if kept else given_name(model, name)
        layers.append(Layer(given, kept, dense, len(kept), None, rule))
    return layers


def _prunable(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE)}


@dataclass
class _Call:
    """What a module was called with, and whether it may be a block by what it gave."""

    args: tuple[Any, ...]
    named: dict[str, Any]
    fits: bool = False

    @property
    def handed(self) -> Any:
        return self.args[0] if self.args else None


def _calls(model: nn.Module, inputs: Inputs) -> dict[str, _Call]:
    """The modules with layers that, called once, give a tensor of their first argument's shape."""
    twin = copy_network(model)
    calls: dict[str, _Call] = {}
    times: Counter[str] = Counter()

    def before(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, named: Any) -> None:
            times[name] += 1
            # Copies: what follows may compute in place.
            copies = pytree.tree_map_only(Tensor, lambda each: each.clone(), (args, named))
            calls[name] = _Call(*copies)

        return hook

    def behind(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            x = calls[name].handed
            both = isinstance(x, Tensor) and isinstance(output, Tensor) and x.is_floating_point()
            calls[name].fits = both and (output.shape, output.dtype) == (x.shape, x.dtype)

        return hook

    for name, module in twin.named_modules():
        if name and not isinstance(module, PRUNABLE) and _prunable(module):
            module.register_forward_pre_hook(before(name), with_kwargs=True)
            module.register_forward_hook(behind(name))
    with as_pruning_error(model, f"cannot be run with {inputs}"), torch.no_grad(), eval_mode(twin):
        inputs.run(twin)
    return {name: call for name, call in calls.items() if call.fits and times[name] == 1}


def _hands_on(block: nn.Module, call: _Call) -> bool:
    """Whether the block's output is its first argument once its parameters and statistics are zero."""
    without, x = deep_copy(block), call.handed
    _zero([without])
    # Where it was nowhere negative, behind a ReLU, it never is.
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    noise = noise if bool((x < 0).any()) else noise.abs()
    with suppress(Exception), torch.no_grad(), eval_mode(without):  # its code may not bear zeros
        return torch.equal(without(noise.clone(), *call.args[1:], **call.named), noise)
    return False


def _zero(blocks: Iterable[nn.Module], others: Iterable[nn.Module] = ()) -> None:
    """Set the blocks' parameters and statistics to zero, but those that other modules have too."""
    shared = {id(tensor) for module in others for tensor in _own(module)}
    for tensor in (each for block in blocks for module in block.modules() for each in _own(module)):
        if tensor.is_floating_point() and id(tensor) not in shared:
            tensor.data.zero_()


def _own(module: nn.Module) -> Iterator[Tensor]:
    yield from (*module.parameters(recurse=False), *module.buffers(recurse=False))


def _outside(module: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The module and all that is registered in it, other than in these blocks."""
    yield module
    for child in module.children():
        if not any(child is block for block in blocks):
            yield from _outside(child, blocks)


def _is_as_with_zeros(model: nn.Module, gone: Sequence[str], inputs: Inputs) -> bool:
    """Whether the network without the blocks runs, and computes what it does with them at zero.

    With random weights, as a head of zeros would hide a difference.
    """
    filled = copy_network(model)
    randomise(filled)
    zeroed = copy_network(filled)
    blocks = [zeroed.get_submodule(name) for name in gone]
    _zero(blocks, _outside(zeroed, blocks))
    try:
        found, wanted = (list(_outputs(each, inputs)) for each in (_bypassing(filled, gone), zeroed))
    except Exception:  # its code may read what a block had
        return False
    return bool(found) and len(found) == len(wanted) and all(map(_are_close, found, wanted))


def _outputs(model: nn.Module, inputs: Inputs) -> Iterator[Tensor]:
    """Of a copy, which is changed: random numbers start anew around each module, whatever was drawn."""
    for module in model.modules():
        module.register_forward_pre_hook(_seed)
        module.register_forward_hook(_seed)
    with torch.no_grad(), eval_mode(model):
        given = inputs.map(lambda each: each.clone()).run(model)
    yield from output_tensors(given)


def _seed(*given: Any) -> None:
    torch.default_generator.manual_seed(0)  # torch.manual_seed would seed the GPUs too


def _are_close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape:
        return False
    largest = wanted.abs().max()
    return bool(largest.isfinite()) and bool((found - wanted).abs().max() <= CLOSE * largest)


def _noise_like(inputs: Inputs) -> Inputs:
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return like
        return torch.randn(like.shape, generator=generator).to(like)

    return inputs.map(noise)
