"""Writes an int8 file as a C library: the files, an Arduino library's folders, and CMake's project.

src/NAME.c, src/NAME.h           all that a program needs
examples/host/main.c             checks the test vector on any computer
examples/classify/classify.ino   the same as an Arduino sketch
CMakeLists.txt                   the library and the host's example
library.properties               for the Arduino IDE
REPORT.md                        flash and RAM by layer
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from akgp import __version__
from akgp.data import Preprocessing
from akgp.data.normalization import normalize
from akgp.deployment.package import digest, model_file, read_preprocessing
from akgp.io.atomic import atomic_file
from akgp.microcontroller.emulator import CORES, Emulation, EmulationError, emulate, require_emulator
from akgp.microcontroller.filling import filled
from akgp.microcontroller.host import check_test_vector
from akgp.microcontroller.report import report
from akgp.microcontroller.source import TEMPLATES, About, Example, Program, program
from akgp.quantization import QuantizationError, unaligned
from akgp.quantization.description import Description, describe
from akgp.quantization.simulator import quantized, simulate

HEADERS = """
assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg
stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype
"""
"""Of the C library: a NAME.h on the compiler's path would hide one of the same name."""
TAKEN = """
all clean help images install main package test
bool char schar uchar shrt ushrt int uint long ulong llong ullong size ptrdiff sig_atomic wchar wint
intptr uintptr intmax uintmax
"""
"""Targets of CMake, files that are included beside it, and types whose NAME_WIDTH is a macro of C23's."""
INTEGER = re.compile(r"u?int(_least|_fast)?(8|16|32|64)")
FILES = {
    "host.c": "examples/host/main.c",
    "sketch.ino": "examples/classify/classify.ino",
    "CMakeLists.txt": "CMakeLists.txt",
    "library.properties": "library.properties",
}


def export(
    model: Path, destination: Path, name: str = "network", cores: Sequence[str] = ()
) -> tuple[Program, dict[str, Emulation]]:
    """Write the library; returns what was written, and what each of `cores` counted.

    Args:
        model: an int8 file or its folder, as the quantize stage writes it.
        destination: a folder; files in it of the same name are replaced.
        name: prefix of all names in C, and of the files.
        cores: of `emulator.CORES`: those whose instructions are counted, for the report.

    Raises:
        QuantizationError: names the operation that C cannot be written for; or the test vector fails on this
            machine.
        DataError: the file has no preprocessing.
        ValueError: `name` is no identifier, a core is not known, or there is a library of another name.
        EmulationError: a core cannot be emulated, or gives other logits.
    """
    check_options(name, cores)
    if others := sorted({each.stem for each in (destination / "src").glob("*.[ch]")} - {name}):
        raise ValueError(f"{destination}: holds the library {others[0]}: name another folder, or remove it")
    file = model_file(model)
    preprocessing = read_preprocessing(file)
    given = onnx.load(str(file))
    graph = unaligned(given)
    network = describe(graph)
    if list(network.output.shape) != [len(preprocessing.classes)]:
        raise QuantizationError(
            f"{file}: its logits have the shape {list(network.output.shape)}, "
            f"but it has {len(preprocessing.classes)} classes"
        )
    tables = pixel_tables(network, preprocessing)
    example = _example(graph, network, tables)
    made = program(network, About(name, preprocessing, tables, example, digest(given)))
    texts = {f"src/{name}.c": made.source, f"src/{name}.h": made.header}
    values = {"NAME": name, "UPPER": name.upper(), "VERSION": __version__}
    texts |= {path: filled(TEMPLATES / template, values) for template, path in FILES.items()}
    with tempfile.TemporaryDirectory() as folder:  # nothing is written that has not been checked
        _write(texts, Path(folder))
        check_test_vector(Path(folder), name)
        counts = {core: _counted(Path(folder) / f"src/{name}.c", example, core) for core in cores}
    _write(texts | {"REPORT.md": report(made, counts)}, destination)
    return made, counts


def check_options(name: str, cores: Sequence[str]) -> None:
    """Raise what `export` does of its `name` and `cores`: ValueError, and EmulationError."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"--name {name}: must be a C identifier in lower case: letters, digits and _")
    if name in HEADERS.split():
        raise ValueError(f"--name {name}: {name}.h would hide the header of the C library")
    if name in TAKEN.split() or INTEGER.fullmatch(name):
        raise ValueError(f"--name {name}: C or CMake has something else of this name")
    unknown = set(cores) - set(CORES)
    if unknown:
        raise ValueError(f"--cores {', '.join(sorted(unknown))}: must be among {', '.join(CORES)}")
    if cores:
        require_emulator()


def _write(texts: Mapping[str, str], folder: Path) -> None:
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / path) as beside:
            beside.write_text(text, encoding="utf-8")


def _counted(source: Path, example: Example, core: str) -> Emulation:
    with tempfile.TemporaryDirectory() as folder:
        emulated = emulate(source.resolve(), example.pixels[None], core, Path(folder))
    if not np.array_equal(emulated.logits[0], example.logits):
        raise EmulationError(f"{core}: under emulation the test vector's logits are not those of the file")
    return emulated


def pixel_tables(network: Description, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """[C, 256]: the quantized input of each pixel value in each channel."""
    import torch

    every = torch.arange(256, dtype=torch.uint8).expand(1, len(preprocessing.mean), 256)[..., None]
    values = normalize(every, preprocessing.mean, preprocessing.std).numpy()
    image = network.input
    table: NDArray[np.uint8] = quantized(values, image.scale, image.zero.astype(np.uint8), Counter())
    return table[0, :, :, 0]


def expected_logits(
    graph: onnx.ModelProto, network: Description, tables: NDArray[np.uint8], pixels_NHWC: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The simulator's integers of the logits: uint8 [N, classes]."""
    image = network.input
    integers = np.stack([tables[c][pixels_NHWC[..., c]] for c in range(len(tables))], 1)
    # Quantizing what dequantizes to an integer gives that integer.
    floats = (integers.astype(np.int32) - image.zero).astype(np.float32) * image.scale
    simulation = simulate(graph, floats)
    return np.asarray(
        next(step.output.q for step in simulation.steps if step.output.name == network.output.name)
    )


def _example(graph: onnx.ModelProto, network: Description, tables: NDArray[np.uint8]) -> Example:
    """Random pixels: they reach more of the values of each layer than a plain image."""
    channels, height, width = network.input.shape
    pixels = np.random.default_rng(0).integers(0, 256, (1, height, width, channels), np.uint8)
    return Example(pixels[0], expected_logits(graph, network, tables, pixels)[0])
