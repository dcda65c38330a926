"""A second runtime, ONNX's own reference evaluator, takes part without a change anywhere else."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from PIL import Image
from torch import nn

from akgp.data import IndexedSource
from akgp.deployment.predict import Classifier
from akgp.evaluation import accuracy, latency, runtime_logits
from akgp.evaluation.latency import clock
from akgp.params import Evaluate
from akgp.quantization import export_onnx
from akgp.runtimes import RUNTIMES, GraphError, Runtime, installed, measured_in, runtime_for

MEAN, STD = (0.4,), (0.2,)


class Reference:
    """Computes in a thread of its own, a few images at a time."""

    name, version, module, extra = "reference", "1", "onnx", None
    suffixes, computes_in_caller = (".onnx",), False

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: list[int] = []
        self.closed = 0

    def load(self, path: Path, threads: int) -> ReferenceNetwork:
        self.threads.append(threads)
        return ReferenceNetwork(self, path)


class ReferenceNetwork:
    largest_batch, image_shape = 4, (1, 6, 6)

    def __init__(self, runtime: Reference, path: Path) -> None:
        self.runtime, self.evaluator = runtime, ReferenceEvaluator(str(path))

    def outputs(self, inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [self.run(inputs)]

    def run(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        self.runtime.batches.append(len(inputs))
        logits: list[NDArray[np.float32]] = []
        worker = threading.Thread(
            target=lambda: logits.extend(self.evaluator.run(None, {self.evaluator.input_names[0]: inputs}))
        )
        worker.start()
        worker.join()
        return logits[0]

    def close(self) -> None:
        self.runtime.closed += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network of 6×6 grey images as quantize leaves it, and an image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    export_onnx(model, torch.zeros(1, 1, 6, 6), tmp_path / "model.onnx")
    content = {"classes": list("abcd"), "image_size": [6, 6], "channels": 1, "mean": MEAN, "std": STD}
    (tmp_path / "preprocessing.json").write_text(json.dumps(content))
    Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6) * 7).save(tmp_path / "image.png")
    return tmp_path


def test_logits_and_accuracy(folder: Path) -> None:
    runtime: Runtime = (reference := Reference())
    pixels = torch.randint(0, 256, (10, 1, 6, 6), dtype=torch.uint8)
    images, file = IndexedSource(pixels, torch.arange(10) % 4, MEAN, STD), folder / "model.onnx"
    logits = runtime_logits(file, images, threads=2, runtime=runtime)
    expected = runtime_logits(file, images, threads=2)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    assert accuracy(logits, images.labels) == accuracy(expected, images.labels)
    assert (reference.batches, reference.threads, reference.closed) == ([4, 4, 2], [2], 1)


def test_latency(folder: Path) -> None:
    reference = Reference()
    params = Evaluate(rounds=6, warmup_seconds=0, threads=1)
    times = latency({"one": folder / "model.onnx"}, (1, 1, 6, 6), params, seed=0, runtime=reference)
    assert times["one"].median_ms > 0
    assert set(reference.batches) == {1} and reference.closed == 1
    assert measured_in(reference, 1) == "reference, CPU, 1 thread(s)"


def test_the_time_is_taken_where_the_runtime_computes() -> None:
    reference, ours = Reference(), RUNTIMES["onnxruntime"]
    assert (clock(ours, 1), clock(reference, 1)) == (time.thread_time, time.process_time)
    assert clock(ours, 2) is clock(reference, 2) is time.perf_counter


def test_predictions(folder: Path) -> None:
    reference = Reference()
    theirs = Classifier(folder, reference)(folder / "image.png")
    ours = Classifier(folder)(folder / "image.png")
    assert [name for name, _ in theirs] == [name for name, _ in ours]
    assert dict(theirs) == pytest.approx(dict(ours), rel=1e-4)
    assert reference.batches == [1]


def test_a_file_is_run_by_the_runtime_of_its_kind() -> None:
    assert runtime_for("models/int8/model.onnx") is RUNTIMES["onnxruntime"]
    with pytest.raises(GraphError, match=r"^model\.xyz: no runtime loads files of this kind, must be one of"):
        runtime_for("model.xyz")


ONNX = {name: runtime for name, runtime in RUNTIMES.items() if ".onnx" in runtime.suffixes}


@pytest.mark.parametrize("runtime", ONNX.values(), ids=ONNX)
def test_what_cannot_be_run_is_one_line(runtime: Runtime, folder: Path) -> None:
    if not installed(runtime):
        pytest.skip(f"the extra {runtime.extra} is not installed")
    file = folder / f"nowhere{runtime.suffixes[0]}"
    with pytest.raises(GraphError, match=rf"{file.name}: {runtime.name} cannot load it: ") as raised:
        runtime.load(file, threads=1)
    assert "\n" not in str(raised.value)
    network = runtime.load(folder / "model.onnx", threads=1)
    assert network.image_shape == (1, 6, 6)
    with pytest.raises(GraphError, match=rf"model\.onnx: {runtime.name} cannot run it: ") as raised:
        network.run(np.zeros((1, 1, 7, 6), np.float32))
    assert "\n" not in str(raised.value)
