"""Mixed precision: layers stay in float by name or by sensitivity, and files say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.deployment.download import pack
from akgp.params import Quantize
from akgp.params.yaml_text import parse
from akgp.quantization import Measures, Plan, QuantizationError, export_onnx, plan, quantize, verify
from akgp.quantization.description import describe
from akgp.quantization.qdq import Qdq
from akgp.quantization.weight_sharing import int8_weights
from tests.support.onnx_files import logits_of

RANDOM = torch.Generator().manual_seed(0)
COLORS = 2 * torch.randn(48, 3, 1, 1, generator=RANDOM)  # so that the classes differ
IMAGES = torch.randn(48, 3, 8, 8, generator=RANDOM) + COLORS


class Network(nn.Module):
    """The weights of `second` have outliers in their rows, so that 8 bits leave nothing of the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 6)
        with torch.no_grad():
            for layer in (self.first, self.second, self.third, self.head):
                layer.bias.zero_()  # the classes are those of the colours
            self.first.weight[0] = 0  # so that what reads this channel does not matter, however large
            self.second.weight[:, 0] = 200.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(x).relu()).relu()).relu()
        return self.head(20 * x.mean((2, 3)))


@pytest.fixture(scope="module")
def floating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graphs") / "float.onnx"
    export_onnx(Network().eval(), IMAGES[:1], file)
    return file


def floats(made: Plan) -> list[str]:
    return [each.layer for each in made.layers if each.precision == "float"]


