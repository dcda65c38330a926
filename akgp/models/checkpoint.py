"""Loads weights that were trained elsewhere into a network."""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from torch import Tensor, nn

from akgp.io.errors import one_line
from akgp.models.resnet import ChannelMap
from akgp.models.spec import ModelError, model_name
from akgp.params import REMOTE

# Keys under which training scripts (Lightning, timm, torchvision's references) store the state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model")
UNQUANTIZED = ": give the floating-point checkpoint from before it was quantized"


def load_checkpoint(model: nn.Module, path_or_url: str | Path, *, other_classes: bool = False) -> None:
    """Load trained weights into `model`: safetensors, or a state dict that `torch.save` wrote.

    Prefixes of wrappers (`module.`, `_orig_mod.`, or one that all names share) and an outer `state_dict` or
    the like are removed, sparse tensors become dense, masks of `torch.nn.utils.prune` are applied and other
    precisions converted. Nothing but tensors is unpickled: what a script saves beside them is passed over.

    Args:
        path_or_url: a file, or a URL that fsspec reads, such as s3://.
        other_classes: the classifier's tensors, those that differ in their first dimension alone, may be of
            another number of classes: the network keeps its own.

    Raises:
        ModelError: it is unreadable, quantized, not finite, or of another architecture; names the file and
            the first tensor that differs.
    """
    expected = model.state_dict()
    read = {_unprefixed(name): tensor for name, tensor in read_checkpoint(path_or_url).items()}
    weights = _without_common_prefix(_masked(read), expected)
    weights.pop("n_averaged", None)  # the counter of torch's AveragedModel
    for name, tensor in weights.items():
        weights[name] = _dense(f"{path_or_url}: {name}", tensor)
    # Option A's channel map is a buffer here, which other implementations don't have. The counter of batches
    # matters to BatchNorms without momentum alone, and older checkpoints lack it.
    maps = {f"{name}.index" for name, module in model.named_modules() if isinstance(module, ChannelMap)}
    optional = maps | {name for name in expected if name.endswith("num_batches_tracked")}
    if other_classes:
        for name in _of_the_classifier(weights, expected):
            weights[name] = expected[name]
    for name in [*expected, *weights]:
        if name not in expected:
            raise ModelError(f"{path_or_url}: has a tensor {name!r}, which {model_name(model)} has not")
        if name not in weights:
            if name in optional:
                continue
            raise ModelError(f"{path_or_url}: lacks the tensor {name!r} of {model_name(model)}")
        if weights[name].shape != expected[name].shape:
            raise ModelError(
                f"{path_or_url}: {name} has shape {list(weights[name].shape)}, "
                f"{model_name(model)} needs {list(expected[name].shape)}"
            )
        if expected[name].is_floating_point() and not weights[name].is_floating_point():
            raise ModelError(f"{path_or_url}: {name} holds {weights[name].dtype} numbers{UNQUANTIZED}")
    model.load_state_dict({**expected, **weights})


def _of_the_classifier(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that differ from the network's in their first dimension, if it is one module."""
    differing = [name for name in weights if name in expected and weights[name].shape != expected[name].shape]
    alike = all(weights[name].shape[1:] == expected[name].shape[1:] for name in differing)
    modules = {name.rpartition(".")[0] for name in differing}
    return differing if alike and len(modules) == 1 else []


def read_checkpoint(path_or_url: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, without any conversion.

    Raises:
        ModelError: it is unreadable, or not a state dict of tensors.
    """
    name = str(path_or_url)
    try:
        if REMOTE.match(name):
            import fsspec

            with fsspec.open(name, "rb") as stream:
                content = stream.read()
        else:
            content = Path(name).read_bytes()
    except Exception as error:  # each file system has its own types of errors
        raise ModelError(f"{name}: cannot be read: {one_line(error)}") from error
    return _state_dict(name, content)


def _state_dict(name: str, content: bytes) -> dict[str, Tensor]:
    try:
        state = safetensors.torch.load(content) if name.endswith(".safetensors") else _unpickled(content)
    except Exception as error:  # safetensors, zipfile and pickle have their own types of errors
        raise ModelError(
            f"{name}: neither safetensors nor a state dict; write it by torch.save(model.state_dict(), ...)"
        ) from error
    for wrapper in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if isinstance(state, Mapping) and any(str(key).endswith("_packed_params") for key in state):
        raise ModelError(f"{name}: is quantized{UNQUANTIZED}")
    if isinstance(state, Mapping) and not _are_weights(state):
        inner = [each for each in state.values() if _are_weights(each)]
        state = inner[0] if len(inner) == 1 else state
    if isinstance(state, Passed):
        raise ModelError(f"{name}: a whole network; write its weights: torch.save(model.state_dict(), ...)")
    if not _are_weights(state):
        raise ModelError(f"{name}: must be a state dict of tensors, if need be under 'state_dict' or 'model'")
    return dict(state)


def _are_weights(state: Any) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(state, Mapping)
        and bool(state)
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items())
    )


class Passed:
    """Stands for an object of any class but tensors and containers: that class's code is never run."""

    def __new__(cls, *given: Any, **named: Any) -> Passed:
        return object.__new__(cls)

    def __init__(self, *given: Any, **named: Any) -> None: ...

    def passed(self, *given: Any) -> None: ...

    __setstate__ = __setitem__ = append = extend = passed


def _unpickled(content: bytes) -> Any:
    """What torch.save wrote, with `Passed` in place of objects such as a script's arguments."""
    with warnings.catch_warnings(action="ignore"):  # about sparse and quantized tensors: see `_dense`
        try:
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            others = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
            with torch.serialization.safe_globals([(Passed, other) for other in others]):
                return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _unprefixed(name: str) -> str:
    return re.sub(r"^((module|_orig_mod)\.)+", "", name)


def _without_common_prefix(weights: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without a prefix such as `model.` that all names share, if no name fits the network's."""
    while weights and not set(weights) & set(expected):
        prefixes = {name.partition(".")[0] + "." for name in weights}
        if len(prefixes) > 1 or any("." not in name for name in weights):
            break
        weights = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    return weights


def _masked(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with `weight` = `weight_orig` · `weight_mask` for each such pair (torch.nn.utils.prune)."""
    result = {}
    for name, tensor in weights.items():
        base = name.removesuffix("_orig")
        if base != name and f"{base}_mask" in weights:
            result[base] = tensor * weights[f"{base}_mask"]
        elif not (name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in weights):
            result[name] = tensor
    return result


def _dense(name: str, tensor: Tensor) -> Tensor:
    """The tensor with dense layout.

    Raises:
        ModelError: it is quantized, or holds values that are not finite.
    """
    if tensor.is_quantized:
        raise ModelError(f"{name} is quantized ({tensor.dtype}){UNQUANTIZED}")
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if not tensor.isfinite().all():
        raise ModelError(f"{name} holds values that are not finite: its training has diverged")
    return tensor
