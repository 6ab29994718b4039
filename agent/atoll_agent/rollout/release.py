"""Which release a device should run, from what the trainer signed.

The highest release of the model that is not known to be bad, whose channel is the device's own or
``stable``, and whose rollout includes the device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from atoll_contract.release import CHUNK_BYTES, STABLE, is_in_rollout


@dataclass(frozen=True, slots=True)
class Release:
    """One release as the verified metadata describe it.

    Attributes:
        model: Id of the model.
        release: Its number.
        sha256: Digest of the bundle.
        length: Size of the bundle in bytes.
        channel: ``stable``, or the name of a channel.
        rollout_percent: Share of the devices that it is for, 0 to 100.
        rollout_salt: Makes the share differ from release to release.
        chunk_size: Bytes per chunk topic.
        max_delay_s: Longest random delay before a device fetches it.
    """

    model: str
    release: int
    sha256: str
    length: int
    channel: str = STABLE
    rollout_percent: int = 100
    rollout_salt: str = ""
    chunk_size: int = CHUNK_BYTES
    max_delay_s: int = 0

    def includes(self, agent: str) -> bool:
        """Whether the rollout includes ``agent``."""
        return is_in_rollout(agent, percent=self.rollout_percent, salt=self.rollout_salt)

    def is_same(self, other: Release | None) -> bool:
        """Whether ``other`` is this release, be it under other terms: channel, share, delay, chunks."""
        return other is not None and (self.release, self.sha256) == (other.release, other.sha256)


def choose(
    releases: Iterable[Release], *, model: str, agent: str, channel: str, bad: Collection[str]
) -> Release | None:
    """Return the release that ``agent`` should run for ``model``, or None when there is none.

    ``bad`` holds the digests that this device has refused.
    """
    candidates = [
        release
        for release in releases
        if release.model == model
        and release.sha256 not in bad
        and release.channel in {channel, STABLE}
        and release.includes(agent)
    ]
    return max(candidates, key=lambda release: release.release, default=None)
