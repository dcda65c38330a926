"""When the pipeline runs: Prefect flows over `dvc repro`. They know the stages' names only from dvc.yaml."""

import os
import sys

# Before prefect is imported: it would report its use to its makers.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Without a server configured, one is started for the flow's duration.
os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
if sys.argv[0] == "-m":  # `python -m flows.…`: a person looks at the stages' own bars, not at Prefect's log
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
