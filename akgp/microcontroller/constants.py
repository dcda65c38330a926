"""C text of arrays and of fixed-point constants, and the bytes that they take in flash."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from akgp.quantization.fixed_point import FixedPoint

C_TYPES: dict[type, str] = {
    np.uint8: "uint8_t", np.int8: "int8_t", np.uint16: "uint16_t", np.int32: "int32_t", np.int64: "int64_t"
}  # fmt: skip
STRUCTURES = {"convolution_t": 72, "depthwise_t": 52, "mul_t": 20, "window_t": 22, "fixed_t": 16, "add_t": 16}
"""Bytes of the kernels' structures on a core with pointers of 32 bits."""
WIDTH = 116


@dataclass
class Constants:
    """Declarations of constants so far, and their bytes."""

    declarations: list[str] = field(default_factory=list)
    flash: int = 0

    def array(self, name: str, values: NDArray[Any], dtype: type, mve: NDArray[Any] | None = None) -> str:
        """Declare an array; its name. mve: its values where the compiler has MVE, if they are others."""
        plain = declared(name, values, dtype)
        self.declarations.append(plain if mve is None else _either(declared(name, mve, dtype), plain))
        self.flash += values.size * np.dtype(dtype).itemsize
        return name

    def fixed(self, name: str, form: FixedPoint, weight_sums: NDArray[np.int64] | None = None) -> str:
        """Declare the constants of a fixed-point form; the initializer of a `fixed_t`.

        Args:
            weight_sums: int64 [C]; MVE's products are of activations less 128: its constants differ.
        """
        self.array(f"{name}_multipliers", form.multipliers, np.int32)
        plain = declared(f"{name}_constants", form.constants, np.int64)
        if weight_sums is not None:
            moved = form.constants + ((128 * weight_sums) << form.before) * form.multipliers
            plain = _either(declared(f"{name}_constants", moved, np.int64), plain)
        self.declarations.append(plain)
        self.flash += form.constants.size * 8
        self.array(f"{name}_after", form.after, np.uint8)
        return f"{{{name}_multipliers, {name}_constants, {name}_after, {form.before}}}"

    def structure(self, kind: str, name: str, **members: Any) -> str:
        """Declare a structure by its members; a reference to it."""
        inside = ", ".join(f".{member} = {value}" for member, value in members.items())
        return self.declare(kind, name, f"{{{inside}}}")

    def declare(self, kind: str, name: str, initializer: str) -> str:
        """Declare a structure; a reference to it."""
        self.flash += STRUCTURES[kind]
        text = f"static const {kind} {name} = {initializer};"
        self.declarations.append("\n".join(textwrap.wrap(text, WIDTH, subsequent_indent="    ")))
        return f"&{name}"


def _either(mve: str, plain: str) -> str:
    return f"#if defined(__ARM_FEATURE_MVE)\n{mve}\n#else\n{plain}\n#endif"


def declared(name: str, values: NDArray[Any], dtype: type, storage: str = "static ") -> str:
    """A constant array of one dimension, or of two if `values` has two."""
    shape = "".join(f"[{size}]" for size in values.shape)
    rows = [", ".join(_literal(int(value), dtype) for value in row) for row in np.atleast_2d(values)]
    body = rows[0] if values.ndim == 1 else ",\n".join(f"{{{row}}}" for row in rows)
    lines = [
        textwrap.fill(row, WIDTH, initial_indent="    ", subsequent_indent="    ") for row in body.split("\n")
    ]
    aligned = " ALIGNED" if dtype is np.int8 else ""  # weights are read four at a time
    return f"{storage}const {C_TYPES[dtype]} {name}{shape}{aligned} = {{\n" + "\n".join(lines) + "\n};"


def _literal(value: int, dtype: type) -> str:
    info = np.iinfo(dtype)
    assert info.min <= value <= info.max, (value, dtype)
    if dtype is np.int64:
        return f"INT64_C({value})"
    return str(value) if value > -(2**31) else "(-2147483647 - 1)"


def text_literal(text: str) -> str:
    """A C string of UTF-8 bytes; others than printable ASCII as three octal digits, which need no end."""
    plain = set(range(32, 127)) - set(b'"\\?')
    return '"' + "".join(chr(each) if each in plain else f"\\{each:03o}" for each in text.encode()) + '"'
