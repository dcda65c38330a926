"""From `trials.parquet` to what a person reads: tables with paired differences, regret, a plot a regime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.weighting.design import SEARCHED, WEIGHTS, Design, folder_name

REFERENCE, LABELS = "fixed 0.7", "fixed 0"
COLUMNS = 4
"""Panels beside each other in a figure."""


@dataclass(frozen=True)
class Mean:
    """A mean over pairs of seeds and its standard error, not a number if there is one pair."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f}" + ("" if np.isnan(self.error) else f" ± {self.error:.2f}")


def mean(by_pair: pd.Series) -> Mean:
    return Mean(float(by_pair.mean()), float(by_pair.std()) / np.sqrt(len(by_pair)))


def over_settings(each: Sequence[pd.Series]) -> Mean:
    """The mean of the settings' means.

    Settings share seeds, data and students, and err together: its error is that of what a pair deviates in
    all settings at once. A setting with one pair adds the mean variance of the others' pairs.
    """
    table = pd.concat(each, axis=1)
    pairs, repeated = table.count(), table.loc[:, table.count() > 1]
    deviations = ((repeated - repeated.mean()) / repeated.count()).sum(axis=1)[repeated.notna().any(axis=1)]
    clusters = len(deviations)
    together = (deviations**2).sum() * clusters / (clusters - 1) if clusters else np.nan
    alone = (pairs == 1).sum() * repeated.var().mean() if clusters else np.nan
    return Mean(float(table.mean().mean()), float(np.sqrt(together + alone) / len(each)))


class Results:
    """The trials by setting: a table of seeds (rows) and strategies (columns) each, % on the test split."""

    def __init__(self, trials: pd.DataFrame, design: Design) -> None:
        self.design, self.students = design, len(trials)
        names = [arm.name for arm in design.arms]
        self.fixed = {w: f"fixed {w:g}" for w in WEIGHTS if f"fixed {w:g}" in names}
        self.trials = trials = pd.concat([trials, _searched(trials, list(self.fixed.values()))])
        self.everywhere = (*names, SEARCHED)
        self.by_setting = {
            (str(regime), str(teacher)): rows.pivot_table(
                index=["teacher_seed", "student_seed"], columns="strategy", values="test_top1"
            )
            for (regime, teacher), rows in trials.groupby(["regime", "teacher"])
        }
        self.settings = [
            key for key in ((s.regime, s.teacher) for s in design.settings) if key in self.by_setting
        ]

    def best_fixed(self, setting: tuple[str, str]) -> str:
        """The fixed weight that is best in hindsight, by its mean over the seeds."""
        return str(self.by_setting[setting][list(self.fixed.values())].mean().idxmax())

    def regret(self, setting: tuple[str, str], strategy: str) -> pd.Series:
        """How far the strategy stays below the best fixed weight in hindsight, points, by pair of seeds."""
        table = self.by_setting[setting]
        return table[self.best_fixed(setting)] - table[strategy]

    def regret_elsewhere(self, setting: tuple[str, str], strategy: str) -> pd.Series:
        """`regret`, where each pair's fixed weight is the best of the *other* pairs.

        The best in hindsight of several noisy means owes part of its lead to luck; this one has none, but may
        not be the best: the regret to the weight that is best in truth lies between the two.
        """
        table = self.by_setting[setting]
        fixed = table[list(self.fixed.values())]
        best = [fixed.loc[pair, fixed.drop(index=pair).mean().idxmax()] for pair in fixed.index]
        return best - table[strategy]

    def gain(self, setting: tuple[str, str], strategy: str, over: str = REFERENCE) -> pd.Series:
        """How far the strategy is above another, points, by pair of seeds."""
        table = self.by_setting[setting]
        return table[strategy] - table[over]

    def mean_regret(self, strategy: str) -> Mean:
        return over_settings([self.regret(setting, strategy) for setting in self.settings])

    def mean_regret_elsewhere(self, strategy: str) -> Mean | None:
        """Over the settings that have two pairs or more; None where there are none."""
        paired = [setting for setting in self.settings if len(self.by_setting[setting]) > 1]
        return over_settings([self.regret_elsewhere(each, strategy) for each in paired]) if paired else None

    def compute(self, strategy: str) -> float:
        return float(self.trials[self.trials.strategy == strategy].compute.mean())


