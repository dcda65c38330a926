"""A row of the table: a network by one way, run on its images and timed against the dense one in float.

The C library is compiled for this machine: its logits are compared, its flash and RAM stated. What it takes
on a microcontroller is in results/microcontroller.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from akgp.deployment.agreement import compare
from akgp.deployment.bench import pinned
from akgp.deployment.targets import TARGETS
from akgp.evaluation import accuracy, latency, runtime_logits, speedup
from akgp.io.errors import message
from akgp.microcontroller.export import export
from akgp.params import Evaluate
from akgp.runtimes import RUNTIMES
from benchmarks.routes.cases import Case
from benchmarks.routes.ways import WAYS, Way, bytes_of
from experiments.resumable import Row

C, COMPILER = "akgp, C", "gcc"
REFUSED = 300
"""Characters of a refusal's message that are kept."""
ROUNDS = Evaluate(rounds=20, threads=1)


def measured(case: Case, name: str) -> Row:
    """What is noted of a way; a way that refuses the network is noted with its message."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            if name == C:
                return in_c(case, Path(folder))
            return in_runtime(case, WAYS[name], Path(folder))
        except (OSError, MemoryError):  # of this machine, not of the network: it is tried again
            raise
        except Exception as error:  # other quantizers raise errors of every type; a row says so
            said = message(error)
            for place in (folder, str(case.folder)):
                said = said.replace(f"{place}/", "")
            return {"refused": said[:REFUSED]}


def in_runtime(case: Case, way: Way, folder: Path) -> Row:
    file = way.write(case, folder)
    logits = runtime_logits(file, case.images, threads=1, batch_size=1, runtime=way.runtime)
    return {**judged(case, logits, way.ours), "bytes": bytes_of(file), **timed(case, way, file, folder)}


def judged(case: Case, logits: Tensor, ours: bool) -> Row:
    """Top-1 of a trained network; how many images have the float network's class, and the oracle's logits."""
    row: Row = {
        "images": len(logits),
        "as_float": int((logits.argmax(1) == case.float_logits.argmax(1)).sum()),
    }
    if case.trained:
        row["top1"] = accuracy(logits, case.images.labels)
    if ours:
        row["exact"] = compare(case.exact.logits, logits)[0].equal
    return row


def timed(case: Case, way: Way, file: Path, folder: Path) -> Row:
    """Batch 1, one thread: against the dense network in onnxruntime, twice, and in the same runtime."""
    reference = RUNTIMES["onnxruntime"]
    files = {"dense": case.dense_file, "again": case.dense_file, "this": file}
    runtimes = {"dense": reference, "again": reference, "this": way.runtime}
    if way.runtime is not reference:
        files["same"], runtimes["same"] = dense_in(case, way, folder), way.runtime
    with pinned(1):
        times = latency(files, case.shape, ROUNDS, 0, runtimes)
    row: Row = {"ms": times["this"].median_ms, "dense_ms": times["dense"].median_ms}
    ratios = {"times": "dense", "times_same": "same" if "same" in files else "dense"}
    for key, name in ratios.items():
        row[key] = vars(speedup(times[name], times["this"]))
    return row | {"a_a": vars(speedup(times["dense"], times["again"]))}


def dense_in(case: Case, way: Way, folder: Path) -> Path:
    """The dense network in float32 as a file of the way's runtime."""
    if ".onnx" in way.runtime.suffixes:
        return case.dense_file
    (folder / "dense").mkdir()
    return TARGETS[way.target].write(case.dense_twin, folder / "dense", "float")


def in_c(case: Case, folder: Path) -> Row:
    made, _ = export(case.int8.path, folder)
    library = folder / "network.so"
    source = folder / "src/network.c"
    subprocess.run(
        [COMPILER, "-std=c99", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)], check=True
    )
    run = ctypes.CDLL(str(library)).network_run
    pixels = torch.as_tensor(case.images.pixels[torch.arange(len(case.images))]).permute(0, 2, 3, 1)
    integers = np.empty((len(pixels), len(case.preprocessing.classes)), np.uint8)
    arena = ctypes.create_string_buffer(made.arena)
    for image, row in zip(pixels.contiguous().numpy(), integers, strict=True):
        run(image.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p), arena)
    output = case.int8.description.output
    logits = (integers.astype(np.int32) - output.zero).astype(np.float32) * output.scale
    return {**judged(case, torch.from_numpy(logits), True), "bytes": made.constants, "ram": made.arena}
