"""The C file and the header of a network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from akgp import __version__
from akgp.data import Preprocessing
from akgp.microcontroller.constants import Constants, declared, text_literal
from akgp.microcontroller.filling import filled
from akgp.microcontroller.layers import Layer
from akgp.microcontroller.plan import LayerCost, plan
from akgp.quantization.description import Description

KERNELS, TEMPLATES = (Path(__file__).with_name(name) for name in ("kernels", "templates"))
ORDER = (
    *("common", "pixels", "add", "add_layer", "dots", "convolution", "depthwise", "mul"),
    *("window", "max_pool", "average_pool", "global_average_pool", "table", "concat", "select"),
)
"""Files of `kernels`, each after those that it uses."""


@dataclass(frozen=True)
class Example:
    """The test vector: pixels uint8 [H, W, C] and the logits' integers uint8 [classes]."""

    pixels: NDArray[np.uint8]
    logits: NDArray[np.uint8]


@dataclass(frozen=True)
class Program:
    """The text of both files, and what the network needs in bytes."""

    source: str
    header: str
    arena: int
    constants: int
    layers: tuple[LayerCost, ...]


@dataclass(frozen=True)
class About:
    """What the header says of the network, besides its operations.

    Attributes:
        name: a C identifier, the prefix of all names.
        tables: uint8 [C, 256], the quantized input of each pixel value.
        digest: of the int8 file.
    """

    name: str
    preprocessing: Preprocessing
    tables: NDArray[np.uint8]
    example: Example
    digest: str


def program(network: Description, about: About) -> Program:
    """Both files.

    Raises:
        QuantizationError: names an operation that C cannot be written for.
    """
    constants = Constants()
    constants.declarations.append(declared(f"{about.name}_pixel_tables", about.tables, np.uint8, storage=""))
    constants.flash += about.tables.size
    made = plan(network, constants)
    places, lines = made.arena.activations, []
    for index, (layer, each) in enumerate(zip(made.layers, made.calls, strict=True)):
        given = [f"memory + {places[name]}" for name in layer.inputs]
        at = f"memory + {places[layer.output.name]}"
        own = f"memory + {made.arena.scratch.get(index, 0)}"
        lines.append(f"    /* {_comment(layer)} */")
        lines.append(f"    {each.call.format(*given, out=at, scratch=own)}")
        lines.append(f"    AFTER_LAYER({index}, {at}, {made.sizes[layer.output.name]});")
    kernels = {"common", "pixels", *(file for each in made.calls for file in each.kernels)}
    run = _run(network, about, lines, places[network.input.name], places[made.logits])
    source = "\n\n".join(
        [
            _opening(about),
            *(_kernel(file) for file in ORDER if file in kernels),
            *constants.declarations,
            *_texts(about),
            run,
        ]
    )
    header = _header(network, about, made.arena.size, constants.flash, len(made.layers))
    return Program(source + "\n", header, made.arena.size, constants.flash, made.costs)


def _comment(layer: Layer) -> str:
    shape = " x ".join(map(str, (*layer.output.shape[1:], layer.output.shape[0])))
    names = layer.operation.label + (f" and {layer.add.name}" if layer.add else "")
    return f"{re.sub(r'[^ -~]|[*]/', '_', names)}: {shape}"


def _kernel(file: str) -> str:
    return (KERNELS / f"{file}.c").read_text(encoding="utf-8").strip()


def _opening(about: About) -> str:
    upper = about.name.upper()
    return f"""/* Written by akgp {__version__}; see {about.name}.h. C99, integers only, string.h alone. */
#include "{about.name}.h"

#include <string.h>
#if defined(__ARM_FEATURE_MVE)
#include <arm_mve.h>
#endif

/* Define it to look at each layer's output: H, W, C. */
#ifdef {upper}_AFTER_LAYER
#define AFTER_LAYER(index, output, bytes) {upper}_AFTER_LAYER(index, output, bytes)
#else
#define AFTER_LAYER(index, output, bytes) ((void)0)
#endif"""


def _texts(about: About) -> list[str]:
    names = ",\n".join(f"    {text_literal(each)}" for each in about.preprocessing.classes)
    pixels, logits = about.example.pixels.reshape(-1), about.example.logits
    return [
        f"const char *const {about.name}_classes[{len(about.preprocessing.classes)}] = {{\n{names}\n}};",
        declared(f"{about.name}_test_pixels", pixels, np.uint8, storage=""),
        declared(f"{about.name}_test_logits", logits, np.uint8, storage=""),
    ]


def _run(network: Description, about: About, lines: list[str], image: int, logits: int) -> str:
    name, upper = about.name, about.name.upper()
    channels, pixels = network.input.shape[0], network.input.pixels
    return f"""void {name}_run(const uint8_t *pixels, uint8_t *logits, void *arena)
{{
    uint8_t *const memory = (uint8_t *)arena;
    quantize_pixels({name}_pixel_tables, pixels, memory + {image}, {pixels}, {channels});
{chr(10).join(lines)}
    memcpy(logits, memory + {logits}, {upper}_CLASSES);
}}

int {name}_largest(const uint8_t *logits)
{{
    int largest = 0;
    for (int i = 1; i < {upper}_CLASSES; i++)
        largest = logits[i] > logits[largest] ? i : largest;
    return largest;
}}

#ifndef {upper}_NO_STATIC_ARENA
static uint8_t static_arena[{upper}_ARENA_BYTES] ALIGNED;

int {name}_classify(const uint8_t *pixels)
{{
    uint8_t logits[{upper}_CLASSES];
    {name}_run(pixels, logits, static_arena);
    return {name}_largest(logits);
}}

int {name}_self_test(void)
{{
    uint8_t logits[{upper}_CLASSES];
    {name}_run({name}_test_pixels, logits, static_arena);
    return memcmp(logits, {name}_test_logits, {upper}_CLASSES) == 0;
}}
#endif"""


def _header(network: Description, about: About, memory: int, constants: int, count: int) -> str:
    channels, height, width = network.input.shape
    values = {
        "NAME": about.name,
        "UPPER": about.name.upper(),
        "VERSION": __version__,
        "DIGEST": about.digest,
        "COLOR": "gray" if channels == 1 else "red, green, blue",
        "HEIGHT": height,
        "WIDTH": width,
        "CHANNELS": channels,
        "PIXELS": height * width * channels,
        "CLASSES": len(about.preprocessing.classes),
        "LAYERS": count,
        "ARENA": memory,
        "CONSTANTS": constants,
        "LOGIT_SCALE": _decimal(network.output.scale),
        "LOGIT_ZERO": int(network.output.zero),
        "INPUT_SCALE": _decimal(network.input.scale),
        "INPUT_ZERO": int(network.input.zero),
    }
    return filled(TEMPLATES / "header.h", values)


def _decimal(value: NDArray[np.float32]) -> str:
    """A float literal that is read back as the same float32."""
    return f"{float(value):.9g}f" if "." in f"{float(value):.9g}" else f"{float(value):.9g}.0f"
