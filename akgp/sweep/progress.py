"""A callback in Tune's loop: updates the sweep's progress bar and frees the workers of stopped trials."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ray._raylet import PlacementGroupID
from ray.tune import Callback
from ray.util.placement_group import PlacementGroup, remove_placement_group
from tqdm import tqdm

from akgp.sweep.trial import BALANCED, PLACEMENT_GROUP, VALUES


@dataclass(frozen=True)
class TrialProgress:
    """The progress of a trial.

    epochs: done so far; planned: in all; seconds: since its start; epoch_seconds: duration of its last epoch.
    """

    epochs: int
    planned: int
    seconds: float
    epoch_seconds: float
    ended: bool


def expected_epochs(begun: Sequence[TrialProgress]) -> float:
    """Expected epochs of a trial not yet begun: the mean of those that ended, early or not; if none, all."""
    ended = [each.epochs for each in begun if each.ended]
    return _mean(ended or [each.planned for each in begun])


def seconds_left(begun: Sequence[TrialProgress], trials: int, concurrent: int) -> float | None:
    """Estimated time until `trials` trials, `concurrent` at a time, have ended; None if it is too early.

    An epoch is assumed to take as long as the latest ones did, and a trial's start (pruning, measuring,
    fetching shared data) as long as on average so far. Both are wall-clock times, so they reflect the
    present load. Running trials are assumed not to be stopped early.
    """
    rows = [each for each in begun if each.epochs]
    if not rows:
        return None
    epoch = _mean([each.epoch_seconds for each in rows])
    start = _mean([max(0.0, each.seconds - each.epochs * epoch) for each in rows])
    ahead = [
        (each.planned - each.epochs) * epoch + (0 if each.epochs else start)
        for each in begun
        if not each.ended
    ]
    ahead += [start + expected_epochs(begun) * epoch] * (trials - len(begun))
    # No less than the longest trial left, however many run at a time.
    return max(sum(ahead) / concurrent, *ahead, 0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def roughly(seconds: float) -> str:
    """A duration rounded as an estimate should be: 10 s, 4 min or 2.5 h."""
    if seconds < 60:
        return f"{10 * max(1, math.ceil(seconds / 10))} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress(Callback):
    """Shows how many trials have ended, the best validation accuracy so far, and the time left.

    The bar is the share of epochs done. All is kept in class attributes: Tune pickles its callbacks into the
    state from which it resumes, and a pickled bar would break resuming.
    """

    bar: ClassVar[tqdm[Any] | None] = None
    trials: ClassVar[int]
    concurrent: ClassVar[int]
    planned: ClassVar[Callable[[dict[str, Any]], int]]  # epochs of a trial of these values
    metric: ClassVar[str]
    seen: ClassVar[tuple[int, int]]
    ends: ClassVar[float | None]  # by time.monotonic

    @classmethod
    def shown(
        cls, trials: int, concurrent: int, planned: Callable[[dict[str, Any]], int], metric: str
    ) -> tqdm[Any]:
        """Start the bar of a sweep whose objective is `metric`; use it as a context manager."""
        cls.trials, cls.concurrent, cls.metric = trials, concurrent, metric
        cls.planned = staticmethod(planned)
        cls.seen, cls.ends = (0, 0), None
        cls.bar = tqdm(
            total=100,
            desc="sweep  ",
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar:20}| [{elapsed}]{postfix}",
        )
        return cls.bar

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.bar is None:
            return
        begun = [
            _trial_progress(trial, type(self).planned(trial.config[VALUES]))
            for trial in trials
            if trial.status != "PENDING"
        ]
        ended = sum(each.ended for each in begun)
        seen = (ended, sum(each.epochs for each in begun))
        if seen != self.seen:
            # Estimated again after an epoch or a trial alone; the time shown counts down in between.
            left = seconds_left(begun, self.trials, self.concurrent)
            Progress.seen, Progress.ends = seen, None if left is None else time.monotonic() + left
        text = self._text(trials, ended)
        if text != self.bar.postfix:  # this is called ten times a second
            self.bar.n = round(_share(begun, self.trials))
            self.bar.set_postfix_str(text)

    def _text(self, trials: list[Any], ended: int) -> str:
        text = f"{ended} of {self.trials} trials"
        if failed := sum(trial.status == "ERROR" for trial in trials):
            text += f" ({failed} failed)"
        rows = [trial.last_result or {} for trial in trials]
        if top1 := [row[self.metric] for row in rows if self.metric in row]:
            balanced = "balanced " if self.metric == BALANCED else ""
            text += f", best val {balanced}top-1 {max(top1):.2f} %"
        if self.ends is not None and ended < self.trials:
            text += f", about {roughly(max(0.0, self.ends - time.monotonic()))} left"
        return text

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Free the workers of a trial that was stopped: Ray Train does so only where Ray's dashboard runs."""
        if workers := (trial.last_result or {}).get(PLACEMENT_GROUP):
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(workers))))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.on_trial_complete(iteration, trials, trial)


def _trial_progress(trial: Any, planned: int) -> TrialProgress:
    row = trial.last_result or {}
    return TrialProgress(
        epochs=row.get("epoch", 0),
        planned=planned,
        seconds=row.get("time_total_s", 0.0),
        epoch_seconds=row.get("seconds", 0.0),
        ended=trial.is_finished(),
    )


def _share(begun: Sequence[TrialProgress], trials: int) -> float:
    """Share of the sweep's epochs that are done, %; epochs that a stopped trial skipped do not count."""
    if not begun:
        return 0.0
    done = sum(each.epochs for each in begun)
    ahead = sum(each.planned - each.epochs for each in begun if not each.ended)
    ahead_of_others = (trials - len(begun)) * expected_epochs(begun)
    return 100 * done / max(1, done + ahead + ahead_of_others)
