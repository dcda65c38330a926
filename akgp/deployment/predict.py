"""Classify image files with a finished int8 network, by the preprocessing that was saved with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from akgp.data import DataError, Summary, read_image
from akgp.data.batches import normalize
from akgp.data.tables import PREPROCESSING
from akgp.deployment.image_files import ImageFiles
from akgp.runtimes import GraphError, Runtime, runtime_for


class Classifier:
    """A quantized network and its preprocessing: image file → (class, probability), likeliest first."""

    def __init__(self, model: Path, runtime: Runtime | None = None) -> None:
        """Read an int8 file, as the quantize stage writes it.

        Args:
            model: the file, or the folder of `model.onnx`. A file without metadata, as earlier versions
                wrote it, needs `preprocessing.json` beside.
            runtime: None: the one of this kind of file.

        Raises:
            DataError: a file is missing or not what quantize writes.
        """
        file = model if model.suffix == ".onnx" and not model.is_dir() else model / "model.onnx"
        beside = file.with_name("preprocessing.json")
        if not file.exists():
            _preprocessing(beside)  # the first thing to say is what is missing first
            raise DataError(f"{file}: no such file; `dvc repro` writes it")
        try:
            self.network = (runtime or runtime_for(file)).load(file, threads=0)
        except GraphError as error:
            raise DataError(f"{error}; `dvc repro quantize` writes it again") from error
        try:
            known = _carried(file)
        except ValueError as error:
            raise DataError(f"{file}: its metadata are not valid JSON ({error})") from None
        self.expected = Summary.model_construct(**known) if known else _preprocessing(beside)

    def __call__(self, image: Path) -> list[tuple[str, float]]:
        """All classes with their probabilities (softmax), in falling order.

        Raises:
            DataError: the file is missing or no image; GraphError: the runtime cannot run the network.
        """
        import torch

        pixels = read_image(image, self.expected)
        inputs = normalize(pixels, self.expected.mean, self.expected.std)
        try:
            logits = self.network.run(inputs.numpy())
        except GraphError as error:
            raise GraphError(f"{image}: {error}") from error
        shares = torch.from_numpy(logits)[0].double().softmax(0)
        order = shares.argsort(descending=True, stable=True).tolist()
        return [(self.expected.classes[index], float(shares[index])) for index in order]


def _carried(file: Path) -> dict[str, Any] | None:
    """What a file itself says of its preprocessing, as JSON; None: nothing, as those of earlier versions."""
    import onnx

    metadata = {each.key: each.value for each in onnx.load(str(file)).metadata_props}
    if not set(PREPROCESSING) <= set(metadata):
        return None
    return {key: json.loads(metadata[key]) for key in PREPROCESSING}


@dataclass(frozen=True)
class Prediction:
    """Of one file all classes with their probabilities, likeliest first; or why there are none."""

    file: str
    classes: list[tuple[str, float]]
    error: str = ""

    def line(self, top: int) -> str:
        return f"{self.file}: " + ", ".join(f"{name} {100 * p:.1f} %" for name, p in self.classes[:top])

    def as_row(self, top: int) -> dict[str, Any]:
        named = [{"class": name, "probability": p} for name, p in self.classes[:top]]
        return {"file": self.file, "classes": named}


def predictions(classify: Classifier, given: ImageFiles) -> Iterator[Prediction]:
    """A prediction for each file; one that is no image does not keep the others from theirs."""
    for name in given.empty:
        yield Prediction(name, [], f"{name}: no images here")
    for name, file in given.files:
        shown = name.encode(errors="surrogateescape").decode(errors="replace")  # not all are UTF-8
        try:
            yield Prediction(shown, classify(file))
        except (DataError, GraphError) as error:
            said = str(error).replace(str(file), name)
            yield Prediction(shown, [], said.encode(errors="surrogateescape").decode(errors="replace"))


def _preprocessing(file: Path) -> Summary:
    """The part of the data's summary that inference needs: classes, image_size, channels, mean, std.

    And bit_depth, which networks quantized by earlier versions lack: it has a default.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; `dvc repro` writes it") from None
    except ValueError as error:
        raise DataError(f"{file}: not valid JSON ({error}); `dvc repro quantize` writes it again") from None
    needed = ("classes", "image_size", "channels", "mean", "std")
    if not isinstance(content, dict) or not set(needed) <= set(content):
        raise DataError(f"{file}: must hold {', '.join(needed)}; `dvc repro quantize` writes it again")
    known = (*needed, "bit_depth") if "bit_depth" in content else needed
    return Summary.model_construct(**{key: content[key] for key in known})
