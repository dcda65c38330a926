"""What an ONNX file gives in onnxruntime, on one thread."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from torch import Tensor

from akgp.runtimes.onnxruntime import session


def logits_of(model: Path | onnx.ModelProto, images: Tensor) -> np.ndarray:
    """The logits of images: float32 [N, classes]."""
    given = model if isinstance(model, Path) else model.SerializeToString()
    (logits,) = session(given, threads=1).run(None, {"input": images.detach().numpy()})
    return np.asarray(logits)
