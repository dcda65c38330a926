"""Checks a surgery: the network without some channels computes what it computes with them set to zero.

The outputs of every convolution, linear layer and BatchNorm are compared, and those of the network, each
relative to its own variation, so that nothing behind it (a head or γ of zeros, large logits) hides a
difference. In float64 where the network runs in it, and twice: with the given weights, and with random ones,
with which a missing, superfluous or wrong channel shows wherever it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from akgp.io.errors import message
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Inputs
from akgp.pruning.coupling.groups import layer_filters
from akgp.pruning.coupling.layers import PRUNABLE
from akgp.pruning.coupling.marks import shrink
from akgp.pruning.coupling.preparation import PruningError, autograd_enabled, copy_network
from akgp.pruning.coupling.random_weights import randomise
from akgp.pruning.cutting import Removal, cut
from akgp.pruning.masking import Different, mask, norm_ids
from akgp.pruning.noise import noise_like

NORMS = (_BatchNorm,)
VARIATION, ROUNDING = (1e-4, 1e-3), (1e-10, 1e-4)
"""Largest difference, as shares of a feature's variation and of its magnitude: (float64, other precisions).

A layer may turn zeros into values near zero: GeM pooling clamps at 1e-6. One wrong filter among a thousand
gives 1e-2.
"""
COMPARED = 2
"""How many inputs of a batch have their features kept and compared."""

OUTPUT = "the network's output"


class Inexact(PruningError):
    """The smaller network computes other values in `layer`, a module's name."""

    def __init__(self, model: nn.Module, different: Different) -> None:
        super().__init__(f"{type(model).__name__} without the removed channels {different}")
        self.layer = different.layer


Feature = Callable[[str, Tensor, int], None]  # takes a layer's name, its output, its dimension of channels


def verify(model: nn.Module, removed: Removal, smaller: nn.Module, example_input: Inputs) -> None:
    """Compare `smaller`, which is `model` without what is `removed`, with `model` with these set to zero.

    Raises:
        Inexact: features differ.
        PruningError: the smaller network does not run, or holds other values.
    """
    kind = type(model).__name__
    with autograd_enabled(), torch.random.fork_rng(devices=[]):
        twin, noise = _verified_cut(model, removed, example_input, random=False)
        # What was compared is a cut of a copy: `smaller`, which the caller gets, must hold the same values.
        pairs = zip(twin.named_parameters(), smaller.parameters(), strict=True)
        folded = {f"{fold.module}.bias" for fold in removed.coupling.units.folds}
        different = [
            name
            for (name, one), two in pairs
            # A constant is added to these, in each network's own precision.
            if not (
                torch.allclose(one, two.to(one), 1e-4, 1e-6)
                if name in folded
                else torch.equal(one, two.to(one))
            )
        ]
        if different:
            raise PruningError(f"{kind} without the removed channels holds other values in {different[0]}")
        del twin  # before the next copy is made
        twin, noise = _verified_cut(model, removed, example_input, random=True)
        # Last, as training mode changes the running statistics of the copy.
        _require_training(model, twin, noise)


def _verified_cut(
    model: nn.Module, removed: Removal, example_input: Inputs, *, random: bool
) -> tuple[nn.Module, Inputs]:
    """A copy of `model` without what is removed, compared with a masked one, and the inputs of that."""
    kind = type(model).__name__
    kept, kept_of_present = _kept_outputs(model, removed)
    twin, noise, exact, expected = _masked(model, removed, example_input, kept, random)
    # Random weights may overflow where the given ones do not; `compare` takes equal infinities as equal.
    if not random and not all(_finite(value) for name, value, _ in expected if name.startswith(OUTPUT)):
        raise PruningError(f"{kind} gives values that are not finite; did its training diverge?")
    remaining, largest = iter(expected), 0.0

    def compare(name: str, value: Tensor, channels: int) -> None:
        nonlocal largest
        expected_name, right, _ = next(remaining, ("nothing", value, 0))
        if expected_name == name and right.shape != value.shape and not name.startswith(OUTPUT):
            return  # other dimensions than that of the layer's own channels have fewer positions
        if expected_name != name or right.shape != value.shape:
            raise Different(
                expected_name,
                f"gives {list(value.shape)} in {name} in place of {list(right.shape)} in {expected_name}",
            )
        right, value = right.double(), value.double()
        # Variation within a channel, over inputs and positions: a constant that a bias adds, of any
        # size, does not tell whether the right channels are read.
        finite = right.nan_to_num(0, 0, 0)
        others = [dimension for dimension in range(finite.ndim) if dimension != channels % finite.ndim]
        variation = float((finite - finite.mean(others or None, keepdim=True)).abs().amax())
        magnitude = float(finite.abs().amax())
        largest = max(largest, magnitude)
        # inf − inf is nan, so what is equal is taken out before the difference.
        same = (right == value) | (right.isnan() & value.isnan())
        difference = float(torch.where(same, 0, (right - value).abs()).nan_to_num(torch.inf).amax())
        # The last term is for features that cancel: rounding of the larger ones before them remains.
        allowed = VARIATION[not exact] * variation + ROUNDING[not exact] * magnitude + 1e-15 * largest
        if difference > allowed:
            raise Different(
                name,
                f"differs by {difference:.3g} in {name}, which varies by {variation:.3g}, from the network "
                "with them set to zero",
            )

    cut(twin, removed)  # the masked copy: with the same weights, random ones included
    try:
        _run(twin, noise, _restricted(compare, kept_of_present))
    except Different as error:
        raise Inexact(model, error) from None
    except Exception as error:  # whatever the user's forward pass raises
        raise PruningError(
            f"{kind} does not run without the removed channels ({message(error)}): "
            "name the modules around it in skip"
        ) from error
    return twin, noise


