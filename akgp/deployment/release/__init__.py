"""Releases: the int8 networks that were put into production, and the gate a new one must pass.

`store` keeps them (`records`: what they hold) and moves the pointer; `gate` compares a new network with the
one in production. Neither deploys anything: what reads `current.json` and serves the network is yours.
"""

from akgp.deployment.release.files import ReleaseError
from akgp.deployment.release.gate import Decision, Review, candidate, carry_out, gate, measure, review
from akgp.deployment.release.records import Record, ReleaseCandidate
from akgp.deployment.release.store import (
    POINTER,
    current,
    fetch,
    load,
    place,
    promote,
    releases,
    rollback,
    show,
    source,
)

__all__ = [
    "POINTER",
    "Decision",
    "Record",
    "ReleaseCandidate",
    "ReleaseError",
    "Review",
    "candidate",
    "carry_out",
    "current",
    "fetch",
    "gate",
    "load",
    "measure",
    "place",
    "promote",
    "releases",
    "review",
    "rollback",
    "show",
    "source",
]
