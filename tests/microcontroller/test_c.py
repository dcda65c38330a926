"""Exported C on this machine: every operation against onnxruntime, whole networks, additions on all pairs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.normalization import normalize
from akgp.deployment.package import read_preprocessing
from akgp.microcontroller.source import KERNELS
from akgp.quantization import QuantizationError, requantization
from akgp.quantization.operations import Add
from akgp.runtimes.onnxruntime import session
from tests.quantization.test_description import Kinds, int8_file
from tests.quantization.test_fixed_point import activation, every_pair
from tests.support.c_programs import (
    SANITIZED,
    STRICT,
    Exported,
    digits,
    exported,
    needs_compiler,
    random_pixels,
    with_preprocessing,
)

pytestmark = needs_compiler


class Others(nn.Module):
    """What `Kinds` has not: odd sizes, a summand used twice, large kernels, other pools and tables, zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 5, 5, stride=2, padding=2)
        self.twice = nn.Conv2d(5, 10, 3, groups=5, padding=1, bias=False)
        self.point = nn.Conv2d(10, 10, 1)
        self.down = nn.Conv2d(10, 7, 1, stride=2)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(F.leaky_relu(self.stem(x), 0.2))
        x = F.relu6(x + self.point(x))
        x = x + torch.tanh(x)
        pooled = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False, ceil_mode=True)
        shortcut = F.pad(x[:, :6, ::2, ::2], (0, 0, 0, 0, 1, 3))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True) * pooled + shortcut
        return self.out(torch.sigmoid(self.down(x)).mean((2, 3)))


