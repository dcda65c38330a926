"""Sizes of views and splits and the scale of attention, where code fixes what a cut network has fewer of.

Attention is mostly written with `reshape(B, N, 3, heads, width)` and `reshape(B, N, C)`, whose sizes are
attributes or those of the module's input; `split(x, [16, 16], 1)` has sizes, too. In a cut network such a
call gets other sizes. The change is kept by the number of the call among those of CALLS in the module's
forward pass, its submodules' included (splits are counted on their own), so that the class of the module and
its code stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Changes = dict[str, dict[str, float]]
"""Number of a call -> size by dimension of its output, or by part of a split, or `scale` of attention.

Texts, as JSON has them; of a split `split 0`.
"""

UNFLATTEN = (Tensor.unflatten, torch.unflatten)
VIEWS = (Tensor.view, Tensor.reshape, torch.reshape, *UNFLATTEN)
ATTENTION = F.scaled_dot_product_attention
SPLITS = (Tensor.split, torch.split, Tensor.split_with_sizes, torch.split_with_sizes)
CALLS = (*VIEWS, ATTENTION, *SPLITS)
SCALE = "scale"

uncounted = torch._C.DisableTorchFunction
"""A context for code that is added to a network, such as hooks: its calls are not the network's."""


def set_view_sizes(module: nn.Module, changes: Changes) -> None:
    """Change calls in the forward pass of a module, beside those that are changed already."""
    if view_sizes(module) is None:
        module._view_sizes, module._resizing = {}, []  # type: ignore[assignment]
        module.register_forward_pre_hook(_enter)
        module.register_forward_hook(_leave, always_call=True)
    known = view_sizes(module)
    assert known is not None
    for call, change in changes.items():
        known.setdefault(call, {}).update(change)


def view_sizes(module: nn.Module) -> Changes | None:
    """What `set_view_sizes` has changed in a module; None if it has not been called."""
    return getattr(module, "_view_sizes", None)


def set_all_view_sizes(model: nn.Module, changes: Mapping[str, Changes]) -> None:
    """`set_view_sizes` for modules by name."""
    for name, each in changes.items():
        set_view_sizes(model.get_submodule(name), each)


def all_view_sizes(model: nn.Module) -> dict[str, Changes]:
    """The changes of all modules that have some, by name."""
    return {name: found for name, module in model.named_modules() if (found := view_sizes(module))}


def given_sizes(func: Callable[..., Any], args: Sequence[Any], kwargs: Any) -> tuple[int, list[int]] | None:
    """The sizes that a view is called with, and the dimension of the first; None if it changes the type."""
    if func in UNFLATTEN:
        dim, sizes = (*args[1:], *kwargs.values())[:2]
        return (dim % args[0].ndim, list(sizes)) if isinstance(dim, int) else None
    given = kwargs.get("shape", kwargs.get("size", args[1:]))
    given = given[0] if len(given) == 1 and isinstance(given[0], Sequence) else given
    if any(isinstance(each, torch.dtype) for each in (*given, *kwargs.values())):
        return None
    return 0, list(given)


class Numbers:
    """Numbers the calls of one forward pass as `Changes` has them."""

    def __init__(self) -> None:
        self.splits = self.others = 0

    def next(self, func: Callable[..., Any]) -> str:
        """The number of the next call, of this function of CALLS."""
        if func in SPLITS:
            self.splits += 1
            return f"split {self.splits - 1}"
        self.others += 1
        return str(self.others - 1)


def split_sizes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int, list[int]]:
    """The dimension of a split, and the sizes of its parts as the code has them."""
    tensor, *given = args
    given += [value for key, value in kwargs.items() if key.startswith("split_size")]
    size, dim = given[0], given[1] if len(given) > 1 else kwargs.get("dim", 0)
    length = tensor.shape[dim]
    if isinstance(size, Sequence):
        return dim % tensor.ndim, list(size)
    return dim % tensor.ndim, [min(size, length - start) for start in range(0, length, size)]


def changed_call(func: Callable[..., Any], args: Any, kwargs: Any, change: dict[str, float]) -> Any:
    """The result of a call with other sizes, or another scale."""
    if func is ATTENTION:
        return func(*args, **(kwargs | change))
    if func in SPLITS:
        sizes = [int(change[str(part)]) for part in range(len(change))]
        return args[0].split(sizes, split_sizes(args, kwargs)[0])
    given = given_sizes(func, args, kwargs)
    assert given is not None
    first, sizes = given
    for dim, size in change.items():
        sizes[int(dim) - first] = int(size)
    return args[0].unflatten(first, sizes) if func in UNFLATTEN else args[0].reshape(sizes)


def tensors_first(func: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call of CALLS, of which the tensors are positional: torch takes them by name too."""
    names = ("query", "key", "value") if func is ATTENTION else ("input", "tensor", "self")
    named = {name: value for name, value in (kwargs or {}).items() if name not in names}
    return (*args, *(kwargs[name] for name in names if name in (kwargs or {}))), named


class _Resizing(TorchFunctionMode):
    """One forward pass of a module with changed calls."""

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.changes, self.numbers = changes, Numbers()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in CALLS:
            change = self.changes.get(self.numbers.next(func))
            if change:
                return changed_call(func, *tensors_first(func, args, kwargs), change)
        return func(*args, **(kwargs or {}))


def _enter(module: Any, inputs: Any) -> None:
    module._resizing.append(_Resizing(module._view_sizes).__enter__())


def _leave(module: Any, inputs: Any, output: Any) -> None:
    if module._resizing:  # not where another hook failed before
        module._resizing.pop().__exit__(None, None, None)
