"""The modules of a student that can get a head in self-distillation, as one forward pass shows them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from akgp.models.eval_mode import eval_mode
from akgp.params import Distill


@dataclass(frozen=True)
class Anatomy:
    """The modules of a network that matter here, as one forward pass shows them.

    maps: shape [C, H, W] of the feature map of each module that is called once and gives one.
    classifier: the layer that gives the logits; it reads D = `features` numbers.
    """

    maps: Mapping[str, tuple[int, ...]]
    classifier: str
    features: int
    classes: int

    def candidates(self) -> str:
        """Examples for `distill.heads`: the last map of each size but for the last size."""
        last = {shape[1:]: name for name, shape in self.maps.items() if name.count(".") < 2}
        return f"such as {', '.join(names)}" if (names := list(last.values())[:-1]) else "but it has none"


class _Call(NamedTuple):
    """One call of a module: its qualified name, the shapes of its first input and of its output."""

    name: str
    read: tuple[int, ...]
    gave: tuple[int, ...]


def check_heads(model: nn.Module, params: Distill, example_input: Tensor) -> None:
    """Raise ValueError, as `SelfDistillation` does, if `model` cannot have the heads of `params`."""
    chosen_heads(anatomy_of(model, example_input), params)


def chosen_heads(anatomy: Anatomy, params: Distill) -> Sequence[str]:
    """The modules that get a head."""
    names = params.heads or _automatic(anatomy)
    for name in names:
        if name not in anatomy.maps:
            raise ValueError(
                f"distill.heads: {name!r} must be a module that is called once and gives feature maps "
                f"[B, C, H, W], {anatomy.candidates()}"
            )
    return names


def _automatic(anatomy: Anatomy) -> list[str]:
    """The stages layer1, layer2, … of a ResNet but for the last."""
    stages = [name for name in anatomy.maps if re.fullmatch(r"layer\d+", name)]
    if len(stages) < 2:
        raise ValueError(
            "distill.heads: the student has no stages layer1, layer2, …: name modules that give feature maps "
            f"[B, C, H, W], {anatomy.candidates()}"
        )
    return stages[:-1]


def anatomy_of(model: nn.Module, example_input: Tensor) -> Anatomy:
    calls = _calls(model, example_input)
    times = Counter(call.name for call in calls)
    classes = calls[-1].gave[1]  # of the network itself, which returns last
    classifiers = [
        call
        for call in calls
        if isinstance(model.get_submodule(call.name), (nn.Linear, nn.Conv2d))
        and len(call.read) in (2, 4)
        and call.gave[1] == classes
    ]
    if not classifiers:
        raise ValueError(
            "distill.strategy 'self_distillation' needs a student whose logits come from a linear layer or a "
            f"convolution, got none that gives {classes} of [B, D] or [B, D, H, W]"
        )
    # Called once: of a shared module it would be unclear which of its feature maps is meant.
    maps = {
        call.name: call.gave[1:]
        for call in calls
        if call.name and len(call.gave) == 4 and times[call.name] == 1
    }
    return Anatomy(maps, classifiers[-1].name, classifiers[-1].read[1], classes)


def _calls(model: nn.Module, example_input: Tensor) -> list[_Call]:
    """Every call of a module in one forward pass in eval mode, in the order of their returns."""
    calls: list[_Call] = []

    def watched(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls.append(_Call(name, tuple(inputs[0].shape), tuple(output.shape)))

        return hook

    hooks = [module.register_forward_hook(watched(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad(), eval_mode(model):
            model(example_input)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
