from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agents import AgentProcess, TrainerHome
from support.site import Site
from support.spy import Spy


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator:
    opened = []

    def make(broker, **agent_options) -> Site:
        trainer = TrainerHome(tmp_path / "trainer", broker.port)
        agent = AgentProcess(tmp_path / "agent", broker.port, trainer.home / "root.json", **agent_options)
        spy = Spy(broker.port, "atoll/v1/site/pi/#").__enter__()
        site = Site(broker, trainer, agent, spy)
        opened.append(site)
        return site

    yield make
    for site in opened:
        site.agent.close()
        site.close()
        site.spy.__exit__(None, None, None)
        print(site.agent.log.read_text()[-8000:] if site.agent.log.exists() else "")  # noqa: T201 - for a failure


@pytest.fixture
def site(any_broker, make_site) -> Site:
    return make_site(any_broker)


@pytest.fixture
def mosquitto_site(mosquitto_broker, make_site) -> Site:
    return make_site(mosquitto_broker)
