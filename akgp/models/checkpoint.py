"""Weights trained elsewhere, read into a network that is built already."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from akgp.models.resnet import ChannelMap
from akgp.models.spec import ModelError, called, one_line
from akgp.params import REMOTE


def load_checkpoint(model: nn.Module, path_or_url: str | Path) -> None:
    """Load trained weights into `model`: safetensors, or a state dict that `torch.save` wrote.

    Prefixes that wrappers leave (`module.`, `_orig_mod.`) and an outer `state_dict` or `model`
    are stripped. Nothing but tensors is unpickled.

    Args:
        path_or_url: a file, or a URL that fsspec reads, such as s3://.

    Raises:
        ModelError: unreadable, or not of this architecture: names the file and the first tensor that differs.
    """
    found = {_unprefixed(name): tensor for name, tensor in _read(path_or_url).items()}
    expected = model.state_dict()
    # Option A's channel layout is a constant here, which other implementations don't save.
    maps = {f"{name}.index" for name, module in model.named_modules() if isinstance(module, ChannelMap)}
    optional = maps | {name for name in expected if name.endswith("num_batches_tracked")}
    for name in [*expected, *found]:
        if name not in expected:
            raise ModelError(f"{path_or_url}: has a tensor {name!r}, which {called(model)} has not")
        if name not in found:
            if name in optional:
                continue
            raise ModelError(f"{path_or_url}: lacks the tensor {name!r} of {called(model)}")
        if found[name].shape != expected[name].shape:
            raise ModelError(
                f"{path_or_url}: {name} has shape {list(found[name].shape)}, "
                f"{called(model)} needs {list(expected[name].shape)}"
            )
    model.load_state_dict({**expected, **found})


def _read(path_or_url: str | Path) -> dict[str, Tensor]:
    name = str(path_or_url)
    try:
        if REMOTE.match(name):
            import fsspec

            with fsspec.open(name, "rb") as stream:
                content = stream.read()
        else:
            content = Path(name).read_bytes()
    except Exception as error:  # each file system has its own
        raise ModelError(f"{name}: cannot be read: {one_line(error)}") from error
    return _state_dict(name, content)


def _state_dict(name: str, content: bytes) -> dict[str, Tensor]:
    state: object
    try:
        if name.endswith(".safetensors"):
            state = safetensors.torch.load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and pickle have their own
        raise ModelError(
            f"{name}: neither safetensors nor a state dict; write it by torch.save(model.state_dict(), ...)"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise ModelError(f"{name}: must be a state dict of tensors, if need be under 'state_dict' or 'model'")
    return dict(state)


def _unprefixed(name: str) -> str:
    return re.sub(r"^((module|_orig_mod)\.)+", "", name)
