"""The settings files of a world: what a user would write to let atoll act in it."""

from __future__ import annotations

from atoll_link.broker import Broker
from atoll_sim.worlds.scenario import AGENT, SITE, Scenario


def texts(scenario: Scenario, broker: Broker, web_port: int = 8080) -> dict[str, str]:
    """Return the content of each file, by its name; ``web_port`` is the dashboard's."""
    address = f'[broker]\nhost = "{broker.host}"\nport = {broker.port}\n'
    found = {
        "streams.toml": scenario.streams,
        "agent.toml": f"""\
[agent]
id = "{AGENT}"
site = "{SITE}"
state_dir = "agent"
clock = "trusted"
streams_file = "streams.toml"
status_interval_s = 1.0

{address}
{scenario.models}""",
        "trainer.toml": f"""\
[trainer]
id = "trainer"
site = "{SITE}"
home = "trainer"
streams_file = "streams.toml"

{address}""",
        "dashboard.toml": f"""\
[dashboard]
site = "{SITE}"
streams_file = "streams.toml"

[web]
port = {web_port}

{address}""",
    }
    tasks = {f"{lesson.model}.toml": lesson.task for lesson in scenario.lessons if lesson.task is not None}
    return found | tasks
