"""Prefect flows over `dvc repro`: when the pipeline runs."""

import os
import sys

# Set before prefect is imported, as it reads them then. Telemetry is off.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Without a server configured, one is started for the flow's duration.
os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
LOGGING_LEVEL = os.environ.get("PREFECT_LOGGING_LEVEL")
"""What the user has set."""
if sys.argv[0] == "-m":  # `python -m flows.…`: a person watches the stages' progress bars, not Prefect's log
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
