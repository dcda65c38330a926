"""The folder that is deployed: the model's file and all that is needed to use it.

    model.onnx           the network; its ONNX `metadata_props` hold its preprocessing and license
    preprocessing.json   the same for programs that read no ONNX, and the source of its data

Every value is JSON. The program in docs/how-to/deploy.md uses nothing else.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from pydantic import ValidationError

from akgp import __version__
from akgp.data import DataError, Preprocessing, Summary
from akgp.deployment.download import SUFFIX as PACKED
from akgp.io.atomic import write_json
from akgp.quantization.aligned_channels import NOTED, aligned
from akgp.runtimes import RUNTIMES, Runtime
from akgp.runtimes.onnx_file import read_onnx

MODEL, PREPROCESSING = "model.onnx", "preprocessing.json"
FILES = (MODEL, PREPROCESSING)
LAYOUT = "NCHW"
NORMALIZATION = "(pixel / 255 - mean) / std"
RESIZE = "bilinear with antialiasing (Pillow's BILINEAR) to image_size, whatever the proportions"


def complete(folder: Path, summary: Summary, license: str | None) -> None:
    """Complete a folder that holds the model's file to a package, in place.

    Args:
        summary: of the images that it was trained on.
        license: of the weights; None: not stated.
    """
    write_metadata(folder / MODEL, summary, license)
    write_json(folder / PREPROCESSING, {"source": summary.source} | _needed(summary))


def align(file: Path, runtime: Runtime) -> None:
    """Add the channels of zeros with which the runtime's kernels are faster, in place; see `aligned`."""
    if runtime is RUNTIMES["onnxruntime"]:  # in OpenVINO such files are slower
        onnx.save(aligned(onnx.load(str(file))), str(file))


def write_preprocessing(folder: Path, model: Path) -> None:
    """Write the preprocessing of a model's file beside other files of it, which cannot hold it.

    Raises:
        DataError: it has none.
    """
    write_json(folder / PREPROCESSING, _needed(read_preprocessing(model)))


def write_metadata(file: Path, preprocessing: Preprocessing, license: str | None) -> None:
    """Add preprocessing and license to the metadata of a model's file, in place."""
    needed = _needed(preprocessing)
    model = onnx.load(str(file))
    about = {
        **needed,
        "color": "L" if needed["channels"] == 1 else "RGB",
        "layout": LAYOUT,
        "normalization": NORMALIZATION,
        "resize": RESIZE,
        "license": license or "not stated",
        "akgp_version": __version__,
        "digest": digest(model),
    }
    about |= {each.key: json.loads(each.value) for each in model.metadata_props if each.key == NOTED}
    # After `digest`, which leaves out the metadata: it may be written again and the digest stays.
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.save(model, str(file))


def _needed(preprocessing: Preprocessing) -> dict[str, Any]:
    return preprocessing.model_dump(mode="json", include=set(Preprocessing.model_fields))


def renew_digest(file: Path) -> None:
    """Write the digest of a file's graph, which has changed, into its metadata, if these have one."""
    model = onnx.load(str(file))
    for each in model.metadata_props:
        if each.key == "digest":
            each.value = json.dumps(digest(model))
    onnx.save(model, str(file))


def digest(model: onnx.ModelProto) -> str:
    """SHA-256 of the serialized graph: its operations and weights, without the metadata."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def model_file(model: Path) -> Path:
    """The model's file of a package, or the file itself.

    Raises:
        DataError: it is a file of another kind.
    """
    kinds = {suffix for runtime in RUNTIMES.values() for suffix in runtime.suffixes}
    if model.is_file() and model.suffix not in kinds:
        packed = "; `akgp unpack` restores what is packed" if model.suffix == PACKED else ""
        raise DataError(f"{model}: is no model, whose file ends in {', '.join(sorted(kinds))}{packed}")
    return model if model.suffix in kinds and not model.is_dir() else model / MODEL


def read_preprocessing(file: Path) -> Preprocessing:
    """The preprocessing in a model file's metadata or, without such, in preprocessing.json beside it.

    Files without metadata were written by earlier versions.

    Raises:
        DataError: neither holds it, or not as quantize writes it. GraphError: it is no ONNX file.
    """
    if file.suffix == ".onnx" and file.exists():
        metadata = {each.key: each.value for each in read_onnx(file).metadata_props}
        if set(Preprocessing.model_fields) <= set(metadata):
            known = ", ".join(f'"{key}": {metadata[key]}' for key in Preprocessing.model_fields)
            return parse_preprocessing(f"{{{known}}}", f"{file}: its metadata")
    beside = file.with_name(PREPROCESSING)
    try:
        return parse_preprocessing(beside.read_text(encoding="utf-8"), str(beside))
    except FileNotFoundError:
        raise DataError(f"{beside}: no such file; `dvc repro` writes it") from None


def parse_preprocessing(text: str | bytes, name: str) -> Preprocessing:
    """The content of preprocessing.json.

    Args:
        name: what an error calls it.

    Raises:
        DataError: it is not what quantize writes.
    """
    again = "`dvc repro quantize` writes it again"
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{name}: not valid JSON ({error}); {again}") from None
    needed = [key for key, field in Preprocessing.model_fields.items() if field.is_required()]
    if not isinstance(content, dict) or not set(needed) <= set(content):
        raise DataError(f"{name}: must hold {', '.join(needed)}; {again}")
    known = {key: content[key] for key in Preprocessing.model_fields if key in content}
    try:
        return Preprocessing.model_validate_json(json.dumps(known))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise DataError(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg']}; {again}") from None
