"""Runs the functions that a network calls under a trace; in the check of a cut network, with sizes that fit.

Where a call of a view or a split has sizes that the network's code fixes, the units of its output say which
sizes it has in the cut network.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from akgp.models.view_sizes import (
    ATTENTION,
    CALLS,
    SCALE,
    SPLITS,
    Changes,
    changed_call,
    given_sizes,
    split_sizes,
    tensors_first,
)
from akgp.pruning.coupling.marks import shrink, varying
from akgp.pruning.coupling.trace import Trace

Call = tuple[str, str]
"""Module and number of a call in its forward pass."""


class Functions(TorchFunctionMode):
    """Runs every operation so that it is seen: inference mode and autograd are off, `data` is `detach`.

    In inference mode composite operations, such as linear, are not divided into those that rules know.

    Args:
        present: whether activations of the cut network hold an id's position [count]; None: nothing is cut.

    Attributes:
        changes: calls, by module, that were given other sizes than the network's code has.
    """

    def __init__(self, trace: Trace, present: Tensor | None) -> None:
        super().__init__()
        self.trace, self.present = trace, present
        self.changes: dict[str, Changes] = defaultdict(dict)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with torch.inference_mode(False), torch.no_grad():
            if func is Tensor.data.__get__:  # type: ignore[attr-defined]
                return args[0].detach()
            if func not in CALLS:
                return func(*args, **kwargs)
            args, kwargs = tensors_first(func, args, kwargs)
            call = self.trace.next_call(func)
            if func is ATTENTION:
                return self._attention(call, args, kwargs)
            if func in SPLITS:
                return self._split(call, func, args, kwargs)
            change = self._change(call, func, args, kwargs)
            out = self._changed(call, func, args, kwargs, change)
            if self.present is None:
                marks = self.trace.marks.get(out)
                self.trace.record.views[call].append(marks.layers if marks else ())
            return out

    def _changed(self, call: Call, func: Any, args: Any, kwargs: Any, change: dict[str, float]) -> Any:
        if not change:
            return func(*args, **kwargs)
        self.changes[call[0]][call[1]] = change
        return changed_call(func, args, kwargs, change)

    def _attention(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Attention with the scale that it has in the dense network, said even where that is its default."""
        default = args[0].shape[-1] ** -0.5
        scales = self.trace.expected.scales.get(call, set()) if self.trace.expected is not None else {default}
        if kwargs.get(SCALE) is not None or len(scales) != 1:
            return ATTENTION(*args, **kwargs)
        (scale,) = scales
        self.trace.record.scales[call].add(scale)
        change = {SCALE: scale} if scale != default else {}
        return self._changed(call, ATTENTION, args, kwargs | {SCALE: scale}, change)

    def _split(self, call: Call, func: Any, args: Any, kwargs: Any) -> Any:
        dim, sizes = split_sizes(args, kwargs)
        if self.present is None:
            parts = func(*args, **kwargs)
            found = [self.trace.marks.get(part) for part in parts]
            self.trace.record.splits[call].append([marks.layers if marks else () for marks in found])
            return parts
        expected = self.trace.expected.splits.get(call, []) if self.trace.expected is not None else []
        fitting = [[_size(layers, dim, self.present) for layers in parts] for parts in expected]
        if not fitting or any(each != fitting[0] for each in fitting) or fitting[0] == sizes:
            return func(*args, **kwargs)
        change: dict[str, float] = {}
        if None not in fitting[0]:
            change = {str(part): size for part, size in enumerate(fitting[0]) if size is not None}
        return self._changed(call, func, args, kwargs, change)

    def _change(self, call: Call, func: Any, args: Any, kwargs: Any) -> dict[str, float]:
        """What a view of the cut network must have changed: nothing where its code says the right sizes."""
        if self.present is None or self.trace.expected is None:
            return {}
        given = given_sizes(func, args, kwargs)
        found = [_sizes(layers, self.present) for layers in self.trace.expected.views.get(call, ())]
        if given is None or not found or any(each != found[0] for each in found) or found[0] is None:
            return {}
        first, sizes = given
        marks = self.trace.marks.get(args[0])
        if marks is not None and marks.weight and _fits(args[0], sizes):
            return {}  # a layer's weight loses its filters even where activations keep their layout
        said = {first + position: size for position, size in enumerate(sizes)}
        return {str(dim): size for dim, size in found[0].items() if said.get(dim, size) not in (-1, size)}


def _fits(tensor: Tensor, sizes: list[int]) -> bool:
    """Whether a tensor can be viewed with these sizes, among which -1 may be."""
    known = math.prod(size for size in sizes if size != -1)
    return known == tensor.numel() or (-1 in sizes and known > 0 and tensor.numel() % known == 0)


def _size(layers: tuple[Tensor, ...], dim: int, present: Tensor) -> int | None:
    """The size of a tensor of these ids along a dimension; None: it has no units there, or is no tensor."""
    sizes = _sizes(layers, present)
    return None if sizes is None else sizes.get(dim)


def _sizes(layers: tuple[Tensor, ...], present: Tensor) -> dict[int, int] | None:
    """The sizes of a tensor of these ids without what is not present, by dimension; None: it is no tensor."""
    sizes: dict[int, int] = {}
    for ids in layers:
        if not (dims := varying(ids)):
            continue
        there = present[shrink(ids)]
        there = there.reshape([there.shape[d] for d in dims])
        counts = there.flatten(0, -2).sum(1) if len(dims) > 1 else there.sum()[None]
        counts = counts[counts > 0]
        front = [int(there.movedim(d, 0).flatten(1).any(1).sum()) for d in range(len(dims) - 1)]
        if len(counts.unique()) != 1 or math.prod(front) != len(counts):
            return None
        sizes |= dict(zip(dims, [*front, int(counts[0])], strict=True))
    return sizes
