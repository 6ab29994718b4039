"""Who a release is for, and how far it is on them."""

from __future__ import annotations

import pytest

from atoll_contract.errors import Reason
from atoll_contract.messages import (
    Challenge,
    Champion,
    Health,
    Message,
    Refusal,
    SlotStatus,
    Status,
)
from atoll_contract.release import ReleaseTerms
from atoll_contract.topics import SlotTopic, StatusTopic
from atoll_link.cohort import PATIENCE_S, Cohort, Member, Standing, cohort_of, offered
from atoll_link.fleet import MAX_SITES, MAX_SLOTS, Fleet

SHA = {number: f"{number:064x}" for number in range(10)}
TERMS = ReleaseTerms(model="wear", release=5)
OUT = (TERMS, ReleaseTerms(model="wear", release=6))


def champion(release: int) -> Champion:
    return Champion(release=release, sha256=SHA[release], backend="cpu", task="regression")


def challenger(release: int, phase: str = "fetching") -> Challenge:
    return Challenge(release=release, sha256=SHA[release], phase=phase)


def refusal(release: int) -> Refusal:
    return Refusal(
        release=release, sha256=SHA[release], reason=Reason.GOLDEN_MISMATCH, detail="off by 3", time_ms=1.0
    )


def slot(model: str = "wear", **facts: object) -> SlotStatus:
    return SlotStatus.model_validate({"model": model, "time_ms": 1.0, **facts})


def fleet_of(**slots: SlotStatus) -> Fleet:
    """Return a fleet of connected agents with one slot each."""
    fleet = Fleet()
    for name, message in slots.items():
        say(fleet, name, message)
        say(fleet, name, Status(health=Health.READY, session=1, token="t"))
    return fleet


def say(fleet: Fleet, name: str, message: Message, site: str = "plant") -> None:
    is_slot = isinstance(message, SlotStatus)
    topic = SlotTopic(site, name, message.model) if is_slot else StatusTopic(site, name)
    fleet.take(str(topic), message.encode())


def only(fleet: Fleet, terms: ReleaseTerms = TERMS) -> Member:
    [member] = cohort_of(terms, SHA[terms.release], fleet.agents, available=OUT).members
    return member


# Where an agent stands


@pytest.mark.parametrize(
    ("facts", "standing"),
    [
        ({}, Standing.WAITING),
        ({"champion": champion(4)}, Standing.WAITING),
        ({"champion": champion(4), "challenger": challenger(5)}, Standing.UNDERWAY),
        ({"champion": champion(4), "refused": refusal(3)}, Standing.WAITING),
        ({"champion": champion(4), "refused": refusal(5)}, Standing.REFUSED),
        ({"champion": champion(5)}, Standing.RUNS),
        ({"champion": champion(5), "challenger": challenger(6)}, Standing.RUNS),
        ({"champion": champion(6)}, Standing.NEWER),
        ({"champion": champion(4), "challenger": challenger(6)}, Standing.NEWER),
    ],
)
def test_a_slot_tells_where_its_agent_stands(facts: dict[str, object], standing: Standing) -> None:
    assert only(fleet_of(pi=slot(**facts))).standing is standing


def test_a_member_tells_what_holds_it_up_or_why_it_refused() -> None:
    underway = challenger(5).model_copy(update={"reason": Reason.MISSING_CHUNK, "detail": "chunk 3"})

    assert only(fleet_of(pi=slot(challenger=underway))) == Member(
        "plant", "pi", Standing.UNDERWAY, "fetching", Reason.MISSING_CHUNK, "chunk 3"
    )
    assert only(fleet_of(pi=slot(refused=refusal(5)))) == Member(
        "plant", "pi", Standing.REFUSED, None, Reason.GOLDEN_MISMATCH, "off by 3"
    )


def test_an_agent_whose_will_was_published_is_silent_unless_it_has_answered() -> None:
    fleet = fleet_of(away=slot(champion=champion(4)), done=slot(champion=champion(5)))
    for name in ("away", "done"):
        say(fleet, name, Status(health=Health.OFFLINE, session=1, token="t"))

    members = cohort_of(TERMS, SHA[5], fleet.agents).members

    assert [(member.agent, member.standing) for member in members] == [
        ("away", Standing.SILENT),
        ("done", Standing.RUNS),
    ]


@pytest.mark.parametrize("facts", [{"champion": champion(6)}, {"challenger": challenger(6)}])
def test_a_newer_release_that_is_not_out_any_more_is_no_answer(facts: dict[str, object]) -> None:
    fleet = fleet_of(pi=slot(**facts))
    for_others = OUT[1].model_copy(update={"channel": "canary"})

    for available in ([TERMS], [TERMS, for_others]):
        [member] = cohort_of(TERMS, SHA[5], fleet.agents, available=available).members
        assert member.standing is Standing.WAITING


