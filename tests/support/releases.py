"""Workspaces with a network to be released."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from akgp import params
from akgp.data.images import Images
from akgp.data.tables import Summary, write_split
from akgp.deployment import release
from akgp.deployment.release import ReleaseCandidate

CLASSES = ("dark", "bright")
SMALLEST = "networks: {net: {architecture: cifar_resnet20}}\nteachers: [net]\nstudent: net\n"
QUICK = "evaluate: {warmup_seconds: 0, rounds: 6}\nray: {cpus_per_worker: 1}\n"


def graph(file: Path, weight: float, bias: float = 0) -> None:
    """A network of logits (0, weight·(z − bias)), where z is the mean of the normalised pixels."""
    from onnx import TensorProto, helper, save

    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "shape"], ["column"]),
        helper.make_node("Sub", ["column", "bias"], ["moved"]),
        helper.make_node("MatMul", ["moved", "weights"], ["logits"]),
    ]
    built = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor("shape", TensorProto.INT64, [2], [-1, 1]),
            helper.make_tensor("bias", TensorProto.FLOAT, [1, 1], [bias]),
            helper.make_tensor("weights", TensorProto.FLOAT, [1, 2], [0, weight]),
        ],
    )
    save(helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def prepare(root: Path, grays: list[int], classes: tuple[str, ...] = CLASSES) -> None:
    """A test split of one flat image for each gray value; from 128 on it is bright."""
    folder = root / "data" / "prepared"
    folder.mkdir(parents=True, exist_ok=True)
    pixels = torch.tensor(grays, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 4, 1)
    labels = torch.tensor([classes.index(CLASSES[gray >= 128]) for gray in grays])
    write_split(folder, "test", Images(pixels.contiguous().permute(0, 3, 1, 2), labels), [""] * len(grays))
    summary = Summary(
        source="here", classes=classes, image_size=(4, 4), channels=1, counts={}, mean=(0.5,), std=(0.5,),
        imbalance=1.0, skipped=0, digest="",
    )  # fmt: skip
    (folder / "summary.json").write_text(summary.model_dump_json())


def candidate(root: Path, weight: float = 1, bias: float = 0, classes: tuple[str, ...] = CLASSES) -> None:
    """What quantize and evaluate leave; bias −2 calls all bright, 0 is right on every image."""
    folder = root / "models" / "int8"
    folder.mkdir(parents=True, exist_ok=True)
    graph(folder / "model.onnx", weight, bias)
    content = {"classes": classes, "image_size": [4, 4], "channels": 1, "mean": [0.5], "std": [0.5]}
    (folder / "preprocessing.json").write_text(json.dumps(content))
    (root / "reports").mkdir(exist_ok=True)
    row = {"top1": 12.0, "params": 2, "macs": 2, "bytes": 1, "latency_ms": 9.0, "latency_runtime": "here"}
    (root / "reports" / "metrics.json").write_text(json.dumps({"int8": row}))


def workspace(root: Path) -> Path:
    """A workspace with eight test images and a network that is right on all of them; returns it."""
    (root / "params.yaml").write_text(SMALLEST + QUICK)
    prepare(root, [0, 50, 100, 120, 140, 160, 200, 255])
    candidate(root)
    return root


def configured(root: Path, **gate: Any) -> params.Params:
    """Its parameters, with these of section release."""
    settings = json.dumps(gate)
    (root / "params.yaml").write_text(f"{SMALLEST}{QUICK}release: {settings}\n")
    return params.load(root / "params.yaml")


def reviewed(root: Path, *, force: bool = False, **gate: Any) -> release.Review:
    return release.review(root, configured(root, **gate), force=force)


def network(number: int) -> ReleaseCandidate:
    """Something to store: nothing looks into it."""
    content = {"model.onnx": f"model {number}".encode(), "preprocessing.json": b"{}"}
    return ReleaseCandidate(
        content, {"top1": 90.0 + number, "bytes": 7, "latency_ms": 0.1}, "of the test images"
    )


def promote(where: str, network: ReleaseCandidate) -> str:
    """Put it into production without a review; returns its version."""
    return release.promote(where, network, release.current(where))
