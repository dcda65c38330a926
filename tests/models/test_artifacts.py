"""Networks written and read again: pruned ones, torchvision's, a user's own; damage is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from akgp import artifacts
from akgp.evaluation import count
from akgp.models import ModelError, Spec, cifar_resnet, create
from akgp.pruning import prune
from akgp.quantization import QuantizationError, export_onnx

OWN = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 16, 3)
        self.head = nn.Linear(16, num_classes)
    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))
def make(num_classes):
    return Net(num_classes)
"""


TIED = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes, in_channels=3):
        super().__init__()
        self.first = nn.Conv2d(in_channels, 16, 3)
        self.one, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.other.weight = self.one.weight
        self.head = nn.Linear(16, num_classes)
    def forward(self, x):
        return self.head(self.other(self.one(self.first(x)).relu()).relu().mean((2, 3)))
"""
EXAMPLE = torch.zeros(1, 3, 32, 32)


def own(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str = OWN) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def returns(model: nn.Module, folder: Path) -> nn.Module:
    """Save and load; the outputs must be the same to the bit."""
    artifacts.save(model, folder)
    loaded = artifacts.load(folder)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected: Tensor = model.eval()(x)
        assert torch.equal(loaded(x), expected)
    assert not loaded.training
    return loaded


def pruned(model: nn.Module) -> nn.Module:
    return prune(model, EXAMPLE, ratio=0.5).model


def test_cifar_resnets_by_widths_and_pruned(tmp_path: Path) -> None:
    returns(cifar_resnet(20, (8, 16, 24)), tmp_path / "widths")
    smaller = pruned(cifar_resnet(20))
    loaded = returns(smaller, tmp_path / "pruned")
    assert loaded.conv1.out_channels == 8  # type: ignore[union-attr]
    assert sorted(file.name for file in (tmp_path / "pruned").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


def test_a_loaded_network_can_be_pruned_and_trained(tmp_path: Path) -> None:
    loaded = returns(pruned(cifar_resnet(20)), tmp_path).train()
    loaded(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())
    again = prune(loaded, torch.zeros(1, 3, 32, 32), ratio=0.5, round_to=4).model
    returns(again, tmp_path / "again")


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", pytest.param("regnet_y_400mf", marks=pytest.mark.slow)]
)
def test_torchvisions_own_are_recognised(name: str, tmp_path: Path) -> None:
    model = torchvision.models.get_model(name, num_classes=7)
    returns(pruned(model), tmp_path)
    assert json.loads((tmp_path / "model.json").read_text())["architecture"] == name


def test_tied_parameters_stay_tied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path, monkeypatch, "tied_nets", TIED)
    model: Any = create(Spec("tied_nets:Net", 10, 3))
    for number, each in enumerate((model, pruned(model))):
        loaded: Any = returns(each, tmp_path / str(number))
        assert loaded.one.weight is loaded.other.weight
        assert count(loaded, EXAMPLE).params == count(each, EXAMPLE).params
    model.other.weight = nn.Parameter(model.one.weight.detach() + 1)
    apart: Any = returns(model, tmp_path / "apart")
    assert torch.equal(apart.other.weight, apart.one.weight + 1), "they were trained apart"


def test_a_users_own_by_function_and_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path, monkeypatch, "own_net")
    returns(pruned(create(Spec("own_net:make", 5, 3))), tmp_path / "function")
    import own_net  # type: ignore[import-not-found]

    returns(pruned(own_net.Net(5)), tmp_path / "class")
    assert json.loads((tmp_path / "class" / "model.json").read_text())["architecture"] == "own_net:Net"


def test_a_constructor_that_computes_is_built_with_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = OWN.replace("self.conv =", "self.rate = torch.linspace(0, 0.1, 3)[1].item(); self.conv =")
    (tmp_path / "computing_net.py").write_text("import torch\n" + text)
    monkeypatch.syspath_prepend(str(tmp_path))
    returns(create(Spec("computing_net:make", 5, 3)), tmp_path / "saved")


def test_what_builds_a_network_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a class that takes more than the number of classes; and one that is built otherwise."""
    text = f"""{OWN}
class Wide(Net):
    def __init__(self, width, num_classes):
        super().__init__(num_classes)
def wide(num_classes):
    return Wide(9, num_classes)
"""
    (tmp_path / "wide_net.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    import wide_net  # type: ignore[import-not-found]

    model = wide_net.Wide(9, 5)
    with pytest.raises(
        ModelError, match=r"name what does: save\(model, directory, architecture='module:function'\)"
    ):
        artifacts.save(model, tmp_path / "saved")
    artifacts.save(pruned(model), tmp_path / "saved", architecture="wide_net:wide")
    assert json.loads((tmp_path / "saved" / "model.json").read_text())["architecture"] == "wide_net:wide"
    with pytest.raises(ModelError, match="architecture: cifar_resnet8 builds other modules than Wide's"):
        artifacts.save(model, tmp_path / "other", architecture="cifar_resnet8")
    monkeypatch.setattr(wide_net.Wide, "__module__", "timm.models.wide")  # timm's say which function it was
    monkeypatch.setitem(sys.modules, "timm.models", wide_net)
    model.pretrained_cfg = {"architecture": "wide"}
    artifacts.save(model, tmp_path / "timm")
    assert json.loads((tmp_path / "timm" / "model.json").read_text())["architecture"] == "timm.models:wide"


def test_tensors_of_other_options_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the mask of windows that an image of another size does not need."""
    own(tmp_path, monkeypatch, "masked_net")
    model = create(Spec("masked_net:make", 5, 3))
    model.register_buffer("mask", torch.ones(2), persistent=False)
    with pytest.raises(
        ModelError, match=r"Net: its tensors are not those of its spec .*, such as mask: was it built"
    ):
        artifacts.save(model, tmp_path / "saved")


def test_a_network_nothing_builds_again_is_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 900, 2))
    with pytest.raises(ModelError, match="Sequential: nothing that can be imported builds this"):
        artifacts.save(model, tmp_path)
    assert not list(tmp_path.iterdir())


def described(folder: Path, **changes: Any) -> None:
    file = folder / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.jit.script, torch.compile])
def test_a_wrapper_is_refused_with_what_to_give(wrap: Any, tmp_path: Path) -> None:
    wrapped = wrap(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    with pytest.raises(ModelError, match=r"give (its \.module|the network)"):
        artifacts.save(wrapped, tmp_path)
    with pytest.raises(QuantizationError, match=r"give (its \.module|the network)"):
        export_onnx(wrapped, torch.zeros(1, 3, 8, 8), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.json").unlink(), "model.json: no such file"),
        (lambda f: (f / "model.json").write_text("{"), "model.json: cannot be read"),
        (lambda f: (f / "model.json").write_text("{}"), "must hold architecture, attributes"),
        (lambda f: described(f, num_classes="ten"), "model.json: num_classes is 'ten': the file is damaged"),
        (lambda f: described(f, in_channels=0), "model.json: in_channels is 0: the file is damaged"),
        (lambda f: described(f, format="1"), "model.json: is of format '1', this version reads 1"),
        (lambda f: described(f, attributes={"conv1": {"out_channels": "x"}}), "out_channels is not a number"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: cannot be read"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"short"),
            "is not the file that model.json",
        ),
    ],
)
def test_damage_is_named(damage, message: str, tmp_path: Path) -> None:
    artifacts.save(cifar_resnet(8), tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        artifacts.load(tmp_path)


def test_an_architecture_that_has_changed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path, monkeypatch, "changing_net")
    artifacts.save(create(Spec("changing_net:make", 5, 3)), tmp_path / "saved")
    import changing_net  # type: ignore[import-not-found]

    monkeypatch.setattr(changing_net, "make", lambda num_classes: nn.Linear(3, num_classes))
    with pytest.raises(ModelError, match=r"not fit changing_net:make as it is now: the tensor '.*' is in"):
        artifacts.load(tmp_path / "saved")
