"""Saves and loads networks without pickle: spec in `model.json`, weights in `model.safetensors`.

A pruned network is saved as the spec of its dense network and the differences: numeric attributes of its
modules, such as out_channels, the layouts of its layers (`akgp.models.layout`), which are buffers, the names
of its bypassed blocks (`akgp.models.bypassed`) and of its narrowable attention modules
(`akgp.models.attention`), and the sizes of views that its code fixes (`akgp.models.view_sizes`). Its class is
imported by name when it is loaded, never unpickled.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from akgp.io.atomic import atomic_file
from akgp.models import ModelError, Spec, create, spec_of
from akgp.models.attention import make_narrowable_in, narrowable, narrowable_names, takes_several
from akgp.models.bypassed import bypass, bypassed_names
from akgp.models.layout import INPUTS, OUTPUTS, has_layout, layout_buffers, set_layout
from akgp.models.lazy_layers import settle
from akgp.models.origin import infer_spec, like, modules_of, skeleton
from akgp.models.plain import why_wrapped
from akgp.models.view_sizes import all_view_sizes, set_all_view_sizes

SPEC, WEIGHTS = "model.json", "model.safetensors"
FORMAT = 1
KINDS = {"architecture": str, "num_classes": int, "in_channels": int, "attributes": dict, "sha256": str}
SEVERAL = "several_sequences"
"""The narrowable modules that take different tensors as query, key and value."""


def save(model: nn.Module, directory: str | Path, architecture: str | None = None) -> None:
    """Write `model.safetensors`, then `model.json` with its digest, into `directory`, which is created.

    Networks of `akgp.models` have a spec. That of others is inferred: torchvision's and timm's classifiers,
    and classes that can be imported and take `num_classes` (and `in_channels`, if they have it).

    Args:
        architecture: what builds the dense network, as `networks.*.architecture`: `module:function`, called
            with `num_classes` (and `in_channels`); None: it has a spec, or one is inferred.

    Raises:
        ModelError: it is in a wrapper, no spec is known that builds it, or `architecture` builds another one.
    """
    if wrapped := why_wrapped(model):
        raise ModelError(f"{type(model).__name__}: {wrapped}")
    spec = infer_spec(model, architecture) if architecture else spec_of(model) or infer_spec(model)
    dense = skeleton(spec)
    attributes = _differences(model, dense)
    # clone: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in (model.state_dict() | _cut_buffers(model, dense)).items()
    }
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(tensors)
    with atomic_file(folder / WEIGHTS) as beside:
        beside.write_bytes(content)
    described = {
        "format": FORMAT,
        **vars(spec),
        "attributes": attributes,
        **({"bypassed": blocks} if (blocks := bypassed_names(model)) else {}),
        **({"narrowable": names} if (names := narrowable_names(model)) else {}),
        **({SEVERAL: several} if (several := _several(model)) else {}),
        **({"view_sizes": sizes} if (sizes := all_view_sizes(model)) else {}),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    # Last: with the digest, a crash between the two files is noticed by `load`.
    with atomic_file(folder / SPEC) as beside:
        beside.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def describe(model: nn.Module) -> tuple[Spec, dict[str, dict[str, Any]]]:
    """The spec of the dense network of `model`, and the numeric attributes that differ from it, by module.

    Raises:
        ModelError: as `save`, of which this is the part that can fail.
    """
    spec = spec_of(model) or infer_spec(model)
    return spec, _differences(model, skeleton(spec))


def load(directory: str | Path) -> nn.Module:
    """The network that `save` wrote, on the CPU and in eval mode.

    Raises:
        ModelError: a file is missing, damaged or of another network, or the class cannot be imported.
    """
    folder = Path(directory)
    described = _described(folder / SPEC)
    try:
        content = (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ModelError(f"{folder / WEIGHTS}: cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise ModelError(f"{folder / WEIGHTS}: is not the file that {SPEC} was written with: one is damaged")
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ModelError(f"{folder / WEIGHTS}: no safetensors file ({error})") from None
    model = settle(
        create(Spec(described["architecture"], described["num_classes"], described["in_channels"]))
    )
    try:
        for name in described.get("bypassed", ()):
            bypass(model, name)
        for name in described.get("narrowable", ()):
            if narrowable(module := model.get_submodule(name)) is None:
                raise AttributeError(f"{name} is a {type(module).__name__}")
            make_narrowable_in(model, name, name in described.get(SEVERAL, ()))
        for name, numbers in described["attributes"].items():
            _set_numbers(model.get_submodule(name), numbers)
        set_all_view_sizes(model, described.get("view_sizes", {}))
        _set_tensors(model, tensors)
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder}: does not fit {described['architecture']} as it is now: {error.args[0]}"
        ) from None
    return model.eval()


def _several(model: nn.Module) -> list[str]:
    return [name for name in narrowable_names(model) if takes_several(model.get_submodule(name))]


def _cut_buffers(model: nn.Module, dense: nn.Module) -> dict[str, Tensor]:
    """Buffers that a state_dict leaves out and that the spec's network has in other shapes."""
    shapes = {name: buffer.shape for name, buffer in dense.named_buffers()}
    saved = model.state_dict()
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if name not in saved and buffer.shape != shapes.get(name, buffer.shape)
    }


