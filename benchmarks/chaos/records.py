"""What a fault did, and the table of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from akgp.io.atomic import atomic_file

MISSED = "missed"


@dataclass
class Fault:
    """One injected fault.

    Attributes:
        row: the kind of fault; faults of one kind are one row of the first table.
        point: where it hit.
        delay: seconds between the event that it waited for and the fault, chosen by the seed.
        kills: how many were made by SIGKILL; a node with all its processes is one.
        happened: what was seen, in order.
        problems: what was seen and must not be; none: as expected.
        recovered: seconds from the fault until more had been computed than before it.
        equal: whether the metrics at the end were those of the undisturbed run.
    """

    row: str
    expected: str
    point: str = ""
    delay: float = 0.0
    kills: int = 0
    happened: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    recovered: float | None = None
    equal: bool | None = None

    @property
    def outcome(self) -> str:
        """as expected, FAILED or missed: the run ended before the fault, or it is not possible here."""
        if self.problems or self.equal is False:
            return "FAILED"
        return MISSED if MISSED in self.happened else "as expected"


@dataclass(frozen=True)
class Experiment:
    """Faults that shared a workspace or a server.

    Attributes:
        commit: of the code that met them.
        date: when it had ended, UTC.
        seconds: how long all of it took.
    """

    commit: str
    date: str
    seconds: float
    faults: list[Fault]


Done = dict[str, Experiment]


def load(file: Path, seed: int) -> Done:
    """The experiments recorded for a seed, by name."""
    if not file.exists():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["seed"] != seed:
        return {}
    return {
        name: Experiment(**each | {"faults": [_fault(row) for row in each["faults"]]})
        for name, each in content["experiments"].items()
    }


def save(file: Path, header: dict[str, Any], done: Done) -> None:
    """Write all records; beside, then in place."""
    experiments = {
        name: {
            "commit": each.commit,
            "date": each.date,
            "seconds": round(each.seconds),
            "faults": [asdict(fault) | {"outcome": fault.outcome} for fault in each.faults],
        }
        for name, each in done.items()
    }
    with atomic_file(file) as beside:
        beside.write_text(
            json.dumps(header | {"experiments": experiments}, indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )


def table(header: dict[str, Any], done: Done) -> str:
    """The page: conditions, a row a kind of fault, then a row a fault."""
    faults = [fault for each in done.values() for fault in each.faults]
    parts = _head(header, done, faults), _summary(faults), _details(faults), _experiments(done)
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _head(header: dict[str, Any], done: Done, faults: list[Fault]) -> Iterable[str]:
    seconds = sum(each.seconds for each in done.values())
    failed = sum(fault.outcome == "FAILED" for fault in faults)
    missed = sum(fault.outcome == MISSED for fault in faults)
    yield "# The fault matrix"
    yield ""
    yield f"`{header['command']}`, seed {header['seed']}; dates and commits are at the end."
    yield f"{header['machine']}."
    yield ""
    yield (
        f"{len(faults)} faults, {sum(fault.kills for fault in faults)} kills by SIGKILL; "
        f"{len(faults) - failed - missed} as expected, {failed} failed, {missed} missed. "
        f"{seconds / 60:.0f} minutes, one experiment after another."
    )
    if header["not_run"]:
        yield f"Not run here: {', '.join(header['not_run'])}."
    yield ""
    yield (
        '"Metrics equal": `reports/metrics.json` without latencies, and the digests of all artifacts, '
        "against a run that nothing disturbed. "
        '"Recovered": from the fault until more had been computed than before it, the restarts included. '
        "`faults.json` holds the same."
    )


def _summary(faults: list[Fault]) -> Iterable[str]:
    yield "| fault | points | SIGKILLs | expected | as expected | seconds to recover | metrics equal |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in dict.fromkeys(fault.row for fault in faults):
        of_row = [fault for fault in faults if fault.row == row]
        counted = [fault for fault in of_row if fault.outcome != MISSED]
        seconds = sorted(fault.recovered for fault in counted if fault.recovered is not None)
        equal = [fault.equal for fault in counted if fault.equal is not None]
        yield (
            f"| {row} | {len(counted)} | {sum(fault.kills for fault in counted)} | {of_row[0].expected} | "
            f"{sum(fault.outcome == 'as expected' for fault in counted)} of {len(counted)} | "
            f"{_range(seconds)} | "
            f"{f'{sum(equal)} of {len(equal)}' if equal else '—'} |"
        )


def _range(seconds: list[float]) -> str:
    """Of sorted numbers."""
    ends = [f"{each:.0f}" for each in (*seconds[:1], *seconds[-1:])]
    return "–".join(dict.fromkeys(ends)) or "—"


def _details(faults: list[Fault]) -> Iterable[str]:
    yield "## Every fault"
    yield ""
    yield "| fault | point | delay, s | what happened | recovered, s | metrics equal | outcome |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for fault in faults:
        said = "; ".join([*fault.happened, *(f"**{problem}**" for problem in fault.problems)])
        recovered = "—" if fault.recovered is None else f"{fault.recovered:.0f}"
        equal = {None: "—", True: "yes", False: "**no**"}[fault.equal]
        yield (
            f"| {fault.row} | {fault.point} | {fault.delay:.1f} | {said.replace('|', '/')} | {recovered} | "
            f"{equal} | {fault.outcome} |"
        )


def _experiments(done: Done) -> Iterable[str]:
    yield "## The experiments"
    yield ""
    yield "| experiment | ended, UTC | commit | minutes | faults |"
    yield "| --- | --- | --- | --- | --- |"
    for name, each in done.items():
        yield f"| {name} | {each.date} | `{each.commit}` | {each.seconds / 60:.0f} | {len(each.faults)} |"


def _fault(row: dict[str, Any]) -> Fault:
    return Fault(**{key: value for key, value in row.items() if key != "outcome"})
