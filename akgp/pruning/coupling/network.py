"""The units of a network: its parameters' ids, which of them are one unit, and which must stay."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from akgp.io.errors import message
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Inputs
from akgp.pruning.coupling.functions import Functions
from akgp.pruning.coupling.layers import PRUNABLE
from akgp.pruning.coupling.marks import varying
from akgp.pruning.coupling.outputs import output_tensors
from akgp.pruning.coupling.preparation import as_pruning_error, copy_network
from akgp.pruning.coupling.random_weights import randomise
from akgp.pruning.coupling.record import Record
from akgp.pruning.coupling.trace import Conflict, Trace, named_tensors
from akgp.pruning.coupling.units import Fold, Units
from akgp.pruning.module_progress import module_progress

log = logging.getLogger(__name__)

OUTPUT = "is the network's output"


@dataclass
class Coupling:
    """A traced network.

    Attributes:
        layers: parameter or buffer -> ids, one tensor for each of its dimensions that has units.
        labels: id -> its unit, named by the smallest of its ids [count]. Follows `units` by `solve`.
        blocked, held: unit -> why it is never removed; why activations that hold it keep their layout.
        trains: whether the network runs in training mode.
    """

    units: Units
    layers: dict[str, tuple[Tensor, ...]]
    record: Record
    labels: Tensor
    blocked: dict[int, str]
    held: dict[int, str]
    trains: bool
    example_input: Inputs

    def hold(self, ids: Iterable[Tensor], reason: str) -> bool:
        """Keep the layout of these units; False if it is kept already or they are never removed."""
        given = [each.reshape(-1) for each in ids]
        roots = self.labels[torch.cat(given)].unique().tolist() if given else []
        new = [each for each in roots if each and each not in self.held and each not in self.blocked]
        self.held |= dict.fromkeys(new, reason)
        return bool(new)

    def keep(self, ids: Iterable[Tensor], reason: str) -> bool:
        """Never remove these units; False if there are none."""
        roots = {label for each in ids for label in self.labels[each].unique().tolist() if label}
        self.blocked |= dict.fromkeys(roots, reason)
        return bool(roots)

    def is_summed(self) -> Tensor:
        """Whether activations are added up in a unit, by label [count]."""
        summed = torch.zeros(self.units.count, dtype=torch.bool)
        for ids in self.units.sums:
            summed[self.labels[ids]] = True
        return summed

    def mask(self, units: Iterable[int]) -> Tensor:
        """Whether an id is of one of these units: [count]."""
        chosen = torch.zeros(self.units.count, dtype=torch.bool)
        chosen[list(units)] = True
        return chosen[self.labels]


def couple(model: nn.Module, example_input: Inputs) -> Coupling:
    """Trace a copy of `model` on the CPU, in eval mode and then in training mode over the same ids.

    Raises:
        PruningError: it does not run on the example.
    """
    network = copy_network(model).cpu()
    # With the given weights a zero may be one by coincidence, such as a running mean before training.
    randomise(network)
    units = Units(foldable=_foldable(network))
    layers = _fresh_layers(network, units)
    _unite_memory(network, units, layers)
    example_input = example_input.map(Tensor.cpu)
    failure = f"cannot be traced with {example_input}"
    with as_pruning_error(model, failure), eval_mode(network):
        trace = follow(network, example_input, units, layers)
    trains = _follow_training(network, example_input, units, trace)
    for name, ids in trace.layers.items():
        if name not in trace.record.uses:
            for each in ids:
                units.block(each, "not reached with this example")
    units.block_columns()
    labels = units.labels()
    blocked, held = units.reasons(labels, units.blocked), units.reasons(labels, units.held)
    return Coupling(units, trace.layers, trace.record, labels, blocked, held, trains, example_input)


def _fresh_layers(model: nn.Module, units: Units) -> dict[str, tuple[Tensor, ...]]:
    """New ids for every dimension of every floating-point parameter and buffer, except those of kernels."""
    kernels = {
        id(each) for module in model.modules() if isinstance(module, _ConvNd) for each in module.parameters()
    }
    layers = {}
    for name, tensor in named_tensors(model):
        if tensor.is_floating_point() or tensor.is_complex():
            dims = range(min(2, tensor.ndim)) if id(tensor) in kernels else range(tensor.ndim)
            layers[name] = tuple(
                units.fresh(tensor.shape[d])
                .reshape([-1 if e == d else 1 for e in range(tensor.ndim)])
                .expand(tensor.shape)
                for d in dims
                if tensor.shape[d] > 1
            )
    return layers


def folds(model: nn.Module, coupling: Coupling) -> list[Fold]:
    """The constants that removed columns of `model`, with its own weights, would read."""
    if not coupling.units.folds:
        return []
    network = copy_network(model).cpu()
    units = Units(foldable=coupling.units.foldable)
    precision = next((each.dtype for each in network.parameters() if each.is_floating_point()), None)
    example = coupling.example_input.map(
        lambda each: each.to(precision) if each.is_floating_point() else each
    )
    with eval_mode(network):
        follow(
            network, example, units, _fresh_layers(network, units)
        )  # the same ids: these are given in order
    return units.folds


def _follow_training(network: nn.Module, example_input: Inputs, units: Units, trace: Trace) -> bool:
    """Trace what only training runs, such as auxiliary heads; whether the network trains at all."""
    units.training = True
    try:
        training = follow(
            network.train(), example_input.two_or_more(), units, trace.layers, shortcuts=trace.record
        )
    except Exception as error:  # whatever the user's forward pass raises
        log.debug("%s does not run in training mode: %s", type(network).__name__, message(error))
        return False
    for call, views in training.record.views.items():
        trace.record.views[call] += views
    for call, splits in training.record.splits.items():
        trace.record.splits[call] += splits
    for call, scales in training.record.scales.items():
        trace.record.scales[call] |= scales
    trace.record.unfollowed |= training.record.unfollowed
    for site, numbers in training.record.numbers.items():
        trace.record.numbers[site] |= numbers
    for name, modules in training.record.uses.items():
        trace.record.uses[name] |= modules
    for name, inputs in training.record.inputs.items():
        trace.record.inputs[name] += inputs
    for kept, new in (
        (trace.record.by_site, training.record.by_site), (trace.record.by_module, training.record.by_module),
    ):  # fmt: skip
        for key, ids in new.items():
            kept[key] += ids  # type: ignore[index]
    trace.layers = training.layers
    return True


def follow(
    network: nn.Module,
    example_input: Inputs,
    units: Units,
    layers: dict[str, tuple[Tensor, ...]],
    *,
    expected: Record | None = None,
    present: Tensor | None = None,
    shortcuts: Record | None = None,
) -> Trace:
    """Run `network`, which is changed by it, under a trace; the units of its outputs are blocked.

    Args:
        expected, present: of the run that the units stem from, and whether ids' positions are there still
            [count], where a cut network is checked.
    """
    trace = Trace(network, units, layers, expected)
    if shortcuts is not None:
        trace.record.shortcuts = shortcuts.shortcuts
    functions = Functions(trace, present)
    shown = module_progress(network)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), functions, trace.following(), shown:
        torch.default_generator.manual_seed(0)
        try:
            with trace:
                outputs = example_input.run(network)
        except Conflict:
            raise
        except Exception as error:
            if expected is None:
                raise
            raise _conflict(trace, expected, error) from error
    for each in trace.record.unfollowed.values():
        log.debug("not followed: %s", each)
    for output in output_tensors(outputs):
        marks = trace.marks.get(output)
        for ids in (*(marks.layers if marks else ()), trace.shown.of(output)):
            units.block(ids, OUTPUT)
    trace.changes = functions.changes
    return trace


def _conflict(trace: Trace, expected: Record, error: Exception) -> Conflict:
    module, site = trace.failing
    ids = expected.by_site.get(site, []) if site is not None else []
    ids = ids or expected.by_module.get(module, [])
    return Conflict(ids, f"{module or 'the network'} has sizes in its code ({message(error)})")


class Known(Units):
    """The units of a traced network, for the check of a cut one: what would be united must be one unit."""

    def __init__(self, coupling: Coupling) -> None:
        super().__init__(count=coupling.units.count)
        self._blocked, self.labels_ = coupling.units._blocked, coupling.labels
        self.in_groups = coupling.units.in_groups

    def unite(self, one: Tensor, other: Tensor, what: str) -> None:
        one, other = torch.broadcast_tensors(one, other)
        different = (self.labels_[one] != self.labels_[other]) & (one != 0) & (other != 0)
        if different.any():
            raise Conflict([one, other], f"{what} joins other channels than before")

    def block(self, ids: Tensor, reason: str) -> None:
        """Known already."""

    def hold(self, ids: Tensor, reason: str) -> None:
        """Known already."""

    def tabulate(self, ids: Tensor, *, needed: bool, reason: str) -> None:
        """Known already."""

    def fold(self, module: str, ids: Tensor, values: Tensor) -> None:
        """Known already."""


def _foldable(model: nn.Module) -> frozenset[str]:
    """Layers to whose bias a constant can be added, and that nobody shares."""
    users = Counter(
        id(each) for module in model.modules() for each in module._parameters.values() if each is not None
    )
    return frozenset(
        name
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE)
        and not isinstance(module, _ConvTransposeNd)
        and module._parameters.get("bias") is not None
        and all(users[id(each)] == 1 for each in module._parameters.values() if each is not None)
    )


def _unite_memory(model: nn.Module, units: Units, layers: dict[str, tuple[Tensor, ...]]) -> None:
    """Unite the ids of parameters that share memory, such as a weight and its transpose, by their strides."""
    first: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in named_tensors(model):
        if name not in layers:
            continue
        base, one = first.setdefault(tensor.untyped_storage()._cdata, (name, tensor))
        if base == name:
            continue
        by_stride = {(one.stride(d), one.shape[d]): ids for ids in layers[base] for d in varying(ids)}
        for ids in layers[name]:
            (d,) = varying(ids)
            mine = by_stride.get((tensor.stride(d), tensor.shape[d]))
            if mine is None or tensor.numel() != one.numel():
                for each in (*layers[base], *layers[name]):
                    units.block(each, f"{name} shares memory with {base}")
                break
            units.unite(mine.unique().sort().values, ids.unique().sort().values, name)
