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

    assert [":".join(fault.split(":")[:3]) for fault in found] == [
        "agent.toml:1: agent.site",
        "agent.toml:2: agent.id",
        "agent.toml:3: agent.sitee",
        "agent.toml:6: broker.port",
        "agent.toml:10: stream[0].topics[0]",
        "agent.toml:10: stream[0].topics[1]",
        "agent.toml:12: stream[1].name",
        "streams.toml:3: stream[0].values",
    ]


def test_a_model_of_a_stream_that_is_nowhere_is_told(tmp_path):
    (tmp_path / "streams.toml").write_text('[[stream]]\nname = "far"\nvalues = { x = {} }\n')

    found = faults(
        tmp_path,
        f'{GOOD}streams_file = "streams.toml"\n[[stream]]\nname = "far"\nvalues = {{ x = {{}} }}\n'
        '[[model]]\nname = "m"\nstream = "far"\n[[model]]\nname = "m"\nstream = "nowhere"\n',
    )

    assert found == [
        "agent.toml:6: stream[0].name: 'far' stands twice",
        "agent.toml:12: model[1].name: 'm' stands twice",
        "agent.toml:13: model[1].stream: there is no stream 'nowhere'",
    ]


@pytest.mark.parametrize("rubbish", ["stream = 5", "model = [1]", 'stream = "x"', "[model]\nname = 5"])
def test_rubbish_in_the_place_of_tables_is_told(tmp_path, rubbish):
    assert faults(tmp_path, f"{rubbish}\n{GOOD}" if not rubbish.startswith("[") else f"{GOOD}{rubbish}\n")


def test_streams_of_their_own_file_count(tmp_path):
    (tmp_path / "streams.toml").write_text('[[stream]]\nname = "far"\nvalues = { x = {} }\n')
    (tmp_path / "agent.toml").write_text(
        f'{GOOD}streams_file = "streams.toml"\n[[model]]\nname = "m"\nstream = "far"\n'
    )

    assert [stream.name for stream in AgentSettings.read(tmp_path / "agent.toml").stream] == ["far"]
