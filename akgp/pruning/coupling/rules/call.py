"""One call of an operation, as rules see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from akgp.pruning.coupling.marks import Marks, unknown
from akgp.pruning.coupling.units import Units


@dataclass(frozen=True)
class Call:
    """An operation, its arguments and outputs.

    Attributes:
        where: the operation and the innermost module, for reasons.
        parameter_of: name of the parameter or buffer that a tensor is, else None.
        owned: whether a tensor is a parameter or a view of one, whose products are counted as its own.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    units: Units
    module: str
    marks_of: Callable[[Tensor], Marks | None]
    parameter_of: Callable[[Tensor], str | None]
    replace: Callable[[Tensor, Marks], None]
    owned: Callable[[Tensor], bool]

    @property
    def name(self) -> str:
        return str(self.func._schema.name.split("::")[-1])

    @property
    def where(self) -> str:
        operation = self.name.strip("_")
        return f"{operation} in {self.module}" if self.module else operation

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """A positional or keyword argument."""
        return self.args[index] if len(self.args) > index else self.kwargs.get(name, default)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensor arguments, those in lists too."""
        return [each for each in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(each, Tensor)]

    @property
    def outputs(self) -> list[Tensor]:
        return [each for each in pytree.tree_leaves(self.out) if isinstance(each, Tensor)]

    def weight(self) -> bool:
        """Whether all tensor operands, other than single numbers, are computed from parameters."""
        found = [(tensor, self.marks_of(tensor)) for tensor in self.tensors]
        return any(marks is not None and marks.weight for _, marks in found) and all(
            tensor.numel() == 1 if marks is None else marks.weight for tensor, marks in found
        )

    def on_dead(self, prepare: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
        """The operation on the dead values of marked operands and on the others' actual values."""

        def value(each: Any) -> Any:
            if not isinstance(each, Tensor):
                return each
            marks = self.marks_of(each)
            return prepare(each if marks is None else marks.dead)

        args, kwargs = pytree.tree_map(value, (self.args, self.kwargs))
        out = self.outputs[0]
        try:
            result = pytree.tree_leaves(functional(self.func)(*args, **kwargs))[0]
        except (RuntimeError, IndexError, NotImplementedError, TypeError):
            return unknown(out)
        return result if isinstance(result, Tensor) else unknown(out)


Result = Marks | list[Marks | None] | None
"""Marks of the output, or of each output (those left out have none); None where a rule does not apply."""
Rule = Callable[[Call], Result]


def functional(func: Any) -> Any:
    """The variant of an operation that changes none of its arguments, where there is one."""
    name = func._schema.name.split("::")[-1]
    if func._schema.is_mutable and name.endswith("_") and hasattr(torch.ops.aten, name[:-1]):
        return getattr(torch.ops.aten, name[:-1])
    return func
