"""release: where released networks are kept, and the gate before them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from akgp.params.base import Address, Section


class Release(Section):
    """Releases, and the gate that a new int8 network must pass. Not part of what any stage computes."""

    releases: Address = Field(
        "releases", description="where released networks are kept: a directory or s3:// prefix"
    )
    max_drop: Annotated[float, Field(ge=0, le=100)] = Field(
        0.5, description="points of top-1 that a new network may be worse than the one in production"
    )
    max_bytes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="largest model.onnx that is promoted, bytes; null: any"
    )
    max_latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="longest inference at batch 1 that is promoted, ms, as evaluate times it; null: any"
    )
    on_reject: Literal["keep", "fail"] = Field(
        "keep", description="keep | fail: the old network stays, and with fail the flow ends as failed"
    )