def classifier(
    model: nn.Module, channels: int, size: tuple[int, int], classes: int, folder: Path
) -> Exported:
    images = torch.randn(16, channels, *size, generator=torch.Generator().manual_seed(1))
    return exported(with_preprocessing(int8_file(model, folder, images), channels, size, classes), folder)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    return classifier(Kinds(), 3, (8, 8), 5, tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    torch.manual_seed(0)
    return classifier(Others(), 1, (13, 9), 3, tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return digits(tmp_path_factory.mktemp("digits"))


def onnxruntimes(exported: Exported, pixels_NHWC: np.ndarray) -> np.ndarray:
    """The logits of onnxruntime, of images that are normalised as everywhere."""
    about = read_preprocessing(exported.file)
    images = normalize(torch.from_numpy(pixels_NHWC).permute(0, 3, 1, 2), about.mean, about.std)
    running = session(exported.file, threads=1)
    return np.asarray(running.run(None, {"input": images.contiguous().numpy()})[0])


def as_floats(exported: Exported, integers: np.ndarray) -> np.ndarray:
    output = exported.network.output
    return (integers.astype(np.int32) - output.zero).astype(np.float32) * output.scale


class Summed(nn.Module):
    """A sum whose second summand is a convolution's result behind a reshape, and its other one scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.point = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        return self.point(x[:, :, None, None]).flatten(1) + 3 * x


@needs_compiler
def test_summands_keep_their_scales_behind_reshapes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = classifier(Summed(), 1, (6, 6), 4, tmp_path)
    pixels = random_pixels(network.network, 50)
    assert (as_floats(network, network.computed(pixels, ["-O2"])) == onnxruntimes(network, pixels)).all()


@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Tanh(), nn.Linear(36, 4)),
        lambda: (nn.Conv2d(1, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(144, 4)),
        lambda: (nn.Conv2d(1, 4, 3, padding=1), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(4, 4)),
    ],
    ids=["a table behind a flattened map", "a ReLU behind one", "an average of 64 pixels"],
)
def test_what_plain_networks_have(tmp_path: Path, layers: Callable[[], tuple[nn.Module, ...]]) -> None:
    torch.manual_seed(0)
    network = classifier(nn.Sequential(*layers()), 1, (8, 8), 4, tmp_path)
    pixels = random_pixels(network.network, 50)
    assert (as_floats(network, network.computed(pixels, ["-O2"])) == onnxruntimes(network, pixels)).all()


def test_logits_that_are_a_flattened_feature_map_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    with pytest.raises(QuantizationError, match="logits that are a flattened feature map, here of 4 pixels"):
        classifier(model, 1, (6, 6), 8, tmp_path)


@pytest.mark.parametrize("name", ["kinds", "others"])
def test_every_operation_is_onnxruntimes(name: str, request: pytest.FixtureRequest) -> None:
    """Bit for bit, without undefined behaviour, whatever the optimization."""
    network: Exported = request.getfixturevalue(name)
    pixels = random_pixels(network.network, 50)
    wanted = onnxruntimes(network, pixels)
    assert len(np.unique(wanted, axis=0)) > 10  # the images differ in what they give
    for level in ("-O0", "-O1", "-O2", "-O3"):
        got = network.computed(pixels, [level, *SANITIZED])
        assert (as_floats(network, got) == wanted).all(), level


def test_the_digits_student_is_onnxruntimes_on_every_scan(student: Exported) -> None:
    pixels = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
    got = student.computed(pixels, ["-O2"])
    assert (as_floats(student, got) == onnxruntimes(student, pixels)).all()
    assert len(pixels) == 1797 and len(np.unique(got, axis=0)) > 1000


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O3"])
def test_the_digits_student_has_no_undefined_behaviour(student: Exported, level: str) -> None:
    pixels = random_pixels(student.network, 50)
    assert (student.computed(pixels, [level, *SANITIZED]) == student.expected(pixels)).all()


def test_residuals_are_added_in_place(student: Exported) -> None:
    """The arena holds a last block's input, its first convolution's output, and columns of 288 bytes."""
    text = (student.folder / "src/network.h").read_text()
    assert f"ARENA_BYTES {2 * 32 * 2 * 2 + 6 * 288}\n" in text
    assert "add_layer(" not in student.source.read_text()


def test_the_hosts_example_passes_its_test_vector(student: Exported) -> None:
    program = student.folder / "host"
    files = [str(student.source), str(student.folder / "examples/host/main.c")]
    subprocess.run(["gcc", *STRICT, "-I", str(student.source.parent), *files, "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("test vector: passed\nits class: ")


def test_fast_math_is_refused(student: Exported) -> None:
    command = ["gcc", "-ffast-math", "-c", str(student.source), "-o", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "compile without -ffast-math" in done.stderr


def test_a_program_has_nothing_but_string_functions(student: Exported) -> None:
    """No malloc, no floating point, no other library function; memory of its own is one arena."""
    built = student.folder / "network.o"
    subprocess.run(["gcc", "-O2", "-fno-pic", "-c", str(student.source), "-o", str(built)], check=True)
    symbols = subprocess.run(["nm", str(built)], capture_output=True, text=True, check=True).stdout
    undefined = {line.split()[-1] for line in symbols.splitlines() if " U " in line}
    assert undefined <= {"memcpy", "memset", "memcmp", "_GLOBAL_OFFSET_TABLE_"}
    writable = [line for line in symbols.splitlines() if line.split()[-2] in "bBdD"]
    assert [line.split()[-1] for line in writable] == ["static_arena"]
    assert "float" not in student.source.read_text() and "double" not in student.source.read_text()


PAIRS = """
#include <stdint.h>
#include <stdio.h>
{kernels}
int main(void)
{{
    const add_t add = {{INT64_C({constant}), {a}, {b}}};
    for (int i = 0; i < 65536; i++)
        putchar(added(&add, (uint8_t)(i >> 8), (uint8_t)i));
    return 0;
}}
"""


def test_an_addition_on_all_pairs(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    proven = 0
    while proven < 3:
        a, b, out = (activation(each, generator.integers(256)) for each in generator.uniform(0.01, 0.03, 3))
        add = Add("", out, (a, b))
        form = requantization.add(add)
        if not form.proven:
            continue
        proven += 1
        kernels = "\n".join((KERNELS / file).read_text() for file in ("common.c", "add.c"))
        (tmp_path / "pairs.c").write_text(
            PAIRS.format(
                kernels=kernels, constant=form.constant, a=form.multipliers[0], b=form.multipliers[1]
            )
        )
        command = ["gcc", "-std=c99", "-O2", *SANITIZED, "pairs.c", "-o", "pairs"]
        subprocess.run(command, check=True, cwd=tmp_path)
        done = subprocess.run(["./pairs"], capture_output=True, check=True, cwd=tmp_path)
        got = np.frombuffer(done.stdout, np.uint8).reshape(256, 256)
        assert (got == every_pair(add, "Add")).all()


def test_a_layers_output_can_be_looked_at(kinds: Exported) -> None:
    """The hook that finds the first layer that differs on a board."""
    assert kinds.source.read_text().count("    AFTER_LAYER(") == onnx_layers(kinds)


def onnx_layers(exported: Exported) -> int:
    """Results of operations that compute something and are no addition to a convolution's result."""
    nodes = onnx.load(str(exported.file)).graph.node
    others = ("QuantizeLinear", "DequantizeLinear", "Reshape", "Add")
    return sum(len(node.output) for node in nodes if node.op_type not in others)
