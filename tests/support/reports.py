"""The metrics of a made-up evaluation."""

from __future__ import annotations


def metrics() -> dict[str, dict]:
    dense = {
        "top1": 98.444,
        "params": 271_962,
        "macs": 2_550_000,
        "bytes": 1_100_000,
        "latency_ms": 0.2,
        "latency_low_ms": 0.19,
        "latency_high_ms": 0.21,
        "latency_runtime": "onnxruntime, CPU, 1 thread(s)",
    }
    pruned = dense | {"top1": 31.0, "params": 67_990, "macs": 1_020_000, "bytes": 275_000}
    int8 = pruned | {"top1": 98.0, "bytes": 99_000, "integer_convolutions": 19, "floating_convolutions": 2}
    int8["floating_operations"] = 3
    return {
        "teacher": dense,
        "dense": dense,
        "pruned": pruned,
        "student": pruned | {"top1": 98.2},
        "int8": int8,
    }