def test_the_layer_that_8_bits_spoil_stays_in_float(floating: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.onnx"
    quantize(floating, IMAGES, Quantize(), int8)
    wanted = logits_of(floating, IMAGES).argmax(1)
    assert (logits_of(int8, IMAGES).argmax(1) == wanted)[1::2].mean() < 0.95
    made = plan(floating, IMAGES, Quantize(agreement=0.95))
    assert floats(made) == ["second"] and made.agreement >= 0.95
    assert [(each.layer, each.weights) for each in made.layers] == [
        ("first", 8 * 27), ("second", 8 * 72), ("third", 8 * 72), ("head", 48),
    ]  # fmt: skip
    gains = {each.layer: each.gain for each in made.layers}
    assert all(gain is not None for gain in gains.values())
    assert max(gains, key=lambda name: gains[name] or 0.0) == "second"
    # The plan, written into params.yaml, gives the network that it was judged by.
    quantize(floating, IMAGES, Quantize(precision=made.precision), int8)
    assert (logits_of(int8, IMAGES).argmax(1) == wanted)[1::2].mean() == made.agreement


def test_float_layers_have_float_weights_and_are_counted(floating: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.onnx"
    kernels = quantize(floating, IMAGES, Quantize(precision={"sec*": "float", "third": "float"}), int8)
    graph = Qdq(onnx.load(str(int8)))
    assert {name for name in ("first", "second", "third") if f"{name}.weight" in graph.tensors} == {
        "second", "third",
    }  # fmt: skip
    # Halved, behind an int8 layer; as it is behind another one in float.
    np.testing.assert_array_equal(2 * graph.constant("second.weight"), Network().second.weight.detach())
    np.testing.assert_array_equal(graph.constant("third.weight"), Network().third.weight.detach())
    assert (kernels.integer, kernels.floating) == (1, 2)
    verified = verify(int8, IMAGES)
    assert verified.floating == {"Conv": 2, "GlobalAveragePool": 1} and verified.images == 48


def test_what_follows_a_layer_in_float_is_not_rounded(tmp_path: Path) -> None:
    """A sigmoid and its product; not the sum with what an int8 layer gives."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.third = (nn.Conv2d(c, 4, 1) for c in (3, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = F.silu(self.first(x))
            return (x + F.silu(self.second(x)) + self.third(x)).mean((2, 3))

    source, int8 = tmp_path / "gated.onnx", tmp_path / "int8.onnx"
    export_onnx(Gated().eval(), IMAGES[:2], source)

    def rounded(**precision: str) -> Counter[str]:
        quantize(source, IMAGES, Quantize.model_validate({"precision": precision}), int8)
        graph = Qdq(onnx.load(str(int8)))
        taken = [node.input[0] for node in graph.nodes if node.op_type == "QuantizeLinear"]
        return Counter(graph.made_by[name].op_type for name in taken if name in graph.made_by)

    assert rounded()["Sigmoid"] == 2
    assert rounded(second="float") == rounded() - Counter(["Conv", "Sigmoid"])
    assert not rounded(first="float", second="float", third="float")
    np.testing.assert_allclose(logits_of(int8, IMAGES), logits_of(source, IMAGES), rtol=0, atol=1e-6)


def test_exports_name_the_float_layer(floating: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.onnx"
    quantize(floating, IMAGES, Quantize(precision={"*": "float", "third": "float", "[!t]*": "int8"}), int8)
    with pytest.raises(QuantizationError, match=r"\(third\): Conv in floating point"):
        describe(onnx.load(str(int8)))


def test_a_pattern_that_matches_nothing_is_refused(floating: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match="'fourth' matches no layer; these are: first, second"):
        quantize(
            floating,
            IMAGES,
            Quantize(precision={"first": "int8", "fourth": "float"}),
            tmp_path / "model.onnx",
        )


def measures(milliseconds: Mapping[str, float]) -> Measures:
    """A clock that gives each layer in float its milliseconds, and 1 to all in int8; bytes are the file's."""

    def clock(files: Sequence[Path]) -> list[float]:
        graphs = (Qdq(onnx.load(str(file))) for file in files)
        return [1 + sum(ms for name, ms in milliseconds.items() if f"{name}.weight" in each.tensors)
                for each in graphs]  # fmt: skip

    return Measures(
        bytes=lambda file: file.stat().st_size,
        packed=lambda file: len(pack(file.read_bytes())),
        milliseconds=clock,
    )


def test_a_budget_of_bytes_takes_the_best_for_their_bytes_and_no_more(floating: Path, tmp_path: Path) -> None:
    int8 = tmp_path / "model.onnx"
    quantize(floating, IMAGES, Quantize(), int8)
    clock, room = measures({}), int8.stat().st_size + 3 * 8 * 72 + 100
    made = plan(floating, IMAGES, Quantize(bytes=room), clock)
    assert "second" in floats(made) and "third" not in floats(made)
    quantize(floating, IMAGES, Quantize(precision=made.precision), int8)
    assert int8.stat().st_size <= room
    with pytest.raises(QuantizationError, match=r"quantize.bytes: 4,000 asked, but the file has \d+,\d+ "):
        plan(floating, IMAGES, Quantize(bytes=4000), clock)


def test_a_budget_of_time_counts_what_is_faster_in_float(floating: Path) -> None:
    clock = measures({"first": -0.3, "second": 0.2, "third": 0.05})
    made = plan(floating, IMAGES, Quantize(latency_ms=0.9, agreement=1.0), clock)
    assert floats(made)[:2] == ["first", "second"]  # 0.7 and 0.9 ms
    assert [each.ms for each in made.layers] == pytest.approx([-0.3, 0.2, 0.05, 0])
    # All in int8 takes 1 ms: what is faster comes first, whatever it gains.
    assert floats(plan(floating, IMAGES, Quantize(latency_ms=0.7), clock)) == ["first"]
    with pytest.raises(QuantizationError, match=r"latency_ms: 0.5 asked, but the fastest .* takes 0.7 ms"):
        plan(floating, IMAGES, Quantize(latency_ms=0.5), clock)
    # What params.yaml says of a layer stays.
    pinned = plan(floating, IMAGES, Quantize(latency_ms=1.3, precision={"first": "int8"}), clock)
    assert "first" not in floats(pinned) and pinned.layers[0].ms is None


def test_four_bits_are_taken_where_they_lose_least_and_shrink_the_download(
    floating: Path, tmp_path: Path
) -> None:
    int8, clock = tmp_path / "model.onnx", measures({})
    quantize(floating, IMAGES, Quantize(precision={"*": "int4"}), int8)
    least = clock.packed(int8)
    assert all(len(np.unique(each)) <= 16 for each in int8_weights(onnx.load(str(int8))).values())
    verify(int8, IMAGES)
    quantize(floating, IMAGES, Quantize(), int8)
    middle = (least + clock.packed(int8)) // 2
    made = plan(floating, IMAGES, Quantize(download={"bytes": middle}), clock)
    assert 0 < made.count("int4") < 4
    quantize(floating, IMAGES, Quantize(precision=made.precision), int8)
    assert clock.packed(int8) <= middle
    share = logits_of(int8, IMAGES).argmax(1) == logits_of(floating, IMAGES).argmax(1)
    assert made.agreement == share[1::2].mean()
    agreeing = plan(floating, IMAGES, Quantize(download={"agreement": 0.01}), clock)
    assert agreeing.count("int4") == sum((each.loss is not None) for each in agreeing.layers) > 0
    with pytest.raises(QuantizationError, match=r"quantize.download.bytes: 1,000 asked, but"):
        plan(floating, IMAGES, Quantize(download={"bytes": 1000}), clock)


def test_the_plan_to_edit_is_a_part_of_params(floating: Path) -> None:
    made = plan(floating, IMAGES, Quantize(precision={"head": "float", "s*": "int4"}))
    assert parse(made.as_yaml().encode()) == {
        "quantize": {"precision": {"first": "int8", "second": "int4", "third": "int8", "head": "float"}}
    }


def test_int8_that_agrees_needs_no_float(floating: Path) -> None:
    made = plan(floating, IMAGES, Quantize(agreement=0.01))
    assert floats(made) == [] and all(each.gain is None for each in made.layers)
