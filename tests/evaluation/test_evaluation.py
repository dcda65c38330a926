"""Size, logits, accuracy and latency against formulas, published figures and loops."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import IndexedSource
from akgp.data.normalization import normalize
from akgp.evaluation import (
    Latency,
    Ratio,
    accuracy,
    balanced_accuracy,
    count,
    latency,
    predict_logits,
    runtime_logits,
    speedup,
)
from akgp.evaluation.latency import Block
from akgp.models import cifar_resnet
from akgp.params import Evaluate
from akgp.quantization import export_onnx
from akgp.runtimes import GraphError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def images(count: int = 23) -> IndexedSource:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return IndexedSource(pixels, torch.arange(count) % 4, MEAN, STD)


def network() -> nn.Module:
    """Its BatchNorm would show if it were left in training mode."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4)
    )
    model[1].running_mean.uniform_(-1, 1)
    return model


# Size


def convolution_macs(inputs: int, outputs: int, kernel: int, side: int) -> int:
    return inputs * outputs * kernel**2 * side**2


@pytest.mark.parametrize("widths", [(16, 32, 64), (8, 16, 32), (5, 9, 11)])
def test_counts_of_resnet20_by_hand(widths: tuple[int, int, int]) -> None:
    macs, parameters, inputs = 0, 0, 3
    for width, side, convolutions in zip(widths, (32, 16, 8), (7, 6, 6), strict=True):
        for _ in range(convolutions):
            macs += convolution_macs(inputs, width, 3, side)
            parameters += 9 * inputs * width + 2 * width
            inputs = width
    found = count(cifar_resnet(20, widths), torch.zeros(2, 3, 32, 32))
    assert found.macs == macs + 10 * inputs
    assert found.params == parameters + 10 * inputs + 10
    if widths == (16, 32, 64):
        assert found.macs == 40_551_040


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_b_16", "swin_t"])
def test_counts_are_torchvisions(name: str) -> None:
    """MobileNet has grouped convolutions, ViT fused attention, Swin its own; GMACs of three decimals."""
    from torchvision import models

    published = models.get_model_weights(name).DEFAULT.meta
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
        found = count(model, torch.zeros(1, 3, 224, 224))
    assert round(found.macs / 1e9, 3) == published["_ops"]
    assert found.params == published["num_params"]


TOKENS, WIDTH = 5, 8
PRODUCTS = 2 * TOKENS * TOKENS * WIDTH  # queries by keys, weights by values
ATTENTION = TOKENS * 4 * WIDTH * WIDTH + PRODUCTS


class Calls(nn.Module):
    """Calls a function with the input and parameters of these shapes."""

    def __init__(self, function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.weights)


def attention(**options: Any) -> Calls:
    layer = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    calls = Calls(lambda x: layer(x, x, x, **options)[0])
    calls.layer = layer
    return calls


def scaled(x: Tensor, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None], **options)


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8), ATTENTION + 5 * 2 * 8 * 16),
        (attention(), (5, 8), ATTENTION),
        (attention(need_weights=False), (5, 8), ATTENTION),
        (attention(attn_mask=torch.zeros(5, 5), need_weights=False), (5, 8), ATTENTION),
        (Calls(scaled), (5, 8), PRODUCTS),
        (Calls(lambda x: F.scaled_dot_product_attention(x, x, x)), (5, 8), PRODUCTS),
        (Calls(lambda x: (x @ x.mT).softmax(-1) @ x), (5, 8), PRODUCTS),
        (Calls(lambda x: torch.einsum("nik,njk->nij", x, x)), (5, 8), PRODUCTS // 2),
        (Calls(F.linear, (7, 8)), (5, 8), 5 * 7 * 8),
        (Calls(F.linear, (7, 8), (7,)), (8,), 7 * 8),
        (Calls(lambda x, w: x @ w, (8, 7)), (5, 8), 5 * 7 * 8),
        (Calls(lambda x, w: x @ w, (8,)), (5, 8), 5 * 8),
        (Calls(lambda x, b, w: torch.addmm(b, x, w), (7,), (8, 7)), (8,), 7 * 8),
        (Calls(lambda x, w: F.conv2d(x, w, stride=2, padding=1), (6, 4, 3, 3)), (4, 8, 8), 6 * 4 * 9 * 16),
        (Calls(lambda x, w: F.conv2d(x, w, groups=2), (6, 2, 3, 3)), (4, 8, 8), 6 * 2 * 9 * 36),
        (nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), (5, 8), 5 * 2 * 24 * (8 + 6 + 12 + 6)),
        (nn.GRU(8, 6, batch_first=True), (5, 8), 5 * 18 * (8 + 6)),
        (Calls(lambda x, w: F.bilinear(x, x, w), (7, 8, 8)), (8,), 7 * 8 * 8),
        (nn.Conv1d(4, 6, 3), (4, 10), 6 * 4 * 3 * 8),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 10), 4 * 6 * 3 * 10),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 5, 5), 4 * 3 * 9 * 25),
        (nn.Conv3d(4, 6, 3), (4, 5, 5, 5), 6 * 4 * 27 * 27),
    ],
)
def test_macs_by_hand(model: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    """Whatever module or function computes it, for one input, and in every mode of autograd."""
    assert count(model, torch.zeros(3, *shape)).macs == macs
    with torch.inference_mode():
        assert count(model, torch.zeros(1, *shape)).macs == macs


def test_counting_changes_nothing() -> None:
    model = network().train()
    model[1].eval()
    shared = nn.Sequential(model, nn.Linear(4, 4), nn.ReLU())
    shared.append(shared[1])
    before = {name: tensor.clone() for name, tensor in shared.state_dict().items()}
    modes = [module.training for module in shared.modules()]
    found = count(shared, torch.randn(4, 3, 8, 8))
    assert found.params == 3 * 5 * 9 + 10 + 181 * 4 + 20, "a shared parameter counts once"
    assert found.macs == convolution_macs(3, 5, 3, 6) + 180 * 4 + 2 * 16, "but is used twice"
    assert [module.training for module in shared.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in shared.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


# Logits and accuracy


def one_by_one(model: nn.Module, split: IndexedSource) -> Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(normalize(pixels[None], MEAN, STD)) for pixels in split.pixels])


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_in_order_and_the_mode_is_kept(training: bool) -> None:
    model = network().train(training)
    logits = predict_logits(model, images(), device="cpu", batch_size=5)
    assert model.training == training and not logits.requires_grad and logits.dtype == torch.float32
    torch.testing.assert_close(logits, one_by_one(model, images()), rtol=1e-4, atol=1e-5)


