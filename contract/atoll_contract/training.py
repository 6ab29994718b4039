"""Where a model comes from, as its bundle tells."""

from __future__ import annotations

from atoll_contract.feature import Part


class Training(Part):
    """Where the model comes from.

    Attributes:
        start_ms: Event time of the first reading learnt from.
        end_ms: Event time of the last one.
        rows: How many windows were learnt from.
        data_sha256: Digest of what was learnt from.
        metrics: Figures on the untouched part, by name (``int8_mae``).
        tools: Versions, by name.
        seed: Of the random numbers.
        settings: What was looked for and what was found, by name (``family``); null: it was not searched for.
        cut: The search was ended by its time limit: the same again may give another model.
    """

    start_ms: float | None = None
    end_ms: float | None = None
    rows: int | None = None
    data_sha256: str | None = None
    metrics: dict[str, float] = {}
    tools: dict[str, str] = {}
    seed: int | None = None
    settings: dict[str, str] | None = None
    cut: bool | None = None
