"""What runs inside Tune's loop: it moves the sweep's progress bar and frees what a stopped trial held."""

from __future__ import annotations

from typing import Any, ClassVar

from ray._raylet import PlacementGroupID
from ray.tune import Callback
from ray.util.placement_group import PlacementGroup, remove_placement_group
from tqdm import tqdm

from akgp.sweep.trial import METRIC, WORKERS


class Progress(Callback):
    """Shows how many trials have ended, and the best validation accuracy so far.

    Tune pickles its callbacks into the state from which it resumes, so the bar is the class's.
    """

    bar: ClassVar[tqdm[Any] | None] = None

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.bar is None:
            return
        best = max((trial.last_result.get(METRIC, 0.0) for trial in trials if trial.last_result), default=0.0)
        text = f"best val top-1 {best:.2f} %"
        ended = sum(trial.is_finished() for trial in trials)
        if (ended, text) != (self.bar.n, self.bar.postfix):  # a step is a tenth of a second
            self.bar.n = ended
            self.bar.set_postfix_str(text)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Free the workers of a trial that was stopped: Ray Train does so only where Ray's dashboard runs."""
        if workers := (trial.last_result or {}).get(WORKERS):
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(workers))))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial_complete(iteration, trials, trial)
