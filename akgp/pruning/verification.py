"""Checks a surgery: the network without some channels computes what it computes with them set to zero.

The outputs of every convolution, linear layer and BatchNorm are compared, and those of the network, each
relative to its own variation, so that nothing behind it (a head or γ of zeros, large logits) hides a
difference. In float64 where the network runs in it, and twice: with the given weights, and with random ones,
with which a missing, superfluous or wrong channel shows wherever it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from akgp.io.errors import message
from akgp.models.inputs import Inputs
from akgp.pruning.coupling.groups import layer_filters
from akgp.pruning.coupling.marks import shrink
from akgp.pruning.coupling.preparation import PruningError, autograd_enabled, copy_network
from akgp.pruning.coupling.random_weights import randomise
from akgp.pruning.cutting import Removal, cut
from akgp.pruning.features import NORMS, OUTPUT, first_finite, is_finite, recorder, restricted, run
from akgp.pruning.masking import Different, mask, norm_ids
from akgp.pruning.noise import noise_like
from akgp.timed_search import doing

VARIATION, ROUNDING = (1e-4, 1e-3), (1e-10, 1e-4)
"""Largest difference, as shares of a feature's variation and of its magnitude: (float64, other precisions).

A layer may turn zeros into values near zero: GeM pooling clamps at 1e-6. One wrong filter among a thousand
gives 1e-2.
"""


class Inexact(PruningError):
    """The smaller network computes other values in `layer`, a module's name."""

    def __init__(self, model: nn.Module, different: Different) -> None:
        super().__init__(f"{type(model).__name__} without the removed channels {different}")
        self.layer = different.layer


@dataclass(frozen=True)
class Compared:
    """A copy of the network that was cut and compared with the masked one.

    Attributes:
        noise: the inputs.
        exact: whether in float64.
        outputs: the network's, of the masked copy and of the cut one.
    """

    twin: nn.Module
    noise: Inputs
    exact: bool
    outputs: list[tuple[Tensor, Tensor]]


def verify(model: nn.Module, removed: Removal, smaller: nn.Module, example_input: Inputs) -> float:
    """Compare `smaller`, which is `model` without what is `removed`, with `model` with these set to zero.

    Returns:
        With random weights, the largest difference of their outputs as a share of the largest change of the
        outputs by what is removed, or of how far the outputs lie from their mean, whichever is less.

    Raises:
        Inexact: features differ.
        PruningError: the smaller network does not run, or holds other values.
    """
    kind = type(model).__name__
    with autograd_enabled(), torch.random.fork_rng(devices=[]):
        doing("comparing the cut network with the masked one, given weights")
        twin = _verified_cut(model, removed, example_input, random=False).twin
        # What was compared is a cut of a copy: `smaller`, which the caller gets, must hold the same values.
        pairs = zip(twin.named_parameters(), smaller.parameters(), strict=True)
        folded = {f"{fold.module}.bias" for fold in removed.coupling.units.folds}
        different = [
            name
            for (name, one), two in pairs
            # A constant is added to these, in each network's own precision.
            if not (_nearly_equal(one, two) if name in folded else torch.equal(one, two.to(one)))
        ]
        if different:
            raise PruningError(f"{kind} without the removed channels holds other values in {different[0]}")
        del twin  # before the next copy is made
        doing("comparing the cut network with the masked one, random weights")
        compared = _verified_cut(model, removed, example_input, random=True)
        deviation = _deviation(model, compared)
        # Last, as training mode changes the running statistics of the copy.
        _require_training(model, compared.twin, compared.noise)
        return deviation


def _nearly_equal(exact: Tensor, rounded: Tensor) -> bool:
    """Whether they are equal to the precision of the second."""
    share = max(1e-4, 4 * torch.finfo(rounded.dtype).eps)
    return torch.allclose(exact, rounded.to(exact), share, share * float(exact.detach().abs().max()))


def _verified_cut(model: nn.Module, removed: Removal, example_input: Inputs, *, random: bool) -> Compared:
    """A copy of `model` without what is removed, compared with a masked one."""
    kind = type(model).__name__
    kept, kept_of_present = _kept_outputs(model, removed)
    twin, noise, exact, expected = _masked(model, removed, example_input, kept, random)
    # Random weights may overflow where the given ones do not; `compare` takes equal infinities as equal.
    if not random and not all(is_finite(value) for name, value, _ in expected if name.startswith(OUTPUT)):
        raise PruningError(f"{kind} gives values that are not finite; did its training diverge?")
    remaining, largest = iter(expected), 0.0
    outputs: list[tuple[Tensor, Tensor]] = []

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
        if not value.numel():
            return  # nothing of the noise arrives, such as at an expert that is not chosen
        right, value = right.double(), value.double()
        if name.startswith(OUTPUT):
            outputs.append((right, value))
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
        run(twin, noise, restricted(compare, kept_of_present))
    except Different as error:
        raise Inexact(model, error) from None
    except Exception as error:  # whatever the user's forward pass raises
        raise PruningError(
            f"{kind} does not run without the removed channels ({message(error)}): "
            "name the modules around it in skip"
        ) from error
    return Compared(twin, noise, exact, outputs)


def _deviation(model: nn.Module, compared: Compared) -> float:
    """The difference of the outputs of `verify`."""
    whole = copy_network(model)
    randomise(whole)
    if compared.exact:
        whole.double()
    features: list[tuple[str, Tensor, int]] = []
    run(whole, compared.noise, restricted(recorder(features), {}))
    dense = [value.double() for name, value, _ in features if name.startswith(OUTPUT)]

    change = max(_largest(one - masked) for one, (masked, _) in zip(dense, compared.outputs, strict=True))
    extent = max(_largest(masked - masked.mean()) for masked, _ in compared.outputs)
    difference = max(_largest(masked - cut_) for masked, cut_ in compared.outputs)
    return difference / (min(change, extent) or 1.0)


def _largest(values: Tensor) -> float:
    return float(values.nan_to_num(0, 0, 0).abs().amax())


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
        record = restricted(recorder(features), kept)
        try:
            if exact:
                twin.double()
            noise = first_finite(twin, noise_like(example_input, batch, exact), record, features)
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
