"""Exports: each runtime runs its file of one int8 network beside the oracle; layers that differ are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data import IndexedSource
from akgp.deployment.agreement import compare, first_deviation, oracle
from akgp.deployment.measurement import differing
from akgp.deployment.targets import TARGETS, Int8File, Kind, Target, activations, chosen
from akgp.deployment.targets.torch_program import TorchProgram
from akgp.evaluation import runtime_logits
from akgp.quantization import QuantizationError
from akgp.quantization import operations as ops
from akgp.quantization.qdq import Qdq
from akgp.runtimes import RUNTIMES, GraphError, installed, require_installed
from tests.quantization.test_description import IMAGES, Kinds, int8_file

PIXELS = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
SOURCE = IndexedSource(PIXELS, torch.arange(24) % 5, (0.5,) * 3, (0.3,) * 3)


def needed(target: Target) -> None:
    if not installed(target.runtime):
        pytest.skip(f"the extra {target.runtime.extra} is not installed")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Int8File:
    """All operations that an export knows."""
    torch.manual_seed(0)
    return Int8File(int8_file(Kinds(), tmp_path_factory.mktemp("kinds")))


def logits(source: Int8File, target: Target, folder: Path, kind: Kind = "int8") -> list[np.ndarray]:
    """All outputs for the first images."""
    network = target.runtime.load(target.write(source, folder, kind), threads=1)
    images = next(SOURCE.ordered(batch_size=24)).inputs.numpy()
    assert network.image_shape == images.shape[1:]
    size = network.largest_batch or 24
    parts = [network.outputs(images[at : at + size]) for at in range(0, 24, size)]
    network.close()
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_every_runtime_computes_the_network(kinds: Int8File, target: Target, tmp_path: Path) -> None:
    """The last steps may be rounded otherwise, by one or two; nothing else may differ."""
    needed(target)
    expected, scale = oracle(kinds, SOURCE).logits.numpy(), float(kinds.description.output.scale)
    got, *layers = logits(kinds, target, tmp_path, "observed")
    assert len(layers) == len(activations(kinds.description))
    inputs = next(SOURCE.ordered(batch_size=24)).inputs.numpy()
    integers = kinds.simulate(inputs).integers
    pool = next(each for each in kinds.description.operations if isinstance(each, ops.AveragePool))
    for each, values in zip(activations(kinds.description), layers, strict=True):
        if target.name == "openvino" and each == pool.output:
            return  # it pads with the integer 0, whatever the zero point (2026.4)
        if each.name in integers:
            steps = np.abs(np.rint(values / each.scale) + each.zero - integers[each.name])
            assert steps.max() <= 2 and (steps == 0).mean() > 0.95, each.name
    assert np.abs(got - expected).max() <= (0 if target.name == "onnx" else 2.01 * scale)
    if target.name == "litert":
        return  # which lacks functions: its float twin is of use for its speed alone
    floats = logits(kinds, target, tmp_path, "float")[0]
    assert 0 < np.abs(floats - expected).max() < 0.2 * np.abs(expected).max()


def test_an_openvino_file_is_of_a_fixed_size(kinds: Int8File, tmp_path: Path) -> None:
    """Or it would run several times as long. Other numbers of images give the same, to two steps."""
    needed(TARGETS["openvino"])
    import openvino

    file = TARGETS["openvino"].write(kinds, tmp_path)
    assert list(openvino.Core().read_model(file).inputs[0].shape) == [1, 3, 8, 8]
    network = RUNTIMES["openvino"].load(file, threads=1)
    images = next(SOURCE.ordered(batch_size=24)).inputs.numpy()
    one_by_one = np.concatenate([network.run(image[None]) for image in images])
    # Its kernels for one image and for many may round otherwise on other processors.
    step = float(kinds.description.output.scale)
    np.testing.assert_allclose(network.run(images), one_by_one, rtol=0, atol=2.01 * step)


def test_a_pytorch_program_concatenates_at_one_scale(kinds: Int8File) -> None:
    """As ExecuTorch's XNNPACK asks for; it fails where the file is run."""
    network = kinds.description
    program = torch.export.export(TorchProgram(network).eval(), (torch.zeros(1, *network.input.shape),))
    (cat,) = (node for node in program.graph.nodes if "cat" in str(node.target))
    (quantize,) = cat.users
    parts = [part.args[1:3] for part in cat.args[0]]
    assert len(parts) == 2 and all(part == quantize.args[1:3] for part in parts)


