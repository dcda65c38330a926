"""What a forward pass is given: one tensor, several, or tensors in dictionaries and by name.

As torch.export takes them: a tuple holds positional arguments, and keyword arguments have names.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward pass, with tensors anywhere in them."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, example: Example) -> Inputs:
        """The arguments that `example` stands for: a tensor, a tuple of arguments, or a dict.

        A dict holds keyword arguments where the forward pass takes arguments of these names; else it is the
        only argument itself.

        Raises:
            TypeError: it is none of these.
            ValueError: it holds no tensor [N, ...], or an empty one.
        """
        if isinstance(example, Inputs):
            made = example
        elif isinstance(example, Tensor):
            made = cls((example,))
        elif isinstance(example, tuple):
            made = cls(example)
        elif isinstance(example, Mapping):
            made = cls((), dict(example)) if _takes_names(model, example) else cls((example,))
        else:
            raise TypeError(
                "must be a tensor [N, ...], a tuple of arguments or a dict of tensors, got "
                f"{type(example).__name__}"
            )
        if not any(each.ndim for each in made.tensors()):
            raise ValueError(f"must hold a tensor [N, ...], got {made}")
        if not all(each.numel() for each in made.tensors()):
            raise ValueError(f"must hold an input, got {made}")
        return made

    def run(self, model: nn.Module) -> Any:
        """Call `model` with them."""
        return model(*self.args, **self.kwargs)

    def tensors(self) -> list[Tensor]:
        """The tensors, in the order of the arguments."""
        return [each for each in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(each, Tensor)]

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The same arguments with every tensor changed."""
        args, kwargs = pytree.tree_map_only(Tensor, change, (self.args, dict(self.kwargs)))
        return Inputs(args, kwargs)

    @property
    def batch(self) -> int:
        """N: the size of dimension 0 of the first tensor that has dimensions."""
        return next(len(each) for each in self.tensors() if each.ndim)

    def is_batched(self, tensor: Tensor) -> bool:
        """Whether a tensor's dimension 0 counts inputs: it is of size N."""
        return tensor.ndim > 0 and len(tensor) == self.batch

    def two_or_more(self) -> Inputs:
        """The batch, or its only input twice: normalisation by batches needs two."""
        if self.batch > 1:
            return self
        return self.map(
            lambda each: each.repeat(2, *[1] * (each.ndim - 1)) if self.is_batched(each) else each
        )

    def one_more(self) -> Inputs:
        """The batch, and its last input once more."""
        return self.map(lambda each: torch.cat([each, each[-1:]]) if self.is_batched(each) else each)

    def __str__(self) -> str:
        """`an input of [1, 3, 32, 32]`, `inputs of [1, 3, 32, 32] and [1, 5]`."""
        shapes = [str(list(each.shape)) for each in self.tensors()]
        return (
            f"an input of {shapes[0]}" if len(shapes) == 1 else f"inputs of {' and '.join(shapes) or 'none'}"
        )


def required(model: nn.Module) -> list[str]:
    """The names of the arguments without a default that the forward pass takes; none if they are unknown."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a scripted module's
        return []
    return [each.name for each in parameters if each.kind in kinds and each.default is each.empty]


Example = Tensor | tuple[Any, ...] | Mapping[str, Any] | Inputs


def _takes_names(model: nn.Module, example: Mapping[str, Any]) -> bool:
    """Whether the forward pass can be called with these keyword arguments."""
    if not all(isinstance(key, str) for key in example):
        return False
    try:
        inspect.signature(model.forward).bind(**example)
    except TypeError:
        return False
    return True
