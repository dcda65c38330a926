"""Networks with several inputs, as tuples, dictionaries and by name: pruned, exact, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from akgp import artifacts
from akgp.evaluation.cost import count
from akgp.models import Inputs, Spec, create
from akgp.pruning import PruningError, prune
from tests.support import several_inputs
from tests.support.several_inputs import EXAMPLES, IMAGE, NUMBERS


def network(name: str) -> Any:
    torch.manual_seed(0)
    return create(Spec(f"{several_inputs.__name__}:{name}", 10, 3)).eval()


def logits(model: Any, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        (out,) = pytree.tree_leaves(inputs.run(model))
    assert isinstance(out, Tensor)
    return out


def noise(given: Inputs) -> Inputs:
    return given.map(lambda each: torch.randn_like(each) if each.is_floating_point() else each)


@pytest.mark.parametrize("way", EXAMPLES)
def test_is_pruned_exactly_and_loaded_again(way: str, tmp_path: Path) -> None:
    name, example = EXAMPLES[way]
    model = network(name)
    pruned = prune(model, example, ratio=0.5)
    widths = {layer.name: layer.pruned_width for layer in pruned.layers}
    assert widths == {"conv": 8, "numbers": 8, "mixed": 16, "head": 10}
    inputs = noise(Inputs.of(model, example))
    artifacts.save(pruned.model, tmp_path)
    small = logits(pruned.model, inputs)
    assert torch.equal(small, logits(artifacts.load(tmp_path), inputs))
    with torch.no_grad():
        for layer in pruned.layers:
            module = model.get_submodule(layer.name)
            gone = sorted(set(range(layer.dense_width)) - set(layer.kept))
            module.weight[gone] = 0
            module.bias[gone] = 0
            if layer.name == "conv":
                model.norm.weight[gone] = model.norm.bias[gone] = 0
    torch.testing.assert_close(small, logits(model, inputs), rtol=1e-5, atol=1e-6)


def test_macs_are_those_of_one_input_of_the_batch() -> None:
    model = network("TwoTensors")
    products = 16 * 27 * 36 + 5 * 16 + 32 * 24 + 24 * 10
    for n in (1, 3):
        assert count(model, (IMAGE.repeat(n, 1, 1, 1), NUMBERS.repeat(n, 1))).macs == products


@pytest.mark.parametrize(
    ("example", "criterion", "message"),
    [
        (
            [IMAGE, NUMBERS],
            "fpgm",
            "must be a tensor .*, a tuple of arguments or a dict .* got list",
        ),
        ((), "fpgm", r"must hold a tensor \[N, ...\], got inputs of none"),
        ((IMAGE, NUMBERS[:0]), "fpgm", r"must hold an input, got inputs of \[1, 3, 8, 8\] and \[0, 5\]"),
        (
            IMAGE,
            "fpgm",
            r"traced with an input of \[1, 3, 8, 8\]: .*missing 1 required .*'numbers'",
        ),
        ((IMAGE, NUMBERS), "taylor", "looks at images, which are one input, but the network takes inputs of"),
        ((IMAGE, IMAGE), "fpgm", r"with inputs of \[1, 3, 8, 8\] and \[1, 3, 8, 8\]: "),
    ],
)
def test_what_cannot_be_run_is_said(example: Any, criterion: str, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune(network("TwoTensors"), example, ratio=0.5, criterion=criterion)
