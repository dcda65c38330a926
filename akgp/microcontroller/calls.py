"""A layer as C, and the condition under which it may be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from akgp.quantization import QuantizationError
from akgp.quantization.operations import Operation


@dataclass(frozen=True)
class Emitted:
    """A layer as C.

    Attributes:
        kernels: the files of `kernels` that it needs, in their order.
        call: with {0}, {1} … in place of its inputs, {out} and {scratch}.
        scratch: bytes of memory that it needs for itself.
        macs: multiply-accumulates.
    """

    kernels: tuple[str, ...]
    call: str
    scratch: int = 0
    macs: int = 0


def require(proven: Any, operation: Operation) -> None:
    """Raise QuantizationError, which names the operation, unless all of its forms are proven."""
    missing = int(np.sum(~np.asarray(proven)))
    if missing:
        raise QuantizationError(
            f"{operation.label}: {missing} of {np.size(proven)} scales have no exact integer form; if the "
            "file is of an earlier version, `dvc repro quantize` writes it with scales that have"
        )
