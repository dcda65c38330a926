"""Networks of users' own as ONNX graphs: of any batch size and equal to PyTorch, or refused with the line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from akgp.params import Quantize
from akgp.quantization import QuantizationError, export_onnx, quantize, require_finite
from akgp.quantization.checking import require_same
from akgp.runtimes import GraphError
from akgp.runtimes.onnxruntime import guarded, session

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Pooled(nn.Module):
    """A convolution, pooled, and what a subclass makes of it: logits [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(1, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.convolution(x).relu().mean((2, 3)))

    def logits(self, features: Tensor) -> Tensor:
        return self.head(features)


class Numbered(Pooled):
    def logits(self, features: Tensor) -> Tensor:
        return self.head(features.reshape(int(features.shape[0]) * 2, 4).reshape(len(features), 8))


class Pair(Pooled):
    def logits(self, features: Tensor) -> Tensor:
        return self.head(features), features  # type: ignore[return-value]


class Looping(Pooled):
    def logits(self, features: Tensor) -> Tensor:
        return torch.stack([self.head(each) for each in features])  # the loop


class Product(Pooled):
    def logits(self, features: Tensor) -> Tensor:
        return features @ self.weight + self.bias


class Noisy(Pooled):
    def logits(self, features: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(features, 0.5, True))


class Counting(Pooled):
    calls = 0

    def logits(self, features: Tensor) -> Tensor:
        self.calls += 1
        return self.head(features) * self.calls


class Infinite(Pooled):
    def logits(self, features: Tensor) -> Tensor:
        return self.head(features / 0)


class Asking(Pooled):
    def logits(self, features: Tensor) -> Tensor:
        return self.head(-features if features.sum() < 0 else features)  # the question


def line(mark: str) -> int:
    return next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if f"# {mark}" in text)


@pytest.mark.parametrize("kind", [Numbered, Product])
def test_any_batch_size_is_taken_and_quantized(kind: type[Pooled], tmp_path: Path) -> None:
    """A batch size that Python has made a number, and a bias [1, classes], which the quantizer fails on."""
    model, floating, integer = kind().eval(), tmp_path / "float.onnx", tmp_path / "int8.onnx"
    export_onnx(model, EXAMPLE, floating)
    for count in (1, 3, 7):
        images = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
        (got,) = session(floating, threads=1).run(None, {"input": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), model(images).detach(), rtol=1e-4, atol=1e-5)
    quantize(floating, torch.randn(8, 3, 8, 8), Quantize(), integer)
    with pytest.raises(QuantizationError, match=r"int8\.onnx: is quantized already"):
        quantize(integer, torch.randn(8, 3, 8, 8), Quantize(), tmp_path / "again.onnx")
    (got,) = session(integer, threads=1).run(None, {"input": images.numpy()})
    assert (torch.from_numpy(got) - model(images)).abs().max() < 0.1 * model(images).abs().max()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Looping, "a constant, as a loop over the images does; .*test_export.py:{the loop}, in "),
        (Asking, "data-dependent .*test_export.py:{the question}, in logits$"),
        (Pair, r"Pair: its forward gives tuple, must be a tensor \[N, classes\]"),
        (
            Noisy,
            "Noisy: for the same images it gives logits that differ by .* from call to call: its forward",
        ),
        (Counting, "Counting: for the same images .* neither random nor of a state that it keeps"),
        (Infinite, "Infinite: layer head gives values that are not finite"),
    ],
)
def test_what_cannot_be_exported_is_refused_with_its_place(
    kind: type[Pooled], message: str, tmp_path: Path
) -> None:
    pattern = re.sub(r"\{(.*)\}", lambda mark: str(line(mark[1])), message)
    with pytest.raises(QuantizationError, match=pattern) as raised:
        export_onnx(kind().eval(), EXAMPLE, tmp_path / "model.onnx")
    assert "\n" not in str(raised.value)


def test_attention_with_a_mask_for_each_image(tmp_path: Path) -> None:
    """Its fused kernel gives other strides with one, which broke the views behind it."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 24, 2, 2), nn.Linear(24, 5)
            self.mask = nn.Parameter(torch.randn(1, 3, 16, 16))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).flatten(2).transpose(1, 2).reshape(len(x), 16, 3, 8).transpose(1, 2)
            mask = self.mask.expand(len(x), -1, -1, -1)
            x = nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=mask)
            return self.head(x.transpose(1, 2).reshape(len(x), 16, 24).mean(1))

    torch.manual_seed(0)
    export_onnx(Masked().eval(), EXAMPLE, tmp_path / "model.onnx")  # which compares the two


def test_lazy_layers_get_their_sizes(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    export_onnx(model.eval(), EXAMPLE, tmp_path / "model.onnx")


def test_a_graph_of_another_network_is_found_out(tmp_path: Path) -> None:
    model = Pooled().eval()
    export_onnx(model, EXAMPLE, tmp_path / "model.onnx")
    require_same(model, tmp_path / "model.onnx", EXAMPLE)
    with torch.no_grad():
        model.head.bias += 0.01
    with pytest.raises(QuantizationError, match=r"for 1 image\(s\) .* differ by 0.01 from the network's"):
        require_same(model, tmp_path / "model.onnx", EXAMPLE)


def test_a_network_that_amplifies_rounding_is_exported_and_still_compared(tmp_path: Path) -> None:
    class Amplifier(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.sin(1e6 * x.cumsum(3) / 3))

    model = Amplifier().eval()
    export_onnx(model, EXAMPLE, tmp_path / "model.onnx")
    with torch.no_grad():
        model.head.bias += 1
    with pytest.raises(QuantizationError, match="differ by"):
        require_same(model, tmp_path / "model.onnx", EXAMPLE)


def test_the_first_layer_that_is_not_finite_is_named() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    require_finite(model, torch.randn(2, 3, 4, 4))
    with torch.no_grad():
        model[0].bias[1] = torch.inf
    with pytest.raises(QuantizationError, match=r"^Sequential: layer 0 gives values that are not finite"):
        require_finite(model, torch.randn(2, 3, 4, 4))


def test_onnxruntimes_own_errors_are_one_line(tmp_path: Path) -> None:
    export_onnx(Pooled().eval(), EXAMPLE, tmp_path / "model.onnx")
    running = session(tmp_path / "model.onnx", threads=1)
    said = r"^it cannot run: .*INVALID_ARGUMENT.* Got: 9 Expected: 8"
    with pytest.raises(GraphError, match=said) as raised, guarded("it cannot run"):
        running.run(None, {"input": torch.zeros(1, 3, 9, 8).numpy()})
    assert "\n" not in str(raised.value)
