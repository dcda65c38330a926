"""The parameters and data that the workspace's artifacts come from, and how params.yaml now differs.

DVC records in dvc.lock the parameters and digests of each stage's last run. They are read here without DVC,
which takes a second to import. Stages that were run by hand are not recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from akgp import params as parameters
from akgp.io.terminal import first_of
from akgp.params import Params
from akgp.reporting.metrics import DETAILS, SHA256, read_details
from akgp.stages.table import STAGES
from akgp.workspace import Workspace

SHOWN = 4  # differences that are named; a recipe differs from another one in dozens


def outdated(root: Path, stage: str) -> str:
    """A sentence if the results of `stage` come from other parameters than params.yaml now holds; else empty.

    Also empty where that is unknown: no dvc.lock, or an invalid params.yaml, which `akgp params check`
    reports.

    Args:
        stage: quantize (models/int8) or evaluate (reports).
    """
    try:
        params = parameters.load(root / "params.yaml")
        stages = YAML(typ="safe", pure=True).load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, YAMLError, KeyError, TypeError):
        return ""
    upstream = list(STAGES)[: list(STAGES).index(stage) + 1]
    ran = {name: entry for name, entry in stages.items() if name.split("@")[0] in upstream}
    if stage not in ran:
        return ""
    if stage == "evaluate" and _just_measured(Workspace(root), params):
        del ran[stage]  # of an earlier run: DVC records none that its gate failed
    changed = list(dict.fromkeys((*_changed_parameters(ran, params), *_made_again(ran))))
    if not changed:
        return ""
    what = {"quantize": "models/int8 is", "evaluate": "these results are"}[stage]
    source = _source(root, stage) or _source_asked(ran)
    return (
        f"{what} of {source}, and of other parameters than params.yaml now holds: "
        f"{listed(changed)}; `make repro` makes them again"
    )


def _just_measured(workspace: Workspace, params: Params) -> bool:
    """Whether the report says that it is of these parameters of evaluate, and of the int8 file at hand."""
    try:
        details = read_details(workspace.reports / DETAILS)
        measured, file = details["networks"]["int8"][SHA256], workspace.int8 / "model.onnx"
        same_file = measured == hashlib.sha256(file.read_bytes()).hexdigest()
        then, now = details["params"], params.model_dump(mode="json")
        return same_file and all(_value(then, key) == _value(now, key) for key in STAGES["evaluate"].keys)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # a report of an earlier version


def changes(key: str, then: Any, now: Any) -> Iterator[str]:
    """The parameters at or below `key` whose values differ, with both.

    One that an earlier version had, or a later one has, is left out: it is not the user's change.
    """
    for name, before, after in parameters.differences(key, then, now):
        if parameters.ABSENT not in (before, after):
            yield f"{name} {parameters.shown(before)} (now {parameters.shown(after)})"


def listed(changed: Sequence[str]) -> str:
    """The first SHOWN of them, and how many more there are."""
    return first_of(changed, SHOWN)


def _source(root: Path, stage: str) -> str:
    """The data's source as recorded in the artifacts themselves; empty if it is not."""
    workspace = Workspace(root)
    file, keys = {
        "quantize": (workspace.int8 / "preprocessing.json", ("source",)),
        "evaluate": (workspace.reports / "details.json", ("data", "source")),
    }[stage]
    try:
        node = json.loads(file.read_text(encoding="utf-8"))
        for key in keys:
            node = node[key]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(node)


def _source_asked(ran: Mapping[str, Any]) -> str:
    """The data's source by the parameters with which they were last prepared."""
    asked = ran.get("data", {}).get("params", {}).get("params.yaml", {}).get("data", {})
    return " ".join(str(asked[key]) for key in ("source", "path") if asked.get(key)) or "unknown data"


def _changed_parameters(ran: Mapping[str, Any], params: Params) -> Iterator[str]:
    """Each parameter whose value has changed since its stage ran, with both values."""
    present = params.model_dump(mode="json")
    for name, entry in ran.items():
        stage, _, network = name.partition("@")
        if network and network not in STAGES[stage].names_of_networks(params):
            continue  # no longer in use: the change of `student` or `teachers` is reported
        for key, then in entry.get("params", {}).get("params.yaml", {}).items():
            yield from changes(key, then, _value(present, key))


def _value(tree: Any, key: str) -> Any:
    """What a plain tree holds at a dotted name; None if nothing."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _made_again(ran: Mapping[str, Any]) -> Iterator[str]:
    """Each artifact that has changed since a later stage read it."""
    made = {out["path"]: out.get("md5") for entry in ran.values() for out in entry.get("outs", [])}
    for entry in ran.values():
        for used in entry.get("deps", []):
            if made.get(used["path"], used.get("md5")) != used.get("md5"):
                yield f"{used['path']} was made again afterwards"
