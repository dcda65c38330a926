"""Networks against the paper's formulas and a reference written here; checkpoints; what users get wrong."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp import artifacts
from akgp.models import (
    ChannelMap,
    ModelError,
    Spec,
    build,
    check_output,
    cifar_resnet,
    create,
    load_checkpoint,
    spec_of,
)
from akgp.models.building import replace_head
from akgp.params import Network

DEPTHS = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7}
"""Millions of parameters (He et al. 2016, table 6)."""


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def paper_parameters(depth: int) -> int:
    """He et al. 2016, section 4.2: 2n convolutions a stage of 16, 32 and 64 filters, option A."""
    n = (depth - 2) // 6
    convolutions = 9 * (3 * 16 + 2 * n * 16 * 16)
    for width in (32, 64):
        convolutions += 9 * (width // 2 * width + (2 * n - 1) * width * width)
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    return convolutions + norms + 64 * 10 + 10


def reference_logits(state: dict[str, Tensor], x: Tensor, depth: int) -> Tensor:
    """The network by functions alone, in eval; option A as zeros on both sides of the channels."""

    def normalized(name: str, x: Tensor) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = normalized("bn1", F.conv2d(x, state["conv1.weight"], padding=1)).relu()
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = normalized(
                f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            ).relu()
            out = normalized(f"{name}.bn2", F.conv2d(inner, state[f"{name}.conv2.weight"], padding=1))
            side = (out.shape[1] - x.shape[1]) // 2
            x = (out + F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, side, side))).relu()
    return F.linear(F.avg_pool2d(x, x.shape[-2:]).flatten(1), state["linear.weight"], state["linear.bias"])


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random running statistics and affine parameters too, so that no norm is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if "bn" in name and tensor.is_floating_point():
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameters_are_the_papers(depth: int) -> None:
    model = cifar_resnet(depth)
    assert parameters(model) == paper_parameters(depth)
    assert parameters(model) / 1e6 == pytest.approx(DEPTHS[depth], rel=0.02)
    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == depth


def test_logits_are_the_references() -> None:
    model = randomized(cifar_resnet(20)).double()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference_logits(model.state_dict(), x, 20))


@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 1, 10), (32, 3, 100), (33, 3, 2)])
def test_any_image_size_channels_and_classes(size: int, channels: int, classes: int) -> None:
    model = cifar_resnet(20, (8, 12, 20), classes, channels)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, classes)
    assert spec_of(model) == Spec("cifar_resnet20", classes, channels)


def test_widths_layer_by_layer() -> None:
    model = cifar_resnet(20, {"layer1.0.conv1": 5, "layer3.2.conv1": 7})
    assert model.layer1[0].conv1.weight.shape == (5, 16, 3, 3)
    assert model.layer1[0].conv2.weight.shape == (16, 5, 3, 3)
    assert model.layer3[2].conv1.out_channels == 7 and model.layer3[1].conv1.out_channels == 64
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    summed = {f"layer2.{block}.conv2": 40 for block in range(3)}
    assert cifar_resnet(20, summed).layer2[2].conv2.out_channels == 40


@pytest.mark.parametrize(
    ("depth", "widths", "message"),
    [
        (21, (16, 32, 64), "depth of a CIFAR ResNet must be 6n [+] 2: 8, 14, 20, 32, 44, 56, 110, got 21"),
        (2, (16, 32, 64), "must be 6n [+] 2.*got 2"),
        (20, (16, 32), r"three numbers, 1 or more each, got \[16, 32\]"),
        (20, (16, 0, 64), r"three numbers, 1 or more each, got \[16, 0, 64\]"),
        (20, (16, 8, 64), "stage 2 must not be narrower than stage 1, got 8 after 16"),
        (20, {"layer4.0.conv1": 8}, "'layer4.0.conv1' is not a convolution of this network [(]conv1, layer1"),
        (20, {"layer1.0.conv1": 0}, "layer1.0.conv1 must have 1 filter or more, got 0"),
        (20, {"conv1": 12}, "conv1 and layer1.0.conv2 are summed and must be equally wide, got 12 and 16"),
        (
            20,
            {"layer2.1.conv2": 31},
            "layer2.0.conv2 and layer2.1.conv2 are summed .* got 32 and 31",
        ),
    ],
)
def test_refused_sizes(depth: int, widths: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        cifar_resnet(depth, widths)


@pytest.mark.parametrize("index", [[-1, 0, 1, 2, -1], [2, -1, -1, 0], [1], [0, 0, 2, -1]])
def test_channel_map_is_its_index(index: list[int]) -> None:
    module = ChannelMap(3, 6, stride=2)
    assert module.index.tolist() == [-1, 0, 1, 2, -1, -1]
    module.index = torch.tensor(index)
    x = torch.randn(2, 3, 7, 5)
    expected = torch.zeros(2, len(index), 4, 3)
    for out, channel in enumerate(index):
        if channel >= 0:
            expected[:, out] = x[:, channel, ::2, ::2]
    assert torch.equal(module(x), expected)
    assert torch.equal(module.as_convolution()(x), expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "googlenet"])
def test_torchvision_by_name(name: str) -> None:
    model = build(Network(architecture=name), num_classes=7, in_channels=3, image_size=(64, 48))
    assert spec_of(model) == Spec(name, 7, 3)
    assert isinstance(model(torch.randn(2, 3, 64, 48)), Tensor), "in training too"


def heads_agree(name: str) -> None:
    """Replacing the head of ImageNet's network gives torchvision's own network of so many classes."""
    from torchvision import models

    # RegNets compute their widths with tensors, so that they need a real device.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model, native = models.get_model(name, weights=None), create(Spec(name, 7, 3))
        replace_head(model, 1000, 7)
    expected = {key: tensor.shape for key, tensor in native.state_dict().items()}
    found = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert found == expected, name


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16_bn", "squeezenet1_1", "regnet_x_400mf"])
def test_the_head_is_replaced(name: str) -> None:
    heads_agree(name)


@pytest.mark.slow
def test_every_torchvision_head_is_replaced() -> None:
    from torchvision import models

    for name in models.list_models(module=models):
        if not name.startswith("regnet") and name not in ("googlenet", "inception_v3"):
            heads_agree(name)


def test_the_new_head_is_fresh_and_keeps_its_bias() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Flatten(), nn.Linear(5, 5, bias=False))
    replace_head(model, 5, 2)
    assert model[0].out_channels == 5 and model[2].out_features == 2 and model[2].bias is None
    with pytest.raises(ModelError, match="Sequential has no layer of 1000 outputs to replace"):
        replace_head(model, 1000, 2)


@pytest.mark.parametrize(
    ("architecture", "channels", "message"),
    [
        ("resnet19", 3, "unknown network 'resnet19', did you mean resnet1"),
        ("zzzz", 3, "unknown network 'zzzz'. Allowed: cifar_resnet8"),
        ("resnet18", 1, "resnet18 takes images of 3 channels, got 1; use data.color: rgb"),
    ],
)
def test_refused_names(architecture: str, channels: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(Network(architecture=architecture), num_classes=10, in_channels=channels)


def test_refused_pretrained_weights() -> None:
    with pytest.raises(ModelError, match="weights: resnet18 has IMAGENET1K_V1, DEFAULT, got 'V9'"):
        build(Network(architecture="resnet18", weights="V9"), num_classes=10, in_channels=3)


# A user's own network

OWN = """
from torch import nn