def _masked(
    model: nn.Module,
    removed: Removal,
    example_input: Inputs,
    kept: dict[str, Tensor],
    random: bool,
) -> tuple[nn.Module, Inputs, bool, list[tuple[str, Tensor, int]]]:
    """A masked copy, its inputs, whether it runs in float64, its features without the channels to be cut."""
    given = example_input.batch
    # (float64, batch size), best first. Over one input, features without positions do not vary; but a forward
    # pass may insist on one. With two or more given, the first two are the same attempt.
    attempts = [(True, max(given, 2)), (True, given), (False, given)]
    for exact, batch in attempts[given > 1 :]:
        twin = copy_network(model)
        if random:
            randomise(twin)
        handles = mask(twin, removed)
        features: list[tuple[str, Tensor, int]] = []
        record = _restricted(partial(_append, features), kept)
        try:
            if exact:
                twin.double()
            noise = _first_finite(twin, noise_like(example_input, batch, exact), record, features)
            return twin, noise, exact, features
        except Different as error:
            raise Inexact(model, error) from None
        except Exception as error:  # a forward pass that insists on precision or batch; no float64 there
            if not exact:
                reason = message(error)
                raise PruningError(f"{type(model).__name__} does not run on noise ({reason})") from error
        finally:
            for handle in handles:
                handle.remove()
    raise AssertionError("the loop ends in it")


def _append(features: list[tuple[str, Tensor, int]], *feature: Any) -> None:
    features.append(feature)


def _first_finite(
    model: nn.Module, inputs: Sequence[Inputs], record: Feature, features: list[tuple[str, Tensor, int]]
) -> Inputs:
    """Run `model` on each of `inputs` until it gives finite values; those, or the last."""
    for noise in inputs:
        features.clear()
        try:
            _run(model, noise, record)
        except Exception as error:
            if noise is inputs[-1] or isinstance(error, Different):
                raise
            continue
        if _finite(features[-1][1]):  # the network's output
            break
    return noise


def _kept_outputs(model: nn.Module, removed: Removal) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Name of a module -> its surviving outputs, among all and among those that the cut network has."""
    found = {name: ids for name, _, ids in layer_filters(model, removed.coupling)}
    for name, module in model.named_modules():
        layers = norm_ids(name, removed) if isinstance(module, NORMS) else ()
        if layers:
            found[name] = shrink(layers[0]).reshape(-1)
    alive = {name: removed.alive[ids] for name, ids in found.items() if not removed.alive[ids].all()}
    kept = {name: each.nonzero().flatten() for name, each in alive.items()}
    there = {name: each[removed.present[found[name]]].nonzero().flatten() for name, each in alive.items()}
    return kept, there


def _restricted(feature: Feature, kept: dict[str, Tensor]) -> Feature:
    """`feature`, called with the first inputs and the surviving channels alone."""

    def restricted(name: str, value: Tensor, channels: int) -> None:
        value = value[:COMPARED] if channels % max(1, value.ndim) else value  # where dimension 0 is the batch
        indices = kept.get(name)
        # Always a copy: an in-place activation behind the layer would change its output.
        value = value.clone() if indices is None else value.index_select(channels, indices.to(value.device))
        feature(name, value, channels)

    return restricted


def _run(model: nn.Module, noise: Inputs, feature: Feature) -> None:
    """Run one forward pass in eval mode; call `feature` with every layer's output, then the network's."""

    def hook(name: str, channels: int) -> Callable[..., None]:
        def observe(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                feature(name, output, channels)

        return observe

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*PRUNABLE, *NORMS)):
            # Counted from the end for convolutions and linear layers, which take unbatched inputs too.
            channels = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else 1
            channels = -1 if isinstance(module, nn.Linear) else channels
            handles.append(module.register_forward_hook(hook(name, channels)))
    try:
        torch.default_generator.manual_seed(0)  # a forward pass may be random in eval mode too
        with torch.no_grad(), eval_mode(model):
            outputs = pytree.tree_leaves(noise.run(model))
    finally:
        for handle in handles:
            handle.remove()
    for index, output in enumerate(each for each in outputs if isinstance(each, Tensor)):
        feature(f"{OUTPUT} {index}", output, 1 if output.ndim > 1 else 0)


def _require_training(model: nn.Module, smaller: nn.Module, noise: Inputs) -> None:
    """Raise PruningError if the smaller network does not run in training mode, where the dense one does."""
    precision = next(smaller.parameters()).dtype
    noise = noise.two_or_more().map(lambda each: each.to(precision) if each.is_floating_point() else each)

    def failure(network: nn.Module) -> Exception | None:
        try:
            with torch.no_grad():
                noise.run(network.train())
        except Exception as error:
            return error
        return None

    # Auxiliary heads, for one, run in training mode alone and were not traced.
    error = failure(smaller)
    if error is not None and failure(copy_network(model)) is None:
        raise PruningError(
            f"{type(model).__name__} does not run in training mode without the removed channels "
            f"({message(error)}): name the modules around it in skip"
        ) from error


def _finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())