def test_each_module_keeps_its_mode() -> None:
    """A BatchNorm that was frozen stays so, also where the network fails."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)).train()
    model[0].eval()
    for broken in (False, True):
        if broken:
            model[3] = nn.Linear(5, 3)
        with pytest.raises(RuntimeError) if broken else contextlib.nullcontext():
            predict_logits(model, images(), device="cpu")
        assert model.training and model[3].training and not model[0].training


def test_workers_parts_add_up() -> None:
    model, whole = network(), images()
    parts = [
        predict_logits(
            model, whole, device="cpu", batch_size=4, rank=rank, world=3
        )
        for rank in range(3)
    ]  # fmt: skip
    assert all(int((part != 0).any(1).sum()) in (7, 8) for part in parts)
    torch.testing.assert_close(sum(parts), one_by_one(model, whole), rtol=1e-4, atol=1e-5)


def test_a_worker_without_images_says_so() -> None:
    with pytest.raises(ValueError, match="worker 2 of 3 has none of the 2 images; use fewer workers"):
        predict_logits(network(), images(2), device="cpu", rank=2, world=3)


def test_onnxruntimes_logits_are_torchs(tmp_path: Path) -> None:
    model, split = network(), images()
    export_onnx(model, torch.zeros(1, 3, 8, 8), tmp_path / "model.onnx")
    for threads in (1, 2):
        logits = runtime_logits(tmp_path / "model.onnx", split, threads=threads, batch_size=6)
        torch.testing.assert_close(logits, one_by_one(model, split), rtol=1e-4, atol=1e-4)


def test_accuracy_is_counted() -> None:
    logits, labels = torch.randn(50, 4), torch.arange(50) % 4
    logits[:3] = 0  # ties go to class 0
    right = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        right += row.index(max(row)) == label
    assert accuracy(logits, labels) == pytest.approx(2 * right)


def test_balanced_accuracy_is_the_mean_over_the_classes_that_occur() -> None:
    logits, labels = torch.eye(4)[[0, 0, 0, 1, 1, 3]], torch.tensor([0, 0, 0, 0, 1, 1])
    assert accuracy(logits, labels) == pytest.approx(400 / 6)
    assert balanced_accuracy(logits, labels) == pytest.approx((75 + 50) / 2)


@pytest.mark.parametrize(
    ("logits", "labels"), [((4,), (4,)), ((4, 2), (3,)), ((0, 2), (0,)), ((4, 2), (4, 2))]
)
def test_accuracy_refuses_other_shapes(logits: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits must be \[N, C\] and labels \[N\] with N > 0, got"):
        accuracy(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"logits must be \[N, C\] and labels \[N\] with N > 0, got"):
        balanced_accuracy(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))


# Latency


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One matrix product, the same under another name, and 50 of them."""
    from onnx import TensorProto, helper, numpy_helper, save

    folder, shape = tmp_path_factory.mktemp("graphs"), ["N", 1, 64, 64]
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "weight")
    files = {}
    for name, products in (("short", 1), ("same", 1), ("long", 50)):
        names = ["input", *(f"product{i}" for i in range(1, products)), "output"]
        nodes = [
            helper.make_node("MatMul", [before, "weight"], [after])
            for before, after in itertools.pairwise(names)
        ]
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, shape) for end in ("input", "output")]
        graph = helper.make_graph(nodes, name, ends[:1], ends[1:], [weight])
        files[name] = folder / f"{name}.onnx"
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), files[name])
    return files


