"""Removes units from a network's parameters.

A parameter that is cut keeps its requires_grad, dtype, device and memory format, and stays shared with whom
it was shared. Which units are removed is decided elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.weight_norm import WeightNorm

from akgp.models import ChannelMap
from akgp.models.eval_mode import eval_mode
from akgp.models.layout import INPUTS, OUTPUTS, has_layout, set_layout
from akgp.models.view_sizes import Changes, set_all_view_sizes
from akgp.pruning.coupling.groups import layer_filters
from akgp.pruning.coupling.layers import PRUNABLE
from akgp.pruning.coupling.marks import shrink, varying
from akgp.pruning.coupling.network import Coupling, folds
from akgp.pruning.coupling.trace import named_tensors
from akgp.pruning.entries import Entries

COMPUTING = (BasePruningMethod, WeightNorm)
"""Hooks that set a module's weight: to a masked one, or by the older weight normalisation."""
DIRECTIONS = ("weight_v", "parametrizations.weight.original1")
"""Weight normalisation's v: zeros in it would be divided by their norm."""


@dataclass(frozen=True)
class Removal:
    """What is removed from a network, by id.

    Attributes:
        alive: whether an id's unit stays [count].
        present: whether activations hold its position: alive, or in a dense layout [count].
        adapted: layers whose inputs and outputs can be given a layout of their own.
        view_sizes: sizes that calls in the code of modules must have, by module.
    """

    coupling: Coupling
    alive: Tensor
    present: Tensor
    adapted: frozenset[str]
    view_sizes: Mapping[str, Changes] = field(default_factory=dict)

    def keeps(self, name: str) -> Tensor:
        """Which ids stay in the parameter `name`."""
        inside = any(name.startswith(f"{layer}." if layer else "") for layer in self.owners(name))
        return self.alive if inside else self.present

    def owners(self, name: str) -> list[str]:
        """The adapted layers that the parameter may belong to."""
        parts = name.split(".")
        return [prefix for n in range(len(parts)) if (prefix := ".".join(parts[:n])) in self.adapted]


def removal(model: nn.Module, coupling: Coupling, removed: Iterable[int]) -> Removal:
    """The removal of these units."""
    alive = ~coupling.mask(removed)
    present = alive | coupling.mask(coupling.held)
    return Removal(coupling, alive, present, _adaptable(model, coupling, alive == present))


def _adaptable(model: nn.Module, coupling: Coupling, plain: Tensor) -> frozenset[str]:
    """Layers that are called with one tensor, and whose parameters nothing else reads.

    Args:
        plain: which ids no layout holds [count]; a parameter of these alone, such as a bias, may be read.
    """
    names = {id(tensor): name for name, tensor in named_tensors(model)}
    result = set()
    for name, module in model.named_modules():
        inputs = coupling.record.inputs.get(name)
        if not isinstance(module, PRUNABLE) or not inputs or any(each is None for each in inputs):
            continue
        first = inputs[0]
        alike = all(torch.equal(coupling.labels[first], coupling.labels[each]) for each in inputs[1:])
        parameters = [names[id(each)] for each in module.parameters()]
        users = set[str]().union(
            *(
                coupling.record.uses[each]
                for each in parameters
                if not all(plain[shrink(ids)].all() for ids in coupling.layers.get(each, ()))
            )
        )
        if alike and all(user == name or user.startswith(f"{name}.") for user in users):
            result.add(name)
    return frozenset(result)


def hold_layouts(model: nn.Module, coupling: Coupling) -> None:
    """Keep the layouts that an earlier cut has kept, around the layers that it adapted."""
    filters = {name: ids for name, _, ids in layer_filters(model, coupling)}
    for name, module in model.named_modules():
        if has_layout(module):
            kept = [filters[name]] if OUTPUTS in module._buffers and name in filters else []
            if INPUTS in module._buffers:
                kept += [ids for ids in coupling.record.inputs[name] if ids is not None]
            coupling.hold(kept, "an earlier cut kept it")