def small(num_classes, in_channels):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

class Net(nn.Sequential):
    def __init__(self, num_classes, *, in_channels, **options):
        assert not options
        head = nn.Linear(in_channels, num_classes)
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

def chans(num_classes=1000, in_chans=3): return Net(num_classes, in_channels=in_chans)
def passes_on(pretrained=False, **kwargs): return chans(**kwargs)
def colour(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

def fixed(): return nn.Flatten()
def raises(num_classes):
    raise OSError("no weights\\nhere")
def text(num_classes): return "network"
def tuples(num_classes): return Pair()
def wrong(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))
def picky(num_classes): return Picky()
number = 3

class Pair(nn.Flatten):
    def forward(self, x): return x, x

class Picky(nn.Flatten):
    def forward(self, x):
        assert x.shape[-1] == 224, "Expected 224"
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose folder holds own_networks.py and broken_networks.py."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "broken_networks.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_networks", "broken_networks"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", ["small", "Net", "chans"])
def test_a_users_own(own: None, name: str) -> None:
    model = build(
        Network(architecture=f"own_networks:{name}"), num_classes=4, in_channels=2, image_size=(6, 5)
    )
    assert model(torch.zeros(3, 2, 6, 5)).shape == (3, 4)
    assert spec_of(model) == Spec(f"own_networks:{name}", 4, 2)


def test_lazy_layers_are_saved_with_their_sizes(own: None, tmp_path: Path) -> None:
    model = build(Network(architecture="own_networks:small"), num_classes=4, in_channels=2, image_size=(6, 5))
    artifacts.save(model, tmp_path / "saved")
    loaded = artifacts.load(tmp_path / "saved")
    x = torch.randn(3, 2, 6, 5)
    assert torch.equal(loaded(x), model(x))
    assert (loaded[1].in_features, type(loaded[1])) == (60, torch.nn.Linear)  # type: ignore[index]
    artifacts.save(loaded, tmp_path / "again")
    assert torch.equal(artifacts.load(tmp_path / "again")(x), model(x))


