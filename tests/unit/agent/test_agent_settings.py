from __future__ import annotations

import pytest

from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError

GOOD = '[agent]\nid = "pi"\nsite = "s"\n'


def faults(tmp_path, text: str) -> list[str]:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        AgentSettings.read(path)
    return [fault.removeprefix(f"{tmp_path}/") for fault in caught.value.faults]


def test_all_mistakes_are_told_at_once_also_those_between_tables_and_files(tmp_path):
    (tmp_path / "streams.toml").write_text('[[stream]]\nname = "far"\nvalues = {}\n')

    found = faults(
        tmp_path,
        '[agent]\nid = "has space"\nsitee = "x"\nstreams_file = "streams.toml"\n[broker]\nport = 99999\n'
        '[[stream]]\nname = "a"\nvalues = { x = {} }\ntopics = ["no{device}", "b/#"]\n'
        '[[stream]]\nname = "a"\nvalues = { x = {} }\n'
        '[[model]]\nname = "m"\nstream = "nowhere"\n',
    )

    keys = [fault.split(": ")[1] for fault in found]
    assert sorted(keys) == sorted(
        [
            "agent.id",
            "agent.site",
            "agent.sitee",
            "broker.port",
            "stream[0].topics[0]",
            "stream[0].topics[1]",
            "stream[0].values",
            "stream",
            "model[0].stream",
        ]
    )
    assert sum(fault.startswith("streams.toml") for fault in found) == 1


@pytest.mark.parametrize("rubbish", ["stream = 5", "model = [1]", 'stream = "x"', "[model]\nname = 5"])
def test_rubbish_in_the_place_of_tables_is_told(tmp_path, rubbish):
    assert faults(tmp_path, f"{rubbish}\n{GOOD}" if not rubbish.startswith("[") else f"{GOOD}{rubbish}\n")


def test_streams_of_their_own_file_count(tmp_path):
    (tmp_path / "streams.toml").write_text('[[stream]]\nname = "far"\nvalues = { x = {} }\n')
    (tmp_path / "agent.toml").write_text(
        f'{GOOD}streams_file = "streams.toml"\n[[model]]\nname = "m"\nstream = "far"\n'
    )

    assert [stream.name for stream in AgentSettings.read(tmp_path / "agent.toml").stream] == ["far"]
