"""The gate of evaluate: fails it where compression made a network slower (`evaluate.speed_gate`).

The report and the metrics are in place by then, with the same sentences among their warnings.
"""

from __future__ import annotations

from akgp.reporting.metrics import DETAILS, read_details
from akgp.workspace import GateError, Task


def require(task: Task) -> None:
    """Raise GateError, in one line, if evaluate wrote that a network is slower than it must be."""
    slower = read_details(task.workspace.reports / DETAILS).get("slowdowns", [])
    if slower and task.params.evaluate.speed_gate == "fail":
        raise GateError(
            f"evaluate: {'; '.join(slower)}. All is measured, and in reports/index.html: prune these layers "
            "otherwise, or accept it with evaluate.speed_gate: warn"
        )
