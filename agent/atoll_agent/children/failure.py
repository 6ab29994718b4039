"""How a child tells what ended its work.

It imports nothing of the agent: a child that asks the broker should not load all that answers readings.
"""

from __future__ import annotations

from typing import Any

from atoll_contract.errors import AtollError, BundleRejectedError, DigestMismatchError


def failure_line(error: AtollError) -> dict[str, Any]:
    """Return what a child prints when ``error`` ended its work."""
    # Bytes that are not the signed ones say nothing about the release: it is fetched again.
    is_refusal = isinstance(error, BundleRejectedError) and not isinstance(error, DigestMismatchError)
    return {"event": "failed", "is_refusal": is_refusal, "reason": error.reason.value, "detail": error.detail}
