"""Which devices a share takes is part of the contract: agents and trainer must agree for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_agent.rollout.release import Release
from atoll_contract.release import ReleaseTerms, is_in_rollout

# The least percent that includes the agent: SHA-256 of "salt:agent", first 8 bytes, modulo 100, plus 1.
LEAST = {
    ("", "pi"): 65,
    ("salt", "pi"): 82,
    ("salt", "pump-7"): 11,
    ("0123456789abcdef", "pump-7"): 54,
    ("0123456789abcdef", "a" * 48): 7,
}
agents = st.from_regex(r"\A[A-Za-z0-9_-]{1,48}\Z")


@pytest.mark.parametrize(("salt", "agent"), LEAST)
def test_the_hash_stays_as_it_is(salt: str, agent: str) -> None:
    least = LEAST[salt, agent]

    assert not is_in_rollout(agent, percent=least - 1, salt=salt)
    assert is_in_rollout(agent, percent=least, salt=salt)


@given(agents, st.text(max_size=64), st.integers(0, 100))
def test_a_share_that_grows_keeps_its_agents(agent: str, salt: str, percent: int) -> None:
    if is_in_rollout(agent, percent=percent, salt=salt):
        assert all(is_in_rollout(agent, percent=more, salt=salt) for more in range(percent, 101))
    assert is_in_rollout(agent, percent=100, salt=salt)
    assert not is_in_rollout(agent, percent=0, salt=salt)


@given(agents, st.text(max_size=64), st.integers(0, 100))
def test_trainer_and_agent_take_the_same_devices(agent: str, salt: str, percent: int) -> None:
    terms = ReleaseTerms(model="wear", release=1, rollout_percent=percent, rollout_salt=salt)
    release = Release("wear", 1, "ab" * 32, 1, rollout_percent=percent, rollout_salt=salt)

    assert terms.includes(agent) is release.includes(agent)
