"""The memory plan, what an export refuses, and the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from akgp.cli import app
from akgp.microcontroller.arena import Block, _placed
from akgp.microcontroller.constants import declared, text_literal
from akgp.microcontroller.export import export
from akgp.microcontroller.host import check_test_vector
from akgp.quantization import QuantizationError
from akgp.quantization.qdq import Qdq
from tests.portable.make import HERE
from tests.support.c_programs import NAME, digits, needs_compiler


def test_blocks_that_live_at_once_never_share_a_byte() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        blocks = {}
        for index in range(12):
            first = int(generator.integers(10))
            last = first + int(generator.integers(4))
            blocks[str(index)] = Block(int(generator.integers(1, 100)), first, last)
        offsets = _placed(blocks)
        used = np.zeros((14, 2000), int)
        for name, block in blocks.items():
            used[block.first : block.last + 1, offsets[name] : offsets[name] + block.size] += 1
            assert offsets[name] % 4 == 0
        assert used.max() == 1


def test_a_file_without_exact_forms_is_refused_by_the_name_of_its_layer(tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"node_add_40: 1 of 1 scales have no exact integer form"):
        export(HERE / "model.onnx", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "Digits 1"], "--name Digits 1: must be a C identifier in lower case"),
        (["--name", "stdint"], "--name stdint: stdint.h would hide the header of the C library"),
        (["--name", "int8"], "--name int8: C or CMake has something else of this name"),
        (["--name", "test"], "--name test: C or CMake has something else of this name"),
        (["--cores", "M4F,M5"], "--cores M5: must be among M0, M3, M4F, M7, M33, M55"),
    ],
)
def test_bad_options_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = ["export", str(HERE), "--to", "c", "--output", str(tmp_path / "c"), *arguments]
    result = CliRunner().invoke(app, command)
    assert str(result.exception).startswith(message) and not (tmp_path / "c").exists()


@pytest.mark.parametrize("option", ["--name", "--cores", "--flash", "--ram"])
def test_options_of_c_ask_for_c(option: str, tmp_path: Path) -> None:
    command = ["export", str(HERE), "--to", "onnx", "--output", str(tmp_path), option, "1"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2 and "is for the target c alone, got --to onnx" in result.output
    assert not list(tmp_path.iterdir())


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(HERE), "--to", "wasm", "--output", str(tmp_path)])
    assert result.exit_code == 2 and "wasm: must be one of onnx" in result.output


def test_the_command_writes_a_library_and_says_what_it_needs(tmp_path: Path) -> None:
    model = digits(tmp_path).file
    command = ["export", str(model), "--to", "c", "--output", str(tmp_path / "c"), "--name", "digits"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "75,111 bytes of constants in flash, 1,984 of RAM" in result.output
    files = {str(file.relative_to(tmp_path / "c")) for file in (tmp_path / "c").rglob("*") if file.is_file()}
    assert files == {
        *("src/digits.c", "src/digits.h", "examples/host/main.c", "examples/classify/classify.ino"),
        *("CMakeLists.txt", "library.properties", "REPORT.md"),
    }
    assert not any("@" in (tmp_path / "c" / file).read_text() for file in files)
    report = (tmp_path / "c/REPORT.md").read_text()
    assert "| layer1.0.conv1 | Convolution | 8×8×8 | 36,864 | 752 | 1,456 |" in report
    assert report.splitlines()[-1] == "| all |  |  | 635,712 | 75,111 | 1,984 |"


def test_a_library_of_another_name_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    model = digits(tmp_path).file
    for name in ("one", "other"):
        command = ["export", str(model), "--to", "c", "--output", str(tmp_path / "c"), "--name", name]
        result = CliRunner().invoke(app, command)
    assert f"{tmp_path / 'c'}: holds the library one: name another folder" in str(result.exception)
    assert {file.name for file in (tmp_path / "c/src").iterdir()} == {"one.c", "one.h"}


def test_flash_is_what_the_arrays_hold(tmp_path: Path) -> None:
    """Weights, rows padded to 4 bytes; 13 bytes a channel; structures; the pixels' tables."""
    made = digits(tmp_path)
    graph = Qdq(onnx.load(str(made.file)))
    weights = channels = 0
    for node in graph.weighted():
        weight = graph.dequantized(node.input[1])
        assert weight is not None
        shape = graph.constant(weight.integers).shape
        weights += shape[0] * -(-int(np.prod(shape[1:])) // 4) * 4
        channels += shape[0]
    additions, pools, layers = 9, 1, 22
    structures = 72 * layers + 16 * (pools + additions)
    assert weights + 13 * (channels + pools) + structures + 256 == 75_111


def test_arrays_and_texts_are_c() -> None:
    smallest = np.array([-(2**31), 1])
    assert declared("a", smallest, np.int32) == "static const int32_t a[2] = {\n    (-2147483647 - 1), 1\n};"
    assert text_literal('é "?\\') == '"\\303\\251 \\042\\077\\134"'


@needs_compiler
def test_a_library_whose_test_vector_fails_is_refused(tmp_path: Path) -> None:
    digits(tmp_path)  # whose own passes, or it would not have been written
    source = tmp_path / f"src/{NAME}.c"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("return memcmp(logits,", "return !memcmp(logits,"), encoding="utf-8")
    with pytest.raises(QuantizationError, match=r"network.c: its test vector does not pass .*FAILED"):
        check_test_vector(tmp_path, NAME)
    source.write_text("int x = ;", encoding="utf-8")
    with pytest.raises(QuantizationError, match=r"does not pass on this machine \(.*error"):
        check_test_vector(tmp_path, NAME)
