"""Labels of one stream: the truth about windows that were answered, or are about to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from atoll_agent.lane.handover import Handover
from atoll_agent.lane.live_trial import LiveTrial
from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import Label
from atoll_contract.topics import PREFIX, LabelTopic
from atoll_link.session import Delivery


class Labels:
    """Takes in labels. ``counts`` are those of the track.

    Attributes:
        trusted_writers: Whose labels count, besides those of a device about itself.
    """

    def __init__(self, site: str, stream: str, counts: Counter[str], handover: Handover | None) -> None:
        self.trusted_writers: frozenset[str] = frozenset()
        self._own_topics = f"{PREFIX}/{site}/"
        self._stream = stream
        self._counts = counts
        self._handover = handover
        self._taken: list[tuple[str, str, Label]] = []

    def is_one(self, topic: str) -> bool:
        """Whether a message on ``topic`` is a label."""
        return topic.startswith(self._own_topics) and topic.split("/")[4:5] == ["label"]

    def take(self, delivery: Delivery) -> None:
        """Take in a label.

        Raises:
            MalformedMessageError: It is none, or not from somebody whose labels count.
        """
        if not delivery.payload:
            return  # by it atoll-agent doctor sees whether labels arrive
        topic = LabelTopic.parse(delivery.topic)
        if delivery.is_retained:
            raise MalformedMessageError("a retained label", Reason.RETAINED)
        if topic.source != topic.device and topic.source not in self.trusted_writers:
            detail = f"label: {topic.source!r} is not in trusted_writers"
            raise MalformedMessageError(detail, Reason.UNTRUSTED_WRITER)
        label = Label.decode(delivery.payload)
        self._counts["labels"] += 1
        if label.stream in {None, self._stream}:
            self._taken.append((topic.model, topic.device, label))
            if self._handover is not None:
                self._handover.tell(topic.model, topic.device, label)

    def join(self, trials: Mapping[str, LiveTrial]) -> None:
        """Tell ``trials``, by model: labels that came with their readings find these at least asked about."""
        for model, device, label in self._taken:
            if (trial := trials.get(model)) is not None:
                trial.label(device, label)
        self._taken.clear()
