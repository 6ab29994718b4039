"""What the children that talk to the broker share: their request, their connection, their answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from atoll_agent.children import be_a_child
from atoll_contract.topics import MetadataTopic
from atoll_link import logs
from atoll_link.retained import RetainedTopics, open_topics
from atoll_link.session import Broker

_CONNECT_S: Final = 10.0
_MAX_PACKET_BYTES: Final = 2 * 1024 * 1024
"""What is cut off is too long for any release topic."""


def read_request() -> dict[str, Any]:
    """Return the request on stdin; from then on this process is a child of the agent."""
    be_a_child()
    logs.configure()
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    return request


@contextmanager
def opened(request: Mapping[str, Any]) -> Iterator[RetainedTopics]:
    """Connect to the broker that the request names.

    Raises:
        BrokerUnavailableError: Not connected in time.
    """
    facts = request["broker"]
    files = {key: Path(value) for key, value in facts.items() if key.endswith("_file") and value is not None}
    with open_topics(
        Broker(**{**facts, **files}),
        request["client_id"],
        str(MetadataTopic("timestamp.json")),
        timeout_s=_CONNECT_S,
        max_packet_bytes=_MAX_PACKET_BYTES,
    ) as topics:
        yield topics


def answer(line: Mapping[str, object]) -> None:
    """Say ``line`` to the supervisor."""
    print(json.dumps(line), flush=True)  # noqa: T201 - stdout is the channel to the supervisor