def test_one_that_was_heard_and_fell_silent_is_lost_and_ended_by_the_release_when_it_tried_it() -> None:
    fleet = fleet_of(
        done=slot(champion=champion(5)),
        loading=slot(challenger=challenger(5)),
        refused=slot(refused=refusal(5)),
        trying=slot(challenger=challenger(5, "shadow")),
        unheard=slot(),
        waiting=slot(),
    )
    for agent in fleet.agents:
        say(fleet, agent.name, Status(health=Health.OFFLINE, session=1, token="t"))
    heard = ("done", "loading", "refused", "trying", "waiting")

    def cohort_after(seconds: float) -> Cohort:
        silent_s = dict.fromkeys(heard, seconds)
        return cohort_of(TERMS, SHA[5], fleet.agents, silent_s=silent_s)

    soon, late = cohort_after(PATIENCE_S - 1), cohort_after(PATIENCE_S)
    standings = ["lost", "lost", "refused", "lost", "silent", "lost"]
    assert [member.standing for member in soon.members] == standings
    assert [member.standing for member in late.members] == standings
    assert [member.agent for member in soon.members if member.is_refusal] == ["refused"]
    assert [member.agent for member in late.members if member.is_refusal] == ["refused", "trying"]
    assert (soon.refused_share, late.refused_share) == (1 / 5, 2 / 5)
    assert dict(late.refusals()) == {Reason.GOLDEN_MISMATCH: 1, Reason.ACTIVATION_CRASHED: 1}
    assert not soon.is_settled
    assert not late.is_settled


def test_a_will_of_an_earlier_connection_silences_nobody() -> None:
    fleet = fleet_of(pi=slot())
    say(fleet, "pi", Status(health=Health.READY, session=8, token="t"))

    say(fleet, "pi", Status(health=Health.OFFLINE, session=7, token="t"))
    assert not fleet.agents[0].is_silent

    say(fleet, "pi", Status(health=Health.OFFLINE, session=1, token="another"))
    assert fleet.agents[0].is_silent


def test_an_agent_whose_session_numbers_begin_anew_is_heard() -> None:
    fleet = fleet_of(pi=slot())
    say(fleet, "pi", Status(health=Health.OFFLINE, session=40, token="t"))

    say(fleet, "pi", Status(health=Health.READY, session=3, token="t"))

    assert not fleet.agents[0].is_silent


def test_whoever_writes_below_many_sites_or_for_many_models_fills_no_memory() -> None:
    fleet = fleet_of(other=slot())

    for number in range(MAX_SITES + 5):
        say(fleet, "pi", slot(), site=f"site-{number}")
    for number in range(MAX_SLOTS + 5):
        say(fleet, "other", slot(f"model-{number}"))

    assert len(fleet) == 1 + MAX_SITES
    assert fleet.find("site-4", "pi") is None
    assert fleet.find("site-20", "pi") is not None
    assert len(fleet.find("plant", "other").slots) == MAX_SLOTS
    assert fleet.malformed == 5 + 6


# Who has a vote


def test_an_id_has_one_vote_however_many_sites_it_writes_below() -> None:
    fleet = fleet_of(honest=slot(champion=champion(5)), moved=slot(refused=refusal(5)))
    say(fleet, "moved", Status(health=Health.OFFLINE, session=1, token="t"))
    say(fleet, "moved", slot(champion=champion(5)), site="new-plant")
    say(fleet, "moved", Status(health=Health.READY, session=2, token="t"), site="new-plant")
    for number in range(50):
        say(fleet, "honest", slot(refused=refusal(5)), site=f"x{number}")

    members = cohort_of(TERMS, SHA[5], fleet.agents).members

    assert [(member.site, member.agent, member.standing) for member in members] == [
        ("new-plant", "moved", Standing.RUNS),
        ("plant", "honest", Standing.RUNS),
    ]
    assert set(fleet.at_several_sites) == {"honest", "moved"}
    assert fleet.at_several_sites["moved"] == ["new-plant", "plant"]


@pytest.mark.parametrize("status", [None, Status(health=Health.READY, session=1)])
def test_a_slot_without_a_status_that_has_a_token_counts_nothing(status: Status | None) -> None:
    fleet = Fleet()
    say(fleet, "pi", slot(refused=refusal(5)))
    if status is not None:
        say(fleet, "pi", status)

    assert cohort_of(TERMS, SHA[5], fleet.agents).members == ()


# Whom it is for


