"""The error of a training."""

from __future__ import annotations


class TrainingError(ValueError):
    """The training cannot continue with these parameters."""
