"""What a training says when it cannot continue."""

from __future__ import annotations


class TrainingError(ValueError):
    """The training cannot continue with these parameters."""
