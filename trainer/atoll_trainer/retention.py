"""Which releases of a model stay available. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final

from atoll_contract.release import STABLE, ReleaseTerms

_KEPT: Final = 3
"""So many releases of each channel stay, so that devices can go back."""

_KEPT_FOR_ALL: Final = 2
"""So many of those that are for all: what the fleet runs, and what it goes back to."""


def is_for_all(terms: ReleaseTerms) -> bool:
    """Whether every device is to run this release or a higher one."""
    return (terms.channel, terms.rollout_percent) == (STABLE, 100)


def superseded(releases: Sequence[ReleaseTerms]) -> list[ReleaseTerms]:
    """Return the releases of one model that no device is offered, nor needs to go back to."""
    rising = sorted(releases, key=lambda terms: terms.release)
    kept = {terms.release for terms in [one for one in rising if is_for_all(one)][-_KEPT_FOR_ALL:]}
    by_channel = sorted(rising, key=lambda terms: terms.channel)  # stable: numbers go on rising
    for _, group in groupby(by_channel, lambda terms: terms.channel):
        kept |= {terms.release for terms in list(group)[-_KEPT:]}
    return [terms for terms in rising if terms.release not in kept and not _is_offered(terms, rising)]


def _is_offered(terms: ReleaseTerms, releases: Sequence[ReleaseTerms]) -> bool:
    """Whether some device may be offered it: no higher release is for all that it is for."""
    return not any(
        other.release > terms.release
        and other.rollout_percent == 100  # noqa: PLR2004 - all
        and other.channel in {terms.channel, STABLE}
        for other in releases
    )
