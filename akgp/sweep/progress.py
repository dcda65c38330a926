"""What runs inside Tune's loop: it moves the sweep's progress bar."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.tune import Callback
from tqdm import tqdm

from akgp.sweep.trial import METRIC


class Progress(Callback):
    """Shows how many trials have ended, and the best validation accuracy so far.

    Tune pickles its callbacks into the state from which it resumes, so the bar is the class's.
    """

    bar: ClassVar[tqdm[Any] | None] = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.bar is None:
            return
        self.bar.n = sum(trial.is_finished() for trial in trials)
        best = max((trial.last_result.get(METRIC, 0.0) for trial in trials if trial.last_result), default=0.0)
        self.bar.set_postfix_str(f"best val top-1 {best:.2f} %")
