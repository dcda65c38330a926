"""What an int8 file says of itself, in ONNX `metadata_props`: all that is needed to use it, and whose it is.

Every value is JSON. The program in docs/how-to/deploy.md uses nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from akgp import __version__
from akgp.data.tables import PREPROCESSING

LAYOUT = "NCHW"
NORMALIZATION = "(pixel / 255 - mean) / std"
RESIZE = "bilinear with antialiasing (Pillow's BILINEAR) to image_size, whatever the proportions"


def write_metadata(path: str | Path, summary: Mapping[str, Any], license: str | None) -> None:
    """Add to a file what its user needs: in place.

    Args:
        summary: holds PREPROCESSING.
        license: of the weights; None: not stated.
    """
    model = onnx.load(str(path))
    about = {
        **{key: summary[key] for key in PREPROCESSING},
        "color": "L" if summary["channels"] == 1 else "RGB",
        "layout": LAYOUT,
        "normalization": NORMALIZATION,
        "resize": RESIZE,
        "license": license or "not stated",
        "akgp_version": __version__,
        "digest": digest(model),
    }
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.save(model, str(path))


def digest(model: onnx.ModelProto) -> str:
    """SHA-256 of the graph, serialized: of its operations and weights, not of the metadata."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()
