"""Measurements of a network: accuracy, size and latency."""

from akgp.evaluation.accuracy import accuracy, balanced_accuracy, predict_logits, runtime_logits
from akgp.evaluation.cost import Counts, count
from akgp.evaluation.latency import Latency, Ratio, latency, speedup

__all__ = [
    "Counts",
    "Latency",
    "Ratio",
    "accuracy",
    "balanced_accuracy",
    "count",
    "latency",
    "predict_logits",
    "runtime_logits",
    "speedup",
]
