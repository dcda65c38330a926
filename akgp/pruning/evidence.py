"""What images say of a network's filters: derivatives by a gate on each channel, and feature maps.

A filter is judged where pruning takes effect: at the output of its layer, or of the BatchNorm behind it,
whose γ and β go with the filter, if nothing else reads that output. There each channel is multiplied by a
gate of 1. Derivatives by the gates say what the loss and the logits do when the channel goes (Molchanov et
al. 2019, Importance Estimation for Neural Network Pruning, section 3.2).
N: images of a batch, O: filters of a layer, C: classes.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from akgp.io.errors import first_line
from akgp.models.eval_mode import eval_mode
from akgp.models.inputs import Example, Inputs
from akgp.models.view_sizes import uncounted
from akgp.pruning.coupling.layers import PRUNABLE
from akgp.pruning.coupling.preparation import PruningError

if TYPE_CHECKING:
    from akgp.data.batches import Batch
    from akgp.training import Objective

EXACT_CLASSES, DRAWS = 32, 32
"""Up to so many classes the curvature is exact, at two backward passes a class; else so many random draws."""

Curvature = Callable[["Batch", Tensor], tuple[Tensor, Tensor]]
"""(batch, logits [N, C]) -> the weights [2, N] and probabilities [2, N, C] of two softmax distributions.

The Hessian of an image's loss by its logits is Σ_j weight_j · F(p_j), F(p) = diag(p) − ppᵀ.
"""


@dataclass(frozen=True)
class Evidence:
    """Labelled images and a loss; what a criterion may ask beside the weights. All on the network's device.

    batches: with the columns that the objective needs.
    objective: the loss whose rise is judged.
    curvature: of the objective, for the criterion `knowledge`.
    """

    batches: Sequence[Batch]
    objective: Objective
    curvature: Curvature | None = None


def distillation_curvature(column: str, temperature: float) -> Curvature:
    """Of (1 − w)·CE + w·T²·KL: F is a cross-entropy's Hessian whatever its target, and T² cancels.

    Args:
        column: of a batch, the teacher's weight w of each image.
    """

    def curvature(batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor]:
        weight = batch.columns[column].to(logits.dtype)
        weights = torch.stack([1 - weight, weight])
        return weights, torch.stack([logits.softmax(1), (logits / temperature).softmax(1)])

    return curvature


@dataclass(frozen=True)
class Gated:
    """A forward pass with a gate on each channel: logits [N, C], and gates [N, O] by layer."""

    batch: Batch
    logits: Tensor
    gates: Mapping[str, Tensor]

    def derivatives(self, outputs: Tensor, direction: Tensor | None = None) -> dict[str, Tensor]:
        """The derivative of `outputs` (in a direction) by each gate [N, O]; left out where there is none."""
        found = torch.autograd.grad(
            outputs, list(self.gates.values()), direction, retain_graph=True, allow_unused=True
        )
        named = zip(self.gates, found, strict=True)
        return {name: each.detach() for name, each in named if each is not None}


@contextlib.contextmanager
def gated(model: nn.Module, batch: Batch) -> Iterator[Gated]:
    """Run `model` in eval mode with a gate on each channel of each layer that it calls."""
    gates: dict[str, Tensor] = {}

    def gate(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            channel = channel_dimension(module, output)
            shape = (len(output), *(s if d == channel else 1 for d, s in enumerate(output.shape) if d))
            if name not in gates:  # a layer that is called again shares its gates
                gates[name] = output.new_ones(len(output), output.shape[channel], requires_grad=True)
            with uncounted():
                return output * gates[name].view(shape)

        return hook

    with torch.enable_grad(), eval_mode(model), _hooked(judged_modules(model, batch.inputs[:1]), gate):
        yield Gated(batch, model(batch.inputs), gates)


def judged_modules(
    model: nn.Module, example_input: Example, *, sole_reader: bool = True
) -> dict[str, nn.Module]:
    """By the name of each layer that `model` calls, the module at whose output its filters are judged.

    Args:
        sole_reader: a BatchNorm behind a layer is that module only if nothing else reads the layer's output,
            such as a shortcut, and if both are called once.
    """
    found: dict[str, nn.Module] = {}
    norms: dict[str, nn.Module] = {}
    calls, readers = Counter[nn.Module](), _Readers()

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, given: Any, output: Tensor) -> None:
            calls[module] += 1
            if isinstance(module, PRUNABLE):
                found.setdefault(name, module)
                readers.outputs[id(output)] = (name, output)
            elif isinstance(module, _BatchNorm) and id(given[0]) in readers.outputs:
                norms[readers.outputs[id(given[0])][0]] = module

        return hook

    modules = {n: m for n, m in model.named_modules() if isinstance(m, (*PRUNABLE, _BatchNorm))}
    with torch.no_grad(), eval_mode(model), _hooked(modules, note), readers:
        Inputs.of(model, example_input).run(model)
    for name, norm in norms.items():
        if not sole_reader or calls[found[name]] == calls[norm] == readers.counts[name] == 1:
            found[name] = norm
    return found


class _Readers(TorchFunctionMode):
    """Counts the operations that read outputs of layers.

    Attributes:
        outputs: identity of an output -> its layer, and the output, kept so that no other gets its identity.
        counts: operations that make tensors of an output, by layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, tuple[str, Tensor]] = {}
        self.counts: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(each, Tensor) for each in pytree.tree_leaves(out)):  # not its shape
            read = {id(each) for each in pytree.tree_leaves((args, kwargs))}
            self.counts.update(self.outputs[each][0] for each in read & self.outputs.keys())
        return out


