"""Runs the search in Ray Tune: numbered trials, resumed and extended from Tune's last snapshot.

The state of a search is its trials in that snapshot and nothing else. Numbers and values lie in the trials'
`config`, so that a trial keeps its number: Tune's list of trials changes its order when it is restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune import Callback, ExperimentAnalysis, ResultGrid, ResumeConfig
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from akgp.orchestration.tune import quiet, resumable
from akgp.params import Params
from akgp.sweep.space import Exhausted, draw
from akgp.sweep.trial import NUMBER, VALUES

ENDED = (Trial.TERMINATED, Trial.ERROR)


@dataclass(frozen=True)
class Objectives:
    """The objectives: metrics of the trials' reports, and `max` or `min` for each."""

    metrics: tuple[str, ...]
    modes: tuple[str, ...]


@dataclass
class Search:
    """The trials of a search: numbers by Ray Tune's ids, values and objectives by numbers.

    exhausted: why there can be no further trials; empty: there can.
    """

    params: Params
    objectives: Objectives
    numbers: dict[str, int] = field(default_factory=dict)
    values: dict[int, dict[str, Any]] = field(default_factory=dict)
    ended: dict[int, tuple[dict[str, Any], list[float]]] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    exhausted: str = ""

    def add(self, trial_id: str, number: int, values: dict[str, Any]) -> None:
        """Add a trial that begins, or is to be resumed."""
        self.numbers[trial_id], self.values[number] = number, values
        self.running.add(number)

    def end(self, trial_id: str, row: dict[str, Any] | None) -> None:
        """End a trial with its last report; None or one without the objectives: the next draws ignore it."""
        number = self.numbers[trial_id]
        self.running.discard(number)
        if row and all(metric in row for metric in self.objectives.metrics):
            self.ended[number] = self.values[number], [row[metric] for metric in self.objectives.metrics]

    def next(self) -> tuple[int, dict[str, Any]]:
        """The number and values of the next trial.

        Raises:
            Exhausted: all valid values have been tried.
        """
        number = max(self.values, default=-1) + 1
        tried = self.values.values()
        return number, draw(number, self.ended, self.params, self.objectives.modes, tried=tried)


def snapshot(path: str, params: Params, objectives: Objectives) -> Search:
    """The search of the experiment at `path`; an empty one if there is none that can be resumed."""
    search = Search(params, objectives)
    if not resumable(path):
        return search
    for trial in ExperimentAnalysis(path).trials:
        search.add(trial.trial_id, trial.config[NUMBER], trial.config[VALUES])
        if trial.status in ENDED:
            search.end(trial.trial_id, None if trial.status == Trial.ERROR else trial.last_result)
    return search


class Ended(NamedTuple):
    """A trial that has ended: its last metrics, none if it failed before its first ones, and its error."""

    number: int
    values: dict[str, Any]
    metrics: dict[str, Any]
    error: Exception | None


def ended(path: str) -> list[Ended]:
    """Those trials of the experiment at `path` that have ended, failed ones too."""
    if not resumable(path):
        return []
    analysis = ExperimentAnalysis(path)
    analysis.trials = [trial for trial in analysis.trials if trial.status in ENDED]
    return [
        # A Result without metrics has no config.
        Ended(trial.config[NUMBER], trial.config[VALUES], result.metrics or {}, result.error)
        for trial, result in zip(analysis.trials, ResultGrid(analysis), strict=True)
    ]


def run(
    trainable: Any,
    search: Search,
    trials: int,
    path: str,
    *,
    concurrent: int,
    scheduler: TrialScheduler | None,
    callbacks: Sequence[Callback],
    reuse_actors: bool,
    max_failures: int,
) -> None:
    """Run trials, `concurrent` at a time, until there are `trials` or no more values; resume unfinished ones.

    Args:
        path: the directory of the experiment, of which `search` is the snapshot.
        max_failures: how often a failed trial is resumed at once. Ray Tune does not distinguish a lost node
            from an error in the user's code, which is repeated as often.

    Raises:
        KeyboardInterrupt: by the user; the next call resumes.
    """
    quiet()
    resume, folder = bool(search.values), Path(path)
    experiment = Experiment(
        folder.name,
        trainable,
        storage_path=str(folder.parent),
        num_samples=trials,
        max_failures=max_failures,
        checkpoint_config=tune.CheckpointConfig(num_to_keep=1),  # for resuming alone
        trial_dirname_creator=_folder,
    )
    algorithm = _Algorithm(_Searcher(search, concurrent), trials)
    if resume:
        algorithm.add_configurations([experiment])
    tune.run(
        experiment,
        metric=search.objectives.metrics[0] if scheduler else None,
        mode=search.objectives.modes[0] if scheduler else None,
        search_alg=algorithm,
        scheduler=scheduler,
        callbacks=list(callbacks),
        resume_config=ResumeConfig(errored=ResumeConfig.ResumeType.SKIP) if resume else None,
        reuse_actors=reuse_actors,
        raise_on_failed_trial=False,
        verbose=0,
    )
    if search.running or not algorithm.is_finished():
        raise KeyboardInterrupt


def _folder(trial: Trial) -> str:
    return f"{trial.config[NUMBER]}-{trial.trial_id}"


class _Searcher(Searcher):
    """Adapts `Search` to Tune's interface; has no state of its own to save."""

    def __init__(self, search: Search, concurrent: int) -> None:
        super().__init__(metric=search.objectives.metrics[0], mode=search.objectives.modes[0])
        self.search, self.concurrent = search, concurrent

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.search.running) >= self.concurrent:
            return None  # Tune asks again later
        try:
            number, values = self.search.next()
        except Exhausted as error:
            self.search.exhausted = str(error)
            return str(Searcher.FINISHED)
        self.search.add(trial_id, number, values)
        return {NUMBER: number, VALUES: values}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        self.search.end(trial_id, None if error else result)

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Algorithm(SearchGenerator):
    """Tune's generator, with the end decided by the trials that exist, or can, instead of a saved count.

    Otherwise a finished search could not be extended.
    """

    def __init__(self, searcher: _Searcher, trials: int) -> None:
        super().__init__(searcher)
        self.trials = trials

    @property
    def total_samples(self) -> int:
        return self.trials

    def is_finished(self) -> bool:
        search = self.searcher.search
        return bool(search.exhausted) or len(search.values) >= self.trials

    def save_to_dir(self, dirpath: str, session_str: str) -> None:
        pass

    def has_checkpoint(self, dirpath: str) -> bool:
        return False
