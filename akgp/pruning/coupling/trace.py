"""Runs a network once and follows the units of its parameters through every operation.

Beside every tensor lie its `Marks`; the table of rules says what an operation does to them. The same run over
a network that has been cut, with the ids that its parameters have left, is what checks the cut: where an
operation would unite two units, they must be the same one already.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from akgp.io.errors import message
from akgp.models import ChannelMap
from akgp.models.view_sizes import Changes, Numbers, uncounted
from akgp.pruning.coupling.marks import Marks, constant, shrink, unknown, varying
from akgp.pruning.coupling.record import Record, Site
from akgp.pruning.coupling.rules import RULES, Call, Result, Rule, pointwise
from akgp.pruning.coupling.shown import Shown
from akgp.pruning.coupling.units import Units
from akgp.pruning.coupling.views import Views

OPERATIONS = (f"torch{os.sep}", f"coupling{os.sep}", "view_sizes.py")
"""Parts of paths of code that runs operations for the network's own."""


class Conflict(Exception):
    """A cut network joins what are different units: these (ids) must keep their layout."""

    def __init__(self, ids: list[Tensor], reason: str) -> None:
        super().__init__(reason)
        self.ids, self.reason = ids, reason


class Trace(TorchDispatchMode):
    """Follows marks through the operations of its block.

    Args:
        expected: of the run that the units stem from, where a cut network is checked; else None.
    """

    def __init__(
        self,
        model: nn.Module,
        units: Units,
        layers: Mapping[str, tuple[Tensor, ...]],
        expected: Record | None = None,
    ) -> None:
        super().__init__()
        self.units, self.record, self.expected = units, Record(), expected
        self.marks, self.views, self.shown = WeakTensorKeyDictionary(), Views(), Shown()
        self.layers = dict(layers)
        self.stack: list[str] = [""]
        self.calls = [Numbers()]
        self.changes: dict[str, Changes] = {}
        self.failing: tuple[str, Site | None] = ("", None)
        self.names = {id(tensor): name for name, tensor in named_tensors(model)}
        parameters = {id(each) for each in model.parameters()}
        self.memory = {each.untyped_storage()._cdata for each in model.parameters()}
        self.model = model
        for name, tensor in named_tensors(model):
            if name in layers:
                cut = id(tensor) in parameters and layers[name]  # a single number has no units: it stays
                dead = constant(tensor.detach(), 0) if cut else tensor.detach()
                self.marks[tensor] = Marks(layers[name], dead, True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        operands = [(each, self.marks.get(each)) for each in tensors]
        marked = [each for each, marks in operands if marks is not None]
        site = self._site(func) if marked else None
        self.failing = (self.stack[-1], site)
        before = args
        if marked and func._schema.is_mutable and isinstance(args[0], Tensor) and args[0] not in self.marks:
            before = (args[0].clone(), *args[1:])  # the rule needs what it held before
        out = func(*args, **kwargs)
        if marked:
            self._follow(func, before, kwargs, out, tensors, marked)
        for output in pytree.tree_leaves(out):
            if isinstance(output, Tensor):
                self._pass_on(func, args, operands, output)
        return out

    def _follow(
        self, func: Any, args: Any, kwargs: Any, out: Any, tensors: list[Tensor], marked: list[Tensor]
    ) -> None:
        for tensor in tensors:
            if (name := self.names.get(id(tensor))) is not None:
                self.record.uses[name].add(self.stack[-1])
        call = Call(
            func, args, kwargs, out, self.units, self.stack[-1], self.marks.get,
            lambda tensor: self.names.get(id(tensor)), self._replace, self._owned,
        )  # fmt: skip
        self._note(call, self.failing[1], marked)
        self._apply(call, marked)

    def _pass_on(
        self, func: Any, args: Any, operands: list[tuple[Tensor, Marks | None]], output: Tensor
    ) -> None:
        """Note what an output is a view of, and which units it shows."""
        operation, marks = str(func._schema.name).split("::")[-1], self.marks.get(output)
        self.shown.follow(operation, operands, output, marks is None or not marks.layers)
        if func.is_view and isinstance(args[0], Tensor):
            self.views.add(output, args[0])
        elif func._schema.is_mutable:
            for part, whole in itertools.pairwise(self.views.chain(output)):
                self.shown.follow("", [(part, None)], whole, False)

    def _apply(self, call: Call, marked: list[Tensor]) -> None:
        if call.outputs and not any(output.numel() for output in call.outputs):
            # Tensors without positions have no ids, so that what a weight reads of them is not known.
            if not call.weight():
                weights = [each for each in marked if self.marks[each].weight]
                self._lose(weights, f"nothing of the example arrives in {call.where}")
            return
        rule = RULES.get(call.name)
        if rule is None and torch.Tag.pointwise in call.func.tags:
            rule = pointwise
        if "out" in call.kwargs:
            rule = None
        result = self._result(call, rule) if rule is not None else None
        if result is None:
            self._lose(marked, f"{call.where} is not followed")
        found = [result] if isinstance(result, Marks) else list(result or [])
        for output, marks in itertools.zip_longest(call.outputs, found[: len(call.outputs)]):
            if call.func._schema.is_mutable and output in self.views and not self._rewrites(call, output):
                # Part of a tensor has been written to: what is known of the whole holds no longer.
                self._lose([output, *marked], f"{call.where} writes to a part of a tensor")
                self._forget(output)
                continue
            for tensor in self.views.same(output) if call.func._schema.is_mutable else [output]:
                if marks is not None:
                    self.marks[tensor] = marks
                elif tensor in self.marks:
                    del self.marks[tensor]
            if marks is not None:
                for ids in marks.layers:
                    self._remember(call.module, self.failing[1], ids)

    def _result(self, call: Call, rule: Rule) -> Result:
        site = self.failing[1]
        assert site is not None
        if self.expected is not None and site not in self.expected.unfollowed:
            return rule(call)
        try:
            return rule(call)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            # Arguments that a rule does not know: the operation is not followed, as others without a rule.
            self.record.unfollowed[site] = f"{call.where}: {message(error)}"
            return None

    def _rewrites(self, call: Call, tensor: Tensor) -> bool:
        """Whether an operation such as relu_ changes a whole tensor, of which it is given a view."""
        chain = self.views.chain(tensor)
        if len(self.views.same(tensor)) == len(chain):
            return True
        if chain[-1].numel() != tensor.numel() or any(each in self.marks for each in call.tensors[1:]):
            return False
        for each in chain[1:]:
            if (marks := self.marks.get(each)) is not None:
                self.marks[each] = Marks(marks.layers, unknown(each), marks.weight)
        return True

    def _forget(self, tensor: Tensor) -> None:
        for each in self.views.chain(tensor):
            if each in self.marks:
                del self.marks[each]

    def _lose(self, tensors: list[Tensor], reason: str) -> None:
        for tensor in tensors:
            marks = self.marks.get(tensor)
            for ids in marks.layers if marks else ():
                (self.units.block if marks.weight else self.units.hold)(ids, reason)

    def _owned(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.memory

    def _replace(self, tensor: Tensor, marks: Marks) -> None:
        self.marks[tensor] = marks
        self.layers[self.names[id(tensor)]] = marks.layers

    def _remember(self, module: str, site: Site | None, ids: Tensor) -> None:
        small = shrink(ids).reshape(-1)
        self.record.by_module[module].append(small)
        if site is not None:
            self.record.by_site[site].append(small)

    def _note(self, call: Call, site: Site | None, marked: list[Tensor]) -> None:
        """Note the units and numbers at a site; in a check, raise Conflict where a number has changed."""
        assert site is not None
        numbers = tuple(
            each for each in pytree.tree_leaves((call.args, call.kwargs)) if isinstance(each, float)
        )
        layers = [ids for tensor in marked for ids in self.marks[tensor].layers]
        for ids in layers:
            self._remember(call.module, site, ids)
        self.record.numbers[site].add(numbers)
        known = self.expected.numbers.get(site) if self.expected is not None else None
        if known is not None and numbers not in known:
            assert self.expected is not None
            ids = layers or self.expected.by_module[call.module]  # where its operands have no units
            raise Conflict(ids, f"a number in {call.where} depends on the width")

    def _site(self, func: Any) -> Site:
        frame: FrameType | None = sys._getframe(2)
        name = str(func._schema.name)
        while frame is not None:
            file = frame.f_code.co_filename
            if not any(f"{os.sep}{part}" in file for part in OPERATIONS):
                return file, frame.f_lineno, name
            frame = frame.f_back
        return "", 0, name

    # Modules: the stack for reasons, the inputs of layers, shortcuts.

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Keep track of the module that runs."""
        handles = []

        def enter(name: str, module: nn.Module) -> Any:
            def hook(_: nn.Module, inputs: Any) -> None:
                self.stack.append(name)
                self.calls.append(Numbers())
                if isinstance(module, (_ConvNd, nn.Linear)):
                    with uncounted():
                        self.record.inputs[name].append(self._channels(module, inputs))

            return hook

        def leave(name: str, module: nn.Module) -> Any:
            def hook(_: nn.Module, inputs: Any, output: Any) -> None:
                self.stack.pop()
                self.calls.pop()
                if isinstance(module, ChannelMap):
                    with uncounted():
                        self._shortcut(name, module, inputs[0], output)

            return hook

        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(enter(name, module)))
            handles.append(module.register_forward_hook(leave(name, module)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def next_call(self, func: Any) -> tuple[str, str]:
        """The innermost module and the number of a call in its forward pass, for each of its calls."""
        return self.stack[-1], [numbers.next(func) for numbers in self.calls][-1]

    def _channels(self, module: nn.Module, inputs: Any) -> Tensor | None:
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            return None
        source = inputs[0]
        dim = source.ndim - 1 - (len(module.kernel_size) if isinstance(module, _ConvNd) else 0)
        marks = self.marks.get(source)
        for ids in marks.layers if marks else ():
            if varying(ids) == (dim,):
                return shrink(ids).reshape(-1)
            if dim in varying(ids):
                return None
        return torch.zeros(source.shape[dim], dtype=torch.long)

    def _shortcut(self, name: str, module: ChannelMap, source: Tensor, output: Tensor) -> None:
        """Inputs and outputs of option A's shortcut are different units."""
        marks = self.marks.get(source)
        into = [shrink(ids).reshape(-1) for ids in (marks.layers if marks else ()) if varying(ids) == (1,)]
        if self.expected is None:
            ids = (
                self.record.shortcuts[name][1]
                if name in self.record.shortcuts
                else self.units.fresh(len(module.index))
            )
            self.record.shortcuts[name] = (into[0] if into else torch.zeros(0, dtype=torch.long), ids)
        else:
            ids = self.layers[f"{name}.index"][0]
        wide = ids.reshape(1, -1, *[1] * (output.ndim - 2)).expand(output.shape)
        self.marks[output] = Marks((wide,), constant(output, 0))


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, each shared one once."""
    yield from model.named_parameters()
    yield from model.named_buffers()
