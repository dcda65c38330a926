"""Make this folder again from a workspace in which `make repro` has run: python tests/portable/make.py.

model.onnx: the int8 student. images.npz: the first 100 test images, uint8 [100, C, H, W]. digest.txt:
SHA-256 of their logits, float32 [100, classes] in C order, by onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
IMAGES = 100


def inputs(metadata: dict[str, str]) -> NDArray[np.float32]:
    """The images of images.npz, normalised as the file says."""
    pixels = np.load(HERE / "images.npz")["pixels"]
    mean, std = (np.array(json.loads(metadata[key]), np.float32)[:, None, None] for key in ("mean", "std"))
    normalised: NDArray[np.float32] = pixels * (1 / (255 * std)) - mean / std
    return normalised


def digest(logits: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(logits, np.float32).tobytes()).hexdigest()


if __name__ == "__main__":
    from akgp.data import read_split
    from akgp.runtimes.onnxruntime import session

    shutil.copy("models/int8/model.onnx", HERE / "model.onnx")
    chosen = read_split(Path("data/prepared"), "test").pixels[:IMAGES].numpy()
    np.savez_compressed(HERE / "images.npz", pixels=chosen)
    running = session(HERE / "model.onnx", threads=1)
    (logits,) = running.run(None, {"input": inputs(running.get_modelmeta().custom_metadata_map)})
    (HERE / "digest.txt").write_text(digest(logits) + "\n")