def test_channels_are_passed_only_by_name(own: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `**kwargs` passes on is not known; but timm's functions pass on in_chans, whose default is 3."""
    from akgp.models.user_code import channels_option

    network = Network(architecture="own_networks:passes_on")
    assert build(network, num_classes=4, in_channels=3, image_size=(6, 5))[-1].in_features == 3
    passes_on = sys.modules["own_networks"].passes_on
    assert [channels_option(passes_on, channels) for channels in (1, 3)] == [{}, {}]
    monkeypatch.setattr(passes_on, "__module__", "timm.models.resnet")
    assert [channels_option(passes_on, channels) for channels in (1, 3)] == [{"in_chans": 1}, {}]
    assert build(network, num_classes=4, in_channels=1, image_size=(6, 5))[-1].in_features == 1


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("nowhere:f", "'nowhere:f' cannot be imported from .*No module named 'nowhere'"),
        (
            "broken_networks:f",
            "cannot be imported from .*No module named 'nowhere_to_be_found'; broken_networks.py:1, in <mod",
        ),
        ("own_networks:f", "cannot be imported from .*has no attribute 'f'"),
        ("own_networks:fixed", "own_networks:fixed must take the argument num_classes"),
        (
            "own_networks:raises",
            r"raises\(num_classes=4\) raised OSError: no weights here; own_networks.py:\d+, in raises$",
        ),
        ("own_networks:colour", "it reads 3 channels: data.color must be rgb, or .* must take in_channels$"),
        ("own_networks:number", "raised TypeError: 'int' object is not callable"),
        ("own_networks:text", "own_networks:text must return a torch.nn.Module, got str"),
        ("own_networks:tuples", r"must give logits of shape \[1, 4\] for images of 2×6×5, got tuple"),
        (
            "tests.support.several_inputs:TwoTensors",
            r"takes 2 inputs without a default \(image, numbers\), .* give numbers a default in its forward$",
        ),
        (
            "own_networks:picky",
            "cannot take images of 2×6×5: AssertionError: Expected 224; own_networks.py:\\d+, in forward$",
        ),
    ],
)
def test_a_users_own_that_does_not_work(own: None, architecture: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(Network(architecture=architecture), num_classes=4, in_channels=2, image_size=(6, 5))


def test_check_output_keeps_the_mode() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).train()
    check_output(model, torch.zeros(2, 3, 2, 2), 4)
    assert model.training
    with pytest.raises(ModelError, match=r"Sequential must give logits of shape \[2, 5\] .* got \[2, 4\]"):
        check_output(model, torch.zeros(2, 3, 2, 2), 5)
    with pytest.raises(
        ModelError, match="Sequential cannot take images of 3×9×9: RuntimeError: mat1 and mat2"
    ):
        check_output(model, torch.zeros(2, 3, 9, 9), 4)
    assert model.training


# Checkpoints


def tiny(widths: tuple[int, int, int] = (4, 4, 8), seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return randomized(cifar_resnet(8, widths), seed)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_are_loaded(tmp_path: Path, suffix: str, prefix: str) -> None:
    trained, model, file = tiny(seed=1), tiny(), tmp_path / f"weights{suffix}"
    state = {prefix + name: tensor for name, tensor in trained.state_dict().items()}
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
    load_checkpoint(model, file)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_a_checkpoint_of_other_classes_keeps_the_networks_own_classifier(tmp_path: Path) -> None:
    trained, file = cifar_resnet(8, (4, 4, 8), num_classes=100), tmp_path / "weights.pt"
    torch.save(trained.state_dict(), file)
    model, own = tiny(), tiny()
    with pytest.raises(
        ModelError, match=r"linear.weight has shape \[100, 8\], cifar_resnet8 needs \[10, 8\]"
    ):
        load_checkpoint(model, file)
    load_checkpoint(model, file, other_classes=True)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (own if name.startswith("linear.") else trained).state_dict()[name]), name
    torch.save(cifar_resnet(8, (4, 4, 9), num_classes=100).state_dict(), file)
    with pytest.raises(ModelError, match=r"layer3\.0\.conv1\.weight has shape"):
        load_checkpoint(model, file, other_classes=True)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_nested_checkpoints_of_others_are_loaded(tmp_path: Path, wrapper: str) -> None:
    """Other implementations of option A save neither its layout nor, in old files, BatchNorm's counters."""
    trained, model = tiny(seed=1), tiny()
    state = {
        name: tensor
        for name, tensor in trained.state_dict().items()
        if not name.endswith(("index", "num_batches_tracked"))
    }
    torch.save({wrapper: state, "epoch": 3, "best": 91.2}, tmp_path / "checkpoint.th")
    load_checkpoint(model, tmp_path / "checkpoint.th")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model(x), trained(x))