def _searched(trials: pd.DataFrame, fixed: list[str]) -> pd.DataFrame:
    candidates = trials[trials.strategy.isin(fixed)]
    searches = candidates.groupby(["regime", "teacher", "teacher_seed", "student_seed"])
    best = candidates.loc[searches.val_top1.idxmax()]
    return best.assign(strategy=SEARCHED, compute=searches.compute.sum().to_numpy())


def tables(results: Results) -> str:
    """All tables as Markdown."""
    devices = ", ".join(sorted(results.trials.device.unique()))
    seeds = results.trials.groupby(["teacher_seed", "student_seed"]).ngroups
    head = (
        "# Every strategy against every fixed weight\n\n"
        "Written by `python -m experiments.weighting report` from `trials.parquet`: "
        f"{results.students} students, {seeds} pairs of seeds, trained on {devices}.\n"
        "Top-1 on the test split, mean ± standard error over the pairs. What was run, where, and what is\n"
        "missing: [docs/explanation/weighting.md](/docs/explanation/weighting.md)."
    )
    settings = (_setting(results, setting) for setting in results.settings)
    another = [key for key in results.settings if key[1] not in ("in-sample", "cross-fitted")]
    duels = [
        _duels(results, title, settings)
        for title, settings in (
            ("Two at a time", results.settings),
            ("Two at a time, where another network than the student's teaches", another),
        )
        if results.design.duels and settings
    ]
    return "\n\n".join((head, _across(results), _matrix(results), *duels, *settings)) + "\n"