def channel_dimension(module: nn.Module, output: Tensor) -> int:
    """The dimension of a layer's output that holds its filters."""
    return output.ndim - 1 if isinstance(module, nn.Linear) else 1


@contextlib.contextmanager
def _hooked(modules: Mapping[str, nn.Module], hook: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def loss_derivatives(model: nn.Module, evidence: Evidence) -> dict[str, Tensor]:
    """The derivative of each batch's mean loss by each filter's gate: float64 [batches, O] by layer."""
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for batch in evidence.batches:
        with gated(model, batch) as run:
            for name, each in run.derivatives(evidence.objective(batch, run.logits, 0.0)).items():
                rows[name].append(each.double().sum(0))
    return {name: torch.stack(each) for name, each in rows.items()}


def curvature_roots(curvature: Curvature, run: Gated) -> Iterator[Tensor]:
    """Directions u [N, C] of the logits whose Σ uuᵀ is the Hessian of each image's loss.

    With F = BBᵀ, B = diag(√p) − p√pᵀ, the columns of B are such directions; so, on average, are B's products
    with random signs, which are drawn where there are many classes.
    """
    weights, probabilities = curvature(run.batch, run.logits.detach())
    classes = run.logits.shape[1]
    drawn = classes > EXACT_CLASSES
    generator = torch.Generator().manual_seed(0)
    for weight, probability in zip(weights, probabilities, strict=True):
        root = probability.sqrt()
        for k in range(DRAWS if drawn else classes):
            signs = torch.zeros_like(root)
            if drawn:
                signs = torch.randint(0, 2, root.shape, generator=generator).to(root) * 2 - 1
                signs /= DRAWS**0.5
            else:
                signs[:, k] = 1
            yield weight.sqrt()[:, None] * (root * signs - probability * (root * signs).sum(1, keepdim=True))


def hessian_diagonal(model: nn.Module, evidence: Evidence, draws: int, seed: int) -> dict[str, Tensor]:
    """The diagonal of the mean loss's Hessian by each layer's weight, of the weight's shape, by layer.

    Hutchinson's estimate E[z ⊙ Hz] over random signs z, without bias; exact where the Hessian is diagonal.

    Raises:
        PruningError: torch has no second derivative of an operation of the network, or the loss has no
            derivative by a layer that is called.
    """
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivatives
            return _hessian_diagonal(model, evidence, draws, seed)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        why = f"which torch lacks here ({first_line(error)})"
        raise PruningError(
            f"criterion obd needs second derivatives, {why}: take taylor or knowledge"
        ) from error


def _hessian_diagonal(model: nn.Module, evidence: Evidence, draws: int, seed: int) -> dict[str, Tensor]:
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, PRUNABLE)}
    generator = torch.Generator().manual_seed(seed)
    sums = {name: torch.zeros_like(layer.weight, dtype=torch.float64) for name, layer in layers.items()}
    frozen = [each for layer in layers.values() for each in layer.parameters() if not each.requires_grad]
    called: set[str] = set()

    def note(name: str) -> Callable[..., None]:
        return lambda *given: called.add(name)

    with torch.enable_grad(), eval_mode(model), _hooked(layers, note):
        for weight in frozen:
            weight.requires_grad_(True)
        for batch in evidence.batches:
            called.clear()
            with parametrize.cached():  # weights may be computed: those that the pass has read
                loss = evidence.objective(batch, model(batch.inputs), 0.0)
                weights = {n: w for n, layer in layers.items() if (w := layer.weight).requires_grad}
            gradients = torch.autograd.grad(
                loss, list(weights.values()), create_graph=True, allow_unused=True
            )
            used = [(n, w, g) for (n, w), g in zip(weights.items(), gradients, strict=True) if g is not None]
            if unused := called.difference(name for name, *_ in used):
                raise PruningError(
                    f"criterion obd: the loss has no derivative by the weight of {min(unused)}: take taylor"
                )
            for _ in range(draws):
                signs = [torch.randint(0, 2, w.shape, generator=generator).to(w) * 2 - 1 for _, w, _ in used]
                products = torch.autograd.grad(
                    [g for _, _, g in used],
                    [w for _, w, _ in used],
                    signs,
                    retain_graph=True,
                    allow_unused=True,
                )
                for (name, _, _), sign, product in zip(used, signs, products, strict=True):
                    if product is not None:
                        sums[name] += (sign * product).detach().double()
        for weight in frozen:
            weight.requires_grad_(False)
    return {name: each / (draws * len(evidence.batches)) for name, each in sums.items()}


def feature_ranks(model: nn.Module, evidence: Evidence) -> dict[str, Tensor]:
    """The mean rank of each channel's map behind a ReLU over the images: float64 [O] by layer."""
    sums: dict[str, Tensor] = {}
    images = sum(len(batch.labels) for batch in evidence.batches)

    def measure(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps = output.relu().movedim(channel_dimension(module, output), 1)
            with uncounted():
                maps = maps.reshape(*maps.shape[:2], *(maps.shape[2:4] if maps.ndim == 4 else (-1, 1)))
            ranks = torch.linalg.matrix_rank(maps.float()).double().sum(0)
            sums[name] = sums[name] + ranks if name in sums else ranks

        return hook

    with torch.no_grad(), eval_mode(model):
        modules = judged_modules(model, evidence.batches[0].inputs[:1])
        with _hooked(modules, measure):
            for batch in evidence.batches:
                model(batch.inputs)
    return {name: each / images for name, each in sums.items()}