def test_only_agents_with_the_model_that_follow_the_channel_are_in_the_cohort() -> None:
    fleet = fleet_of(
        stable=slot(), canary=slot(channel="canary"), other=slot(model="pump", channel="canary"), plain=slot()
    )
    canary = TERMS.model_copy(update={"channel": "canary"})

    assert {member.agent for member in cohort_of(TERMS, SHA[5], fleet.agents).members} == {
        "stable",
        "canary",
        "plain",
    }
    assert only(fleet, canary).agent == "canary"


def test_a_share_takes_the_agents_that_the_hash_includes() -> None:
    fleet = fleet_of(**{f"pi{number}": slot() for number in range(200)})
    terms = TERMS.model_copy(update={"rollout_percent": 10, "rollout_salt": "salt"})

    members = {member.agent for member in cohort_of(terms, SHA[5], fleet.agents).members}

    assert members == {f"pi{number}" for number in range(200) if terms.includes(f"pi{number}")}
    assert 8 <= len(members) <= 35


def test_an_agent_is_offered_the_highest_release_that_is_for_it() -> None:
    releases = [
        ReleaseTerms(model="wear", release=3),
        ReleaseTerms(model="wear", release=4, channel="canary"),
        ReleaseTerms(model="wear", release=5, rollout_percent=0),
        ReleaseTerms(model="pump", release=9),
    ]

    assert offered(slot(), "pi", releases) == releases[0]
    assert offered(slot(channel="canary"), "pi", releases) == releases[1]
    assert offered(slot(model="other"), "pi", releases) is None


# Judging


def cohort(*standings: Standing) -> Cohort:
    return Cohort(tuple(Member("plant", f"pi{number}", at) for number, at in enumerate(standings)))


def test_silent_agents_neither_hold_up_a_rollout_nor_water_down_its_refusals() -> None:
    one = cohort(Standing.RUNS, Standing.REFUSED, Standing.SILENT, Standing.SILENT)

    assert one.is_settled
    assert one.refused_share == 0.5
    assert cohort().is_settled
    assert cohort(Standing.SILENT).refused_share == 0.0
    assert cohort(Standing.SILENT).heard == 0


@pytest.mark.parametrize("standing", [Standing.WAITING, Standing.UNDERWAY, Standing.LOST])
def test_a_rollout_is_not_settled_while_one_has_to_answer(standing: Standing) -> None:
    assert not cohort(Standing.RUNS, standing).is_settled


def test_phases_and_reasons_are_told_each_once() -> None:
    fleet = fleet_of(
        a=slot(challenger=challenger(5)),
        b=slot(challenger=challenger(5)),
        c=slot(challenger=challenger(5, "self_test")),
        d=slot(refused=refusal(5)),
        e=slot(refused=refusal(5)),
    )

    found = cohort_of(TERMS, SHA[5], fleet.agents)

    assert found.phases == ["fetching", "self_test"]
    assert found.refusals() == [(Reason.GOLDEN_MISMATCH, 2)]


# What cannot be read


def test_what_is_no_status_is_counted_and_ignored() -> None:
    fleet = fleet_of(pi=slot(champion=champion(5)))

    fleet.take("atoll/v1/plant/pi/status", b"no json")
    fleet.take("atoll/v1/plant/pi/slot/wear", b"{}")
    fleet.take("somebody/else", b"{}")
    fleet.take("atoll/v1/plant/pi/slot/pump", b"")

    assert fleet.malformed == 3
    assert only(fleet).standing is Standing.RUNS


def test_what_a_terminal_would_obey_is_not_taken_over() -> None:
    evil = "\x1b[2J\n\u202eback °C"
    refused = refusal(5).model_copy(update={"detail": evil})
    fleet = fleet_of(pi=slot(refused=refused, challenger=challenger(6, evil)))
    say(fleet, "pi", Status(health=Health.READY, session=2, token="t", detail=evil, counts={evil: 1}))

    [agent] = fleet.agents
    found = agent.slots["wear"]

    assert found.refused is not None
    assert found.refused.reason is Reason.GOLDEN_MISMATCH
    assert found.challenger is not None
    assert agent.status is not None
    for text in (found.refused.detail, found.challenger.phase, agent.status.detail, *agent.status.counts):
        assert text == " [2J  back °C"


def test_a_topic_that_was_cleared_says_nothing_any_more() -> None:
    fleet = fleet_of(pi=slot())

    fleet.take("atoll/v1/plant/pi/slot/wear", b"")
    fleet.take("atoll/v1/plant/pi/status", b"")

    assert cohort_of(TERMS, SHA[5], fleet.agents).members == ()
    assert fleet.agents[0].is_silent
