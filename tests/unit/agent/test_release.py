from __future__ import annotations

from dataclasses import replace

from atoll_agent.rollout.release import Release, choose

BASE = Release("wear", 1, "a" * 64, 10)


def chosen(*releases: Release, **asked) -> int | None:
    asked = {"model": "wear", "agent": "pi", "channel": "stable", "bad": frozenset(), **asked}
    found = choose(releases, **asked)
    return found and found.release


def test_the_highest_release_of_the_model_is_chosen():
    assert chosen(BASE, replace(BASE, release=3), replace(BASE, release=9, model="other")) == 3


def test_a_bad_digest_is_passed_over():
    assert chosen(BASE, replace(BASE, release=2, sha256="b" * 64), bad={"b" * 64}) == 1


def test_another_channel_is_for_others():
    canary = replace(BASE, release=2, channel="canary")

    assert chosen(BASE, canary) == 1
    assert chosen(BASE, canary, channel="canary") == 2


def test_a_device_on_a_channel_takes_stable_releases_too():
    assert chosen(BASE, channel="canary") == 1


def test_a_rollout_by_percent_includes_a_stable_share():
    half = replace(BASE, rollout_percent=50, rollout_salt="s")
    included = {agent for agent in map(str, range(1000)) if half.includes(agent)}

    assert 400 < len(included) < 600
    assert included == {agent for agent in map(str, range(1000)) if half.includes(agent)}
    assert included <= {a for a in map(str, range(1000)) if replace(half, rollout_percent=80).includes(a)}


def test_none_and_all_are_exact():
    assert not any(replace(BASE, rollout_percent=0).includes(str(n)) for n in range(100))
    assert all(replace(BASE, rollout_percent=100).includes(str(n)) for n in range(100))