def _differences(model: nn.Module, dense: nn.Module) -> dict[str, dict[str, Any]]:
    """The numeric attributes of `model` that differ from those of `dense`, by module."""
    if modules_of(model) != modules_of(like(model, dense)):
        raise ModelError(
            f"{type(model).__name__}: its modules are no longer those of its spec {spec_of(dense)}"
        )
    for name in narrowable_names(model):
        make_narrowable_in(dense, name, takes_several(model.get_submodule(name)))
    if unlike := sorted(_tensor_names(model) ^ _tensor_names(dense)):
        raise ModelError(
            f"{type(model).__name__}: its tensors are not those of its spec {spec_of(dense)}, such as "
            f"{unlike[0]}: was it built with other options?"
        )
    differences = {}
    for (name, module), other in zip(model.named_modules(), dense.modules(), strict=True):
        before = _numbers(other)
        numbers = {key: value for key, value in _numbers(module).items() if value != before.get(key)}
        if numbers:
            differences[name] = numbers
    return differences


def _tensor_names(model: nn.Module) -> set[str]:
    """Names of parameters and buffers, those that a state_dict leaves out too, without layouts."""
    tensors = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    names = {name for each in tensors for name, _ in each}
    return names - set(layout_buffers(names))


def _numbers(module: nn.Module) -> dict[str, Any]:
    """A module's public attributes that are numbers or tuples of numbers, such as widths; not its mode."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and _is_number(value)
    }


def _is_number(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(_is_number(each) for each in value)
    return isinstance(value, (int, float))


def _set_numbers(module: nn.Module, numbers: dict[str, Any]) -> None:
    # Only numbers that are there already: a file must not set anything else. JSON has lists for tuples.
    for key, value in numbers.items():
        given = tuple(value) if isinstance(value, list) else value
        if not (_is_number(getattr(module, key)) and _is_number(given)):
            raise AttributeError(f"{key} is not a number")
        setattr(module, key, given)


def _set_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Replace the network's parameters and buffers, also by tensors of other shapes.

    load_state_dict would refuse the shapes of a pruned network. What is tied stays tied.
    """
    for name in layout_buffers(tensors):
        module = model.get_submodule(name.rpartition(".")[0])
        if not has_layout(module):
            path = name.rpartition(".")[0]
            set_layout(module, tensors.get(f"{path}.{INPUTS}"), tensors.get(f"{path}.{OUTPUTS}"))
    expected = set(model.state_dict(keep_vars=True))  # lazy parameters cannot be detached
    expected |= {name for name, _ in model.named_buffers() if name in tensors}  # `_cut_buffers`
    if expected != set(tensors):
        unmatched = sorted(expected ^ set(tensors))[0]
        raise KeyError(f"the tensor {unmatched!r} is in one of them only")
    before = dict(model.named_parameters(remove_duplicate=False))
    after: dict[nn.Parameter, nn.Parameter] = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        new: Tensor = tensor
        if (old := before.get(name)) is not None:
            new = after.setdefault(old, nn.Parameter(tensor, old.requires_grad))
            if not torch.equal(new, tensor):  # they were trained apart
                new = nn.Parameter(tensor, old.requires_grad)
        setattr(model.get_submodule(path), leaf, new)


def _described(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file; akgp.artifacts.save writes it") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read ({error})") from None
    needed = {"format", *KINDS}
    if not isinstance(content, dict) or not needed <= set(content):
        raise ModelError(f"{file}: must hold {', '.join(sorted(needed))}")
    if content["format"] != FORMAT:
        raise ModelError(f"{file}: is of format {content['format']!r}, this version reads {FORMAT}")
    for key, kind in KINDS.items():
        if not isinstance(content[key], kind) or (kind is int and content[key] < 1):
            raise ModelError(f"{file}: {key} is {content[key]!r}: the file is damaged")
    return content
