"""The flow `nightly`: read the source again, retrain if it changed, release what passes the gate."""

from __future__ import annotations

import argparse
from pathlib import Path

from prefect import flow, task
from prefect.events import emit_event

from akgp import params
from akgp.deployment import release
from flows.compress import announce_retry, compress, prepare, publish, start
from flows.processes import run

# Nobody watches at night: a stage must survive a store that does not answer for minutes; it resumes from its
# last epoch.
RETRIES, RETRY_SECONDS = 3, 60


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=announce_retry)
def read_again(folder: Path) -> None:
    """Run the data stage although nothing has changed for DVC, which does not track the source."""
    run(["dvc", "repro", "--force", "--single-item", "network_files", "data"], folder)


@task(retries=1, retry_delay_seconds=10, retry_condition_fn=announce_retry)
def put_into_production(folder: Path) -> tuple[release.Review, str | None]:
    """Promote the new network if it passes the gate; returns the review, and the version now in production.

    A retry starts from the beginning, as where another release has come into production meanwhile: until
    the last file is written the old release is in production.
    """
    checked = params.load(folder / "params.yaml")
    review = release.review(folder, checked)
    return review, release.carry_out(release.place(folder, checked), review)


@flow(name="nightly")
def nightly(folder: Path = Path()) -> str:
    """Read the images again, `compress` (the same images re-run nothing), then promote or keep the old one.

    Returns the decision and its reasons, which are also the artifact `nightly` and an event, one of
    akgp.release.promoted, .rejected and .unchanged.

    Raises:
        ParamsError: as `prepare`; before anything is computed.
        ReleaseError: the new network was rejected, and release.on_reject is fail.
    """
    prepare(folder)
    read_again(folder)
    compress(folder=folder, retries=RETRIES, retry_delay_seconds=RETRY_SECONDS)
    review, version = put_into_production(folder)
    outcome = "promoted" if review.decision.promote else "rejected" if review.rejected else "unchanged"
    summary = f"{review.text()}\n{outcome}; in production: {version or 'nothing'}"
    publish("nightly", summary)
    emit_event(
        f"akgp.release.{outcome}",
        resource={"prefect.resource.id": f"akgp.release.{version or 'none'}"},
        payload={"in production": version, "before": review.production, "reasons": review.decision.reasons},
    )
    if review.rejected and params.load(folder / "params.yaml").release.on_reject == "fail":
        raise release.ReleaseError(f"the new network is rejected: {'; '.join(review.decision.reasons)}")
    return summary


def main() -> None:
    argparse.ArgumentParser(
        prog="python -m flows.nightly",
        description="Read the images again, retrain if they changed, release what passes the gate.",
    ).parse_args()
    start(nightly)


if __name__ == "__main__":
    main()