def _across(results: Results) -> str:
    lines = [
        "## Over all settings",
        "",
        "Regret: best fixed weight of a setting in hindsight minus the strategy, points; less is better.",
        "The best of several noisy means is partly lucky: beside it the regret to the weight that was best",
        "for the *other* pairs of seeds, in the settings that have two or more.",
        f"`{SEARCHED}`: the fixed weight that is best on validation images, a search that trains them all.",
        "Beside fixed 0.7 and labels only (fixed 0): the smallest gain over the settings.",
        "",
        "| strategy | compute | mean regret | to other seeds' best | worst regret | in | worst against 0.7 "
        "| worst against labels |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for strategy in results.everywhere:
        regrets = {setting: mean(results.regret(setting, strategy)) for setting in results.settings}
        worst = max(regrets, key=lambda setting: regrets[setting].mean)
        cells = [
            strategy,
            f"{results.compute(strategy):.2f}",
            results.mean_regret(strategy),
            results.mean_regret_elsewhere(strategy) or "",
            regrets[worst],
            ", ".join(worst),
            *(_smallest_gain(results, strategy, over) for over in (REFERENCE, LABELS)),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _matrix(results: Results) -> str:
    lines = [
        "## All settings beside each other",
        "",
        "Test top-1, %, mean over the pairs; of each setting the best fixed weight in hindsight in bold.",
        "",
        f"| strategy | {' | '.join(map(', '.join, results.settings))} |",
        f"| --- |{' --- |' * len(results.settings)}",
    ]
    for strategy in results.everywhere:
        cells = []
        for setting in results.settings:
            said = f"{results.by_setting[setting][strategy].mean():.2f}"
            cells.append(f"**{said}**" if strategy == results.best_fixed(setting) else said)
        lines.append(f"| {strategy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _duels(results: Results, title: str, settings: list[tuple[str, str]]) -> str:
    lines = [
        f"## {title}",
        "",
        f"The first minus the second, points, paired by seeds: mean of {len(settings)} settings, and where",
        "it is least and most.",
        "",
        "| first (compute) | second (compute) | mean | least | in | most | in |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one, other in results.design.duels:
        by_pair = [results.gain(setting, one, other) for setting in settings]
        gains = dict(zip(settings, map(mean, by_pair), strict=True))
        least, most = (pick(gains, key=lambda setting: gains[setting].mean) for pick in (min, max))
        cells = [
            *(f"{name} ({results.compute(name):.2f})" for name in (one, other)),
            over_settings(by_pair),
            *(said for setting in (least, most) for said in (gains[setting], ", ".join(setting))),
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _smallest_gain(results: Results, strategy: str, over: str) -> Mean:
    gains = [mean(results.gain(setting, strategy, over)) for setting in results.settings]
    return min(gains, key=lambda gain: gain.mean)


def _setting(results: Results, setting: tuple[str, str]) -> str:
    table = results.by_setting[setting]
    rows = results.trials[(results.trials.regime == setting[0]) & (results.trials.teacher == setting[1])]
    lines = [
        f"## {setting[0]}, {setting[1]} teacher",
        "",
        f"{len(table)} pairs of seeds; best fixed weight in hindsight: {results.best_fixed(setting)}; "
        f"dense network: {rows.dense_test_top1.mean():.2f}.",
        "",
        "| strategy | w | compute | test top-1, % | against 0.7 | against the best fixed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for strategy in (*results.design.strategies(), SEARCHED):
        if strategy in table:
            mine = rows[rows.strategy == strategy]
            top1, regret = mean(table[strategy]), mean(results.regret(setting, strategy))
            weight = "" if mine.w.isna().all() else f"{mine.w.mean():.2f}"
            lines.append(
                f"| {strategy} | {weight} | {mine.compute.mean():.2f} | {str(top1).lstrip('+')} "
                f"| {mean(results.gain(setting, strategy))} | {Mean(-regret.mean, regret.error)} |"
            )
    return "\n".join(lines)


def plots(results: Results, folder: Path) -> None:
    """A figure a regime, `<regime>.svg`: a panel a teacher, accuracy against the fixed weight."""
    plt.rcParams["svg.hashsalt"] = "akgp"
    for regime in results.design.regimes:
        settings = [setting for setting in results.settings if setting[0] == regime]
        if settings:
            figure = _figure(results, settings)
            figure.suptitle(regime)
            figure.savefig(folder / f"{folder_name(regime)}.svg", metadata={"Date": None})
            plt.close(figure)


def _figure(results: Results, settings: list[tuple[str, str]]) -> Figure:
    columns = min(len(settings), COLUMNS)
    rows = -(-len(settings) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.4 * rows + 0.8), squeeze=False, layout="constrained"
    )
    panels = grid.flatten()
    used, unused = panels[: len(settings)], panels[len(settings) :]
    for axis, setting in zip(used, settings, strict=True):
        _panel(axis, results, setting)
    for axis in unused:
        axis.set_axis_off()
    for axis in grid[:, 0]:
        axis.set_ylabel("test top-1, %")
    said = {name: line for axis in used for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(said.values(), said.keys(), loc="outside lower center", ncols=columns, fontsize=8)
    return figure


LINES = {
    "0.7 + q": ("C1", "-"), "0.7 + q, longer": ("C1", ":"), "0.3 + q": ("C8", "-"),
    "akgp from 0.7": ("C3", "-"), "akgp from 0.3": ("C9", "-"), "akgp from 0.3, w0 shared": ("C9", ":"),
    "akgp from 0.3, w0 first": ("C9", "--"), "annealed": ("C2", "-."), "wsld": ("C4", "-."),
    "dkd": ("C5", "-."), "logit_std": ("C6", "-."), "fixed 0.1, longer": ("C8", ":"),
    "akgp, branches from answers": ("C3", "-."), "self": ("C5", "--"), "confidence": ("C4", "--"),
    "learned": ("C6", "--"), "akgp, w0 from answers": ("C2", "-"),
    "akgp, w0 from answers, longer": ("C2", ":"),
}  # fmt: skip


def _panel(axis: plt.Axes, results: Results, setting: tuple[str, str]) -> None:
    table = results.by_setting[setting]
    weights = list(results.fixed)
    fixed = [mean(table[name]) for name in results.fixed.values()]
    middle, error = (np.array([getattr(each, key) for each in fixed]) for key in ("mean", "error"))
    axis.fill_between(weights, middle - error, middle + error, color="C0", alpha=0.2, linewidth=0)
    axis.plot(weights, middle, "o-", color="C0", markersize=3, label="fixed w, ± standard error")
    for name, (color, style) in LINES.items():
        if name in table:
            axis.axhline(table[name].mean(), color=color, linestyle=style, linewidth=1.2, label=name)
    axis.set_title(f"{setting[1]} teacher, {len(table)} seeds", fontsize=9)
    axis.set_xlabel("weight of the teacher, w")