def cut(model: nn.Module, removed: Removal) -> dict[str, tuple[Tensor, ...]]:
    """Remove units from the parameters of `model`, in place, and give the ids that these have left.

    Raises:
        ValueError: a parameter would not stay rectangular.
    """
    with eval_mode(model):  # in training a weight of spectral_norm's changes whenever it is read
        return _cut(model, removed)


def _cut(model: nn.Module, removed: Removal) -> dict[str, tuple[Tensor, ...]]:
    _fold(model, removed)
    coupling, layers = removed.coupling, {}
    owners, before = _owners(model), dict(model.named_parameters())
    for name, tensor in list(named_tensors(model)):
        if name not in coupling.layers:
            continue
        chosen = Entries(name, tensor, coupling.layers[name], removed.keeps(name))
        values = chosen.of(tensor.detach())
        if isinstance(tensor, nn.Parameter) and not name.endswith(DIRECTIONS):
            # Removed filters whose layout stays: zeros.
            for ids in (layers_left := tuple(chosen.of_ids(ids) for ids in coupling.layers[name])):
                dead = ~removed.alive[shrink(ids)]
                if dead.any():
                    values = values.masked_fill(dead.to(values.device), 0)
            layers[name] = layers_left
        else:
            layers[name] = tuple(chosen.of_ids(ids) for ids in coupling.layers[name])
        if values.shape != tensor.shape or not torch.equal(values, tensor):
            _set(owners[id(tensor)], values, tensor)
    _share_memory(model, before)
    _set_layouts(model, removed)
    _cut_shortcuts(model, removed, layers)
    for module in model.modules():
        _recompute(module)
        _patch(module)
    set_all_view_sizes(model, removed.view_sizes)
    return layers


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Tensor, by identity -> the modules and attributes that hold it."""
    owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for module in model.modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                owners[id(tensor)].append((module, name))
    return owners


def _set(owners: list[tuple[nn.Module, str]], values: Tensor, old: Tensor) -> None:
    # A new parameter, so that no gradient of the old shape stays attached.
    new = nn.Parameter(values, old.requires_grad) if isinstance(old, nn.Parameter) else values
    for module, name in owners:
        (module._parameters if isinstance(old, nn.Parameter) else module._buffers)[name] = new  # type: ignore[assignment]


def _share_memory(model: nn.Module, before: dict[str, nn.Parameter]) -> None:
    """Let parameters that shared memory, such as a weight and its transpose, share it again."""
    first: dict[int, tuple[str, nn.Parameter]] = {}
    for name, old in before.items():
        base, one = first.setdefault(old.untyped_storage()._cdata, (name, old))
        if base == name or old.numel() != one.numel():
            continue
        new, source = model.get_parameter(name), model.get_parameter(base)
        order = [list(one.stride()).index(stride) for stride in old.stride()]
        if new is not old and source.permute(order).shape == new.shape:
            new.data = source.data.permute(order)


def _fold(model: nn.Module, removed: Removal) -> None:
    """Add what removed columns would have read, where that is a constant, to the bias."""
    for fold in folds(model, removed.coupling):
        gone = ~removed.alive[fold.ids]
        if not gone.any():
            continue
        module = model.get_submodule(fold.module)
        assert isinstance(module, PRUNABLE)
        weight_OI = (
            module.weight.detach().flatten(2).sum(2) if module.weight.ndim > 2 else module.weight.detach()
        )
        columns = _column_ids(model, fold.module, removed.coupling)
        assert columns is not None
        values = torch.zeros(weight_OI.shape[1], dtype=torch.float64)
        value_of = dict(zip(fold.ids[gone].tolist(), fold.values[gone].tolist(), strict=True))
        for position, unit in enumerate(columns.tolist()):
            values[position] = value_of.get(unit, 0.0)
        with torch.no_grad():
            assert module.bias is not None
            module.bias += (weight_OI.double() @ values.to(weight_OI.device)).to(module.bias)


def _set_layouts(model: nn.Module, removed: Removal) -> None:
    """Adapt the layers around activations that keep their layout."""
    coupling = removed.coupling
    filters = {name: ids for name, _, ids in layer_filters(model, coupling)}
    for name in removed.adapted:
        arriving = coupling.record.inputs[name][0]
        assert arriving is not None
        there = removed.present[arriving]
        columns = _column_ids(model, name, coupling)
        wanted = removed.alive[arriving if columns is None else columns]
        if len(wanted) != len(arriving):  # a convolution in groups that keeps its columns
            wanted = torch.ones_like(there)
        inputs = (there.cumsum(0) - 1)[wanted & there] if not wanted[there].all() else None
        outputs = None
        if name in filters:
            alive, there = removed.alive[filters[name]], removed.present[filters[name]]
            if not alive[there].all():
                outputs = torch.where(alive, alive.cumsum(0) - 1, -1)[there]
        if inputs is not None or outputs is not None:
            set_layout(model.get_submodule(name), inputs, outputs)


def _column_ids(model: nn.Module, name: str, coupling: Coupling) -> Tensor | None:
    """The ids of a layer's columns [I]; None for those of a convolution in groups."""
    names = {id(tensor): each for each, tensor in named_tensors(model)}
    module = model.get_submodule(name)
    column = 0 if isinstance(module, _ConvTransposeNd) else 1
    for parameter in module.parameters():
        for ids in coupling.layers.get(names[id(parameter)], ()):
            if varying(ids) == (column,):
                return shrink(ids).reshape(-1)
    return None


