"""Checks a surgery: a network without some channels computes what it computes with them set to zero.

Compared are the outputs of every convolution, linear layer and BatchNorm, and the network's, each by how
much it varies itself, so that nothing behind it (a head or a γ of zeros, large logits) hides a difference.
It is done in float64 where the network runs in it, twice: with the given weights, and with random ones in
their places, by which a channel too many or a wrong one shows wherever it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from akgp.io.errors import message
from akgp.models.eval_mode import eval_mode
from akgp.pruning.coupling.tracing import PruningError, copied, ordinary
from akgp.pruning.cutting import NORMS, PRUNABLE, ChannelSlice, cut, mask, width_of

VARIATION, ROUNDING = (1e-4, 1e-3), (1e-10, 1e-4)
"""Largest difference, as shares of a feature's variation and of its magnitude; in float64, in others.

What a layer makes of zeros may be nearly zero: GeM pooling of 1e-6. A wrong filter of a thousand is 1e-2.
"""
SEEN = 2
"""Inputs of a batch whose features are compared."""

OUTPUT = "the network's output"

Feature = Callable[[str, Tensor, int], None]  # gets a layer's name, its output, the dimension of its channels


def verify(model: nn.Module, gone: Sequence[ChannelSlice], smaller: nn.Module, example_input: Tensor) -> None:
    """Compare `smaller`, which is `model` without the channels of `gone`, with `model` with them set to zero.

    Raises:
        PruningError: features differ, or the smaller network does not run; says where.
    """
    kind = type(model).__name__
    with ordinary(), torch.random.fork_rng(devices=[]):
        twin, noise = _compared(model, gone, example_input, random=False)
        pairs = zip(twin.named_parameters(), smaller.parameters(), strict=True)
        odd = [name for (name, one), two in pairs if not torch.equal(one, two.to(one))]
        if odd:
            raise PruningError(f"{kind} without the removed channels holds other values in {odd[0]}")
        del twin
        twin, noise = _compared(model, gone, example_input, random=True)
        _trains(model, twin, noise)


def randomise(model: nn.Module) -> None:
    """Give every parameter random values by which signals keep their size, from a generator of its own.

    Weights are normal, scaled by their inputs (He et al. 2015); γ and variances lie in [½, 1½). Other
    vectors and numbers, such as a scale that starts at zero, are moved by as much.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(tensor: Tensor, scale: float) -> None:
        tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))

    def uniform(tensor: Tensor, start: Tensor | float = 0.5) -> None:
        tensor.copy_(start + torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            for name, tensor in module.named_parameters(recurse=False):
                if not tensor.is_floating_point():
                    continue
                if tensor.ndim > 1 and tensor.squeeze().ndim > 1:
                    normal(tensor, (2 / tensor[0].numel()) ** 0.5)
                elif isinstance(module, (_ConvNd, nn.Linear)) or (
                    isinstance(module, NORMS) and name == "bias"
                ):
                    normal(tensor, 0.1)
                else:
                    uniform(tensor, 0.5 if isinstance(module, NORMS) else tensor.cpu() + 0.5)
            if isinstance(module, NORMS) and module.running_mean is not None:
                assert module.running_var is not None
                normal(module.running_mean, 0.1)
                uniform(module.running_var)


def _compared(
    model: nn.Module, gone: Sequence[ChannelSlice], example_input: Tensor, *, random: bool
) -> tuple[nn.Module, Tensor]:
    """A copy of `model` that was cut and found to be right, and the inputs that it was given."""
    kind = type(model).__name__
    kept = _kept(model, gone)
    twin, noise, exact, expected = _masked(model, gone, example_input, kept, random)
    if not random and not all(_finite(value) for name, value, _ in expected if name.startswith(OUTPUT)):
        raise PruningError(f"{kind} gives values that are not finite; did its training diverge?")
    remaining, largest = iter(expected), 0.0

    def compare(name: str, value: Tensor, channels: int) -> None:
        nonlocal largest
        called, right, _ = next(remaining, ("nothing", value, 0))
        if called != name or right.shape != value.shape:
            raise _Different(
                f"gives {list(value.shape)} in {name} in place of {list(right.shape)} in {called}"
            )
        right, value = right.double(), value.double()
        size = right.nan_to_num(0, 0, 0)
        others = [dimension for dimension in range(size.ndim) if dimension != channels % size.ndim]
        variation = float((size - size.mean(others or None, keepdim=True)).abs().amax())
        magnitude = float(size.abs().amax())
        largest = max(largest, magnitude)
        same = (right == value) | (right.isnan() & value.isnan())
        difference = float(torch.where(same, 0, (right - value).abs()).nan_to_num(torch.inf).amax())
        allowed = VARIATION[not exact] * variation + ROUNDING[not exact] * magnitude + 1e-15 * largest
        if difference > allowed:
            raise _Different(
                f"differs by {difference:.3g} in {name}, which varies by {variation:.3g}, from the network "
                "with them set to zero"
            )

    cut(twin, gone)
    try:
        _run(twin, noise, _narrowed(compare, {}))
    except _Different as error:
        raise PruningError(
            f"{kind} without the removed channels {error}: something makes more of zeros than zeros; "
            "name it in skip"
        ) from None
    except Exception as error:  # whatever the user's forward pass raises
        raise PruningError(
            f"{kind} does not run without the removed channels ({message(error)}): "
            "name the modules around it in skip"
        ) from error
    return twin, noise


class _Different(Exception):
    """Two features are not the same."""


def _masked(
    model: nn.Module,
    gone: Sequence[ChannelSlice],
    example_input: Tensor,
    kept: dict[str, Tensor],
    random: bool,
) -> tuple[nn.Module, Tensor, bool, list[tuple[str, Tensor, int]]]:
    """A masked copy, its inputs, whether it runs in float64, and its features without what will be cut."""
    integer = not example_input.is_floating_point()
    given = len(example_input)
    attempts = [(True, max(given, 2)), (True, given), (False, given)]  # of one input not every feature varies
    for exact, batch in attempts[given > 1 :]:
        twin = copied(model)
        if random:
            randomise(twin)
        mask(twin, gone)
        features: list[tuple[str, Tensor, int]] = []
        record = _narrowed(partial(_append, features), kept)
        try:
            if exact:
                twin.double()
            for noise in _noise(example_input, batch):
                features.clear()
                noise = noise.to(torch.float64 if exact and not integer else example_input.dtype)
                _run(twin, noise, record)
                if _finite(features[-1][1]):
                    break
            return twin, noise, exact, features
        except Exception as error:  # a forward pass that insists on precision or batch; no float64 there
            if not exact:
                reason = message(error)
                raise PruningError(f"{type(model).__name__} does not run on noise ({reason})") from error
    raise AssertionError("the loop ends in it")


def _append(features: list[tuple[str, Tensor, int]], *feature: Any) -> None:
    features.append(feature)


def _noise(example_input: Tensor, batch: int) -> list[Tensor]:
    """Inputs to try: normal ones, and for networks that take logarithms, positive ones."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, *example_input.shape[1:])
    both = (torch.randn, torch.rand)
    return [make(shape, generator=generator).to(example_input.device) for make in both]


def _kept(model: nn.Module, gone: Sequence[ChannelSlice]) -> dict[str, Tensor]:
    """Module -> its outputs that stay, for those that lose some."""
    removed: dict[str, set[int]] = defaultdict(set)
    for part in gone:
        if part.writes and isinstance(part.module, (*PRUNABLE, *NORMS)):
            removed[part.name].update(part.indices)
    modules = {name: model.get_submodule(name) for name in removed}
    return {
        name: torch.tensor(sorted(set(range(width_of(modules[name], True))) - gone_there))
        for name, gone_there in removed.items()
    }


def _narrowed(feature: Feature, kept: dict[str, Tensor]) -> Feature:
    """`feature` of a few inputs and the kept channels alone, in memory of their own."""

    def narrowed(name: str, value: Tensor, channels: int) -> None:
        value = value[:SEEN] if channels % max(1, value.ndim) else value
        there = kept.get(name)
        value = value.clone() if there is None else value.index_select(channels, there.to(value.device))
        feature(name, value, channels)

    return narrowed


def _run(model: nn.Module, noise: Tensor, feature: Feature) -> None:
    """One forward pass in eval mode; hands the outputs of all layers, then the network's, to `feature`."""

    def hook(name: str, channels: int) -> Callable[..., None]:
        def handed(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                feature(name, output, channels)

        return handed

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*PRUNABLE, *NORMS)):
            channels = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else 1
            channels = -1 if isinstance(module, nn.Linear) else channels
            handles.append(module.register_forward_hook(hook(name, channels)))
    try:
        torch.default_generator.manual_seed(0)  # for what is random in eval mode too
        with torch.no_grad(), eval_mode(model):
            outputs = pytree.tree_leaves(model(noise))
    finally:
        for handle in handles:
            handle.remove()
    for index, output in enumerate(each for each in outputs if isinstance(each, Tensor)):
        feature(f"{OUTPUT} {index}", output, 1 if output.ndim > 1 else 0)


def _trains(model: nn.Module, smaller: nn.Module, noise: Tensor) -> None:
    """Raise PruningError if the smaller network does not run in training mode, where the dense one does."""
    if len(noise) == 1:
        noise = noise.repeat(2, *[1] * (noise.ndim - 1))  # BatchNorm needs two values

    def failure(network: nn.Module) -> Exception | None:
        try:
            with torch.no_grad():
                network.train()(noise.to(next(network.parameters()).dtype))
        except Exception as error:
            return error
        return None

    error = failure(smaller)
    if error is not None and failure(copied(model)) is None:
        raise PruningError(
            f"{type(model).__name__} does not run in training mode without the removed channels "
            f"({message(error)}): name the modules around it in skip"
        ) from error


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())