def test_microcontroller_kernels_run_the_litert_file(kinds: Int8File, tmp_path: Path) -> None:
    needed(TARGETS["litert"])
    file = TARGETS["litert"].write(kinds, tmp_path)
    got = runtime_logits(file, SOURCE, threads=1, runtime=RUNTIMES["tflite-micro"])
    scale = float(kinds.description.output.scale)
    assert float((got - oracle(kinds, SOURCE).logits).abs().max()) <= 4.01 * scale


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, stride=2, padding=1),
        nn.Conv2d(6, 12, 2, stride=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 1, 1),
        nn.AvgPool2d((8, 4)),
    ],
    ids=str,
)
def test_borders_in_litert(layer: nn.Module, tmp_path: Path) -> None:
    """Its paddings are other ones than ONNX's."""
    needed(TARGETS["litert"])
    model = nn.Sequential(nn.Conv2d(3, 6, 1), layer, nn.Flatten(), nn.LazyLinear(5))
    model(IMAGES)
    source = Int8File(int8_file(model, tmp_path))
    got = logits(source, TARGETS["litert"], tmp_path, "observed")[1:]
    integers = source.simulate(next(SOURCE.ordered(batch_size=24)).inputs.numpy()).integers
    for each, values in list(zip(activations(source.description), got, strict=True))[:-1]:
        if each.name in integers:  # halves may be rounded otherwise
            assert np.abs(np.rint(values / each.scale) + each.zero - integers[each.name]).max() <= 1, (
                each.name
            )


class Shortcut(nn.Module):
    """Every other pixel, and zeros in the place of further channels, as in the first ResNets for CIFAR."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.out = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 9, 3, 2, 1), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2), "constant", 0) + self.down(x)
        return self.out(x.mean((2, 3)))


@pytest.mark.parametrize("name", ["executorch", "litert"])
def test_a_shortcut_without_weights(name: str, tmp_path: Path) -> None:
    needed(TARGETS[name])
    torch.manual_seed(0)
    source = Int8File(int8_file(Shortcut(), tmp_path))
    (got,), expected = logits(source, TARGETS[name], tmp_path), oracle(source, SOURCE).logits.numpy()
    np.testing.assert_allclose(got, expected, rtol=0, atol=2.01 * float(source.description.output.scale))


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(5, 2, ceil_mode=True)], ids=str
)
def test_what_litert_cannot_pad_is_refused_by_name(pool: nn.Module, tmp_path: Path) -> None:
    needed(TARGETS["litert"])
    model = nn.Sequential(nn.Conv2d(3, 6, 1), pool, nn.Flatten(), nn.LazyLinear(5))
    model(IMAGES)
    source = Int8File(int8_file(model, tmp_path))
    with pytest.raises(QuantizationError, match=r"avg_pool.*: an average pool with this padding"):
        TARGETS["litert"].write(source, tmp_path)


def test_the_first_layer_that_differs_is_named(kinds: Int8File, tmp_path: Path) -> None:
    """A file of which one weight was changed."""
    model = onnx.load(kinds.path)
    graph = Qdq(model)
    changed = graph.weighted()[2]
    weight = graph.dequantized(changed.input[1])
    assert weight is not None
    integers = graph.constant(weight.integers).copy()
    integers[0, 0] = -integers[0, 0] - 40
    graph.write(weight.integers, integers)
    onnx.save(model, tmp_path / "other.onnx")
    other = Int8File(tmp_path / "other.onnx")
    exact = oracle(kinds, SOURCE)
    agreement, positions = compare(exact.logits, oracle(other, SOURCE).logits)
    assert agreement.equal == 24 - len(positions) < 24 and agreement.largest > 0
    inputs = next(SOURCE.take(positions).ordered(batch_size=24)).inputs
    text = first_deviation(kinds, RUNTIMES["onnxruntime"], inputs, other)
    assert text.startswith("first in Convolution grouped: ") and "values, by up to " in text


def test_a_layer_of_another_width_is_named(kinds: Int8File, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    wider = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    files = []
    for each in (model, wider):
        each(IMAGES)
        (tmp_path / str(len(files))).mkdir()
        files.append(Int8File(int8_file(each, tmp_path / str(len(files)))))
    text = first_deviation(files[0], RUNTIMES["onnxruntime"], IMAGES, files[1])
    assert text.endswith("which gives 8×8×8 values and not 6×8×8 values"), text


def test_a_file_of_another_network_is_not_taken_for_one_that_rounds_otherwise(
    kinds: Int8File, tmp_path: Path
) -> None:
    needed(TARGETS["litert"])
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    model(IMAGES)
    other = TARGETS["litert"].write(Int8File(int8_file(model, tmp_path)), tmp_path)
    exact = oracle(kinds, SOURCE)
    said, _ = differing(kinds, exact, SOURCE, other, RUNTIMES["litert"], given=True)
    assert said.first == f"{other} is not what is written of {kinds.path} now"


def test_what_is_missing_or_unknown_is_one_line() -> None:
    class Missing(type(RUNTIMES["openvino"])):  # type: ignore[misc]
        module = "no_such_package"

    with pytest.raises(GraphError, match=r"^openvino is not installed: pip install .* -e '\.\[openvino\]'$"):
        require_installed(Missing())
    with pytest.raises(
        ValueError, match=r"^target 'tflite': must be one of onnx, openvino, executorch, litert"
    ):
        chosen(["tflite"])


def test_what_is_no_int8_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no")
    with pytest.raises(GraphError, match=r"text\.onnx: cannot be read as ONNX"):
        _ = Int8File(tmp_path / "text.onnx").model