def _cut_shortcuts(model: nn.Module, removed: Removal, layers: dict[str, tuple[Tensor, ...]]) -> None:
    """Cut option A's shortcuts, whose inputs and outputs are removed independently of each other."""
    for name, (inputs, outputs) in removed.coupling.record.shortcuts.items():
        module = model.get_submodule(name)
        assert isinstance(module, ChannelMap)
        kept = removed.present[outputs]
        index = module.index[kept.to(module.index.device)]
        layers[f"{name}.index"] = (outputs[kept],)
        if len(inputs):
            there = removed.present[inputs]
            position = torch.full((module.in_channels + 1,), -1)  # the last entry maps -1 (zeros) to itself
            position[:-1][there] = torch.arange(int(there.sum()))  # outputs of a removed input get -1: zeros
            index = position.to(index.device)[index]
            module.in_channels = int(there.sum())
        module.index = index


def _recompute(module: nn.Module) -> None:
    """Compute anew the weights that hooks compute before each call, which have the old shape until then."""
    with torch.no_grad():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, COMPUTING):
                hook(module, ())


def _patch(module: nn.Module) -> None:
    """Let the attributes of a module say the sizes that its parameters have."""
    if isinstance(module, _ConvNd):
        rows, columns = module.weight.shape[:2]
        if isinstance(module, _ConvTransposeNd):
            rows, columns = columns, rows
        transposed = isinstance(module, _ConvTransposeNd)
        if module.groups > 1 and module.in_channels == module.groups:  # each filter goes with its channel
            module.groups = columns if transposed else rows * module.groups // module.out_channels
        module.in_channels = columns if transposed else columns * module.groups
        module.out_channels = rows * module.groups if transposed else rows
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    for kind, attribute, dimension in SIZES:
        tensor = next(
            (each for each in (*module._parameters.values(), *module._buffers.values()) if each is not None),
            None,
        )
        if isinstance(module, kind) and tensor is not None:
            setattr(module, attribute, tensor.shape[dimension])


SIZES: tuple[tuple[type, str, int], ...] = (
    (_NormBase, "num_features", 0),
    (nn.GroupNorm, "num_channels", 0),
    (nn.PReLU, "num_parameters", 0),
    (nn.Embedding, "embedding_dim", 1),
)