def pruned_by_mask(state: dict[str, Tensor]) -> dict[str, Tensor]:
    ones = torch.ones_like(state["conv1.weight"])
    return {("conv1.weight_orig" if name == "conv1.weight" else name): t for name, t in state.items()} | {
        "conv1.weight_mask": ones
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {name: t.half().float().to_sparse() if t.ndim == 2 else t for name, t in state.items()},
        lambda state: {name: t.half() if t.is_floating_point() else t for name, t in state.items()},
        lambda state: {f"net.model.{name}": t for name, t in state.items()},
        lambda state: {f"module.{name}": t for name, t in state.items()} | {"n_averaged": torch.tensor(3)},
        lambda state: {"model_state_dict": state, "optimizer": {"step": 3}},
        lambda state: {
            "model": state,
            "args": Namespace(data=Path()),
            "top1": np.float64(9),
        },  # torchvision's
        lambda state: {"net": state, "acc": 93.1, "code that must not run": Payload()},
        pruned_by_mask,
    ],
    ids=["sparse", "half", "prefix", "average", "wrapper", "script", "net", "mask"],
)
def test_checkpoints_in_other_clothes_are_loaded(tmp_path: Path, change: Any) -> None:
    trained, model = tiny(seed=1).half().float(), tiny()
    torch.save(change(trained.state_dict()), tmp_path / "weights.pt")
    load_checkpoint(model, tmp_path / "weights.pt")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
        assert model.state_dict()[name].dtype == tensor.dtype


def changed(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    state = tiny().state_dict()
    return {**state, name: change(state[name])}


def test_remote_checkpoints_are_loaded() -> None:
    import fsspec

    trained, model, content = tiny(seed=1), tiny(), io.BytesIO()
    torch.save(trained.state_dict(), content)
    with fsspec.open("memory://bucket/weights.pt", "wb") as stream:
        stream.write(content.getvalue())
    load_checkpoint(model, "memory://bucket/weights.pt")
    assert torch.equal(model.linear.weight, trained.linear.weight)


class Payload:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: tiny((4, 4, 9)).state_dict(), r"layer3.0.conv1.weight has shape \[9, 4, 3, 3\], "
         r"cifar_resnet8 needs \[8, 4, 3, 3\]"),
        (lambda: cifar_resnet(14, (4, 4, 8)).state_dict(),
         "has a tensor 'layer1.1.conv1.weight', which cifar_resnet8 has not"),
        (lambda: dict(list(tiny().state_dict().items())[1:]),
         "lacks the tensor 'conv1.weight' of cifar_resnet8"),
        (lambda: changed("conv1.weight", lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
         r"conv1.weight is quantized \(torch.qint8\): give the floating-point checkpoint"),
        (lambda: changed("conv1.weight", lambda w: w.to(torch.int8)), "conv1.weight holds torch.int8 numb"),
        (lambda: {**tiny().state_dict(), "fc._packed_params": (1,)}, "is quantized: give the floating-point"),
        (lambda: changed("linear.bias", lambda b: b / 0), "linear.bias holds values that are not finite"),
        (lambda: {1: torch.zeros(1)}, "must be a state dict of tensors"),
        (lambda: {"state_dict": {}}, "must be a state dict of tensors"),
        (lambda: {"a": 1}, "must be a state dict of tensors"),
        (lambda: [1, 2], "must be a state dict of tensors"),
        (lambda: {"conv1.weight": Payload()}, "must be a state dict of tensors"),
        (lambda: tiny(), "a whole network; write its weights: torch.save[(]model.state_dict"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_refused_checkpoints(tmp_path: Path, content: Any, message: str) -> None:
    file, model = tmp_path / "weights.pt", tiny()
    torch.save(content(), file)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=f"weights.pt: {message}"):
        load_checkpoint(model, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_unreadable_checkpoints(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"{name}: cannot be read: FileNotFoundError"):
        load_checkpoint(tiny(), tmp_path / name)
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(ModelError, match=f"{name}: neither safetensors nor a state dict"):
        load_checkpoint(tiny(), tmp_path / name)


def test_a_checkpoint_on_s3(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    trained = cifar_resnet(8)
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "net.safetensors")
    url = s3.upload(tmp_path, "checkpoints")
    model = cifar_resnet(8)
    load_checkpoint(model, f"{url}/net.safetensors")
    torch.testing.assert_close(dict(model.state_dict()), dict(trained.state_dict()), rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"s3://.*/none\.pt: cannot be read"):
        load_checkpoint(model, f"{url}/none.pt")
