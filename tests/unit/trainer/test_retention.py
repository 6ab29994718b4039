"""No release goes that a device runs by the signed terms, or would go back to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll_contract.release import STABLE, ReleaseTerms
from atoll_trainer.retention import is_for_all, superseded


def release(number: int, channel: str = STABLE, percent: int = 100) -> ReleaseTerms:
    return ReleaseTerms(
        model="press", release=number, channel=channel, rollout_percent=percent, rollout_salt=str(number)
    )


def dropped(*releases: ReleaseTerms) -> list[int]:
    return [terms.release for terms in superseded(releases)]


def test_three_of_each_channel_stay() -> None:
    assert dropped(*(release(number) for number in range(1, 6))) == [1, 2]
    assert dropped(*(release(number, "canary") for number in range(1, 6))) == [1, 2]


def test_a_release_of_one_channel_is_not_pushed_out_by_another() -> None:
    assert (
        dropped(release(1), release(2, "east"), *(release(number, "canary") for number in range(3, 6))) == []
    )


def test_a_stable_release_takes_the_place_of_what_the_channels_ran() -> None:
    canaries = [release(number, "canary") for number in range(2, 6)]

    assert dropped(release(1), *canaries) == [2]
    assert dropped(release(1), *canaries, release(6)) == [2]


def test_shares_leave_what_the_other_devices_run() -> None:
    shares = [release(number, percent=10) for number in range(2, 9)]

    assert dropped(release(1), *shares) == []
    assert dropped(release(1), *shares, release(9)) == [2, 3, 4, 5, 6]


_TERMS = st.tuples(st.sampled_from([STABLE, "canary", "east"]), st.sampled_from([0, 10, 50, 100]))


@given(st.lists(_TERMS, max_size=12))
def test_no_device_is_offered_another_release_than_before(drawn: list[tuple[str, int]]) -> None:
    releases = [release(number, *terms) for number, terms in enumerate(drawn, 1)]
    left = [terms for terms in releases if terms not in superseded(releases)]

    for channel in (STABLE, "canary", "east", "west"):
        for agent in ("pi1", "pi2", "pi3"):
            assert _offered(left, agent, channel) == _offered(releases, agent, channel)
    for_all = [terms for terms in releases if is_for_all(terms)]
    assert set(for_all[-2:]) <= set(left)


def _offered(releases: list[ReleaseTerms], agent: str, channel: str) -> ReleaseTerms | None:
    mine = [terms for terms in releases if terms.channel in {channel, STABLE} and terms.includes(agent)]
    return mine[-1] if mine else None