@pytest.mark.parametrize("threads", [1, 2])
def test_more_work_takes_longer(graphs: dict[str, Path], threads: int) -> None:
    params = Evaluate(rounds=7, warmup_seconds=0, threads=threads)
    times = latency(graphs, (1, 1, 64, 64), params, seed=0)
    assert list(times) == list(graphs)
    for timed in times.values():
        assert len(timed.rounds_ms) == 7 and min(timed.rounds_ms) > 0
        assert timed.median_ms == sorted(timed.rounds_ms)[3]
        assert (
            min(timed.rounds_ms) <= timed.low_ms <= timed.median_ms <= timed.high_ms <= max(timed.rounds_ms)
        )
    faster = speedup(times["long"], times["short"])
    assert faster.median > 5 and faster.verdict == "faster"
    assert speedup(times["short"], times["long"]).verdict == "slower"
    assert 0.3 < speedup(times["short"], times["same"]).median < 3


def test_a_block_takes_ten_milliseconds() -> None:
    """By a clock that every inference moves on by 1 ms."""
    runs = []

    class Counted:
        """A network that counts its inferences."""

        largest_batch, image_shape = None, (1, 64, 64)

        def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
            runs.append(inputs)
            return inputs

        def close(self) -> None:
            pass

    block = Block(Counted(), np.zeros((1, 1, 64, 64), np.float32), lambda: len(runs) / 1000)
    block.warm_up(0)
    assert block.seconds() == pytest.approx(1e-3)
    assert 10 <= block.repeats <= 15


def test_the_interval_is_the_exact_bootstraps() -> None:
    """Of n = 2m + 1 values the resampled median is at most the k-th smallest if m + 1 draws or more are:
    a binomial probability (Efron 1979)."""
    n, generator = 21, np.random.default_rng(1)
    rounds = tuple(np.sort(generator.exponential(size=n)))
    below = [
        sum(
            math.comb(n, j) * (k / n) ** j * (1 - k / n) ** (n - j) for j in range(n // 2 + 1, n + 1)
        )
        for k in range(n + 1)
    ]  # fmt: skip
    low, high = (next(k for k in range(n + 1) if below[k] >= share) for share in (0.025, 0.975))
    timed = Latency(rounds[n // 2], 0, 0, rounds)
    found = speedup(timed, Latency(1, 1, 1, (1.0,) * n))
    assert found.median == rounds[n // 2]
    assert found == speedup(timed, Latency(1, 1, 1, (1.0,) * n)), "deterministic"
    # 2000 resamples hit the exact order statistic or its neighbour.
    assert rounds[low - 2] <= found.low <= rounds[low]
    assert rounds[high - 2] <= found.high <= rounds[min(high, n - 1)]


def test_ratios_are_of_the_same_rounds() -> None:
    slow, fast = Latency(3, 2, 4, (2.0, 3.0, 4.0)), Latency(1, 1, 2, (1.0, 1.0, 2.0))
    assert speedup(slow, fast).median == 2.0
    with pytest.raises(ValueError, match="both must be timed in the same rounds, got 3 and 2"):
        speedup(slow, Latency(1, 1, 1, (1.0, 1.0)))


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(1.1, 1.3, "faster"), (0.8, 0.9, "slower"), (0.9, 1.1, "no verdict"), (1.0, 1.2, "no verdict")],
)
def test_no_verdict_where_the_interval_contains_1(low: float, high: float, verdict: str) -> None:
    assert Ratio((low + high) / 2, low, high).verdict == verdict


@pytest.mark.parametrize("content", [None, b"not a graph"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "model.onnx"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(GraphError, match=r"model\.onnx: onnxruntime cannot load it: .*"):
        runtime_logits(file, images(), threads=1)


def test_counts_where_a_parameter_enters_a_module() -> None:
    """A view of one, such as learned tokens: torch's counter refuses it while it needs a gradient."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = nn.Parameter(torch.zeros(4, 8)), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.tokens.expand(len(x), -1, -1)).mean(1)

    model = Tokens()
    assert count(model, torch.zeros(3, 1)).macs == 4 * 8 * 2
    assert all(each.requires_grad for each in model.parameters())
