from __future__ import annotations

import re

import pytest

from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError

GOOD = (
    '[agent]\nid = "pi"\nsite = "s"\n[[stream]]\nname = "press"\nvalues = { x = {} }\n'
    '[[model]]\nname = "wear"\nstream = "press"\n'
)
RULE = '[[rule]]\nname = "hot"\nmodel = "wear"\n'


def read(tmp_path, text: str) -> AgentSettings:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD + text)
    return AgentSettings.read(path)


def faults(tmp_path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return [re.sub(r"^.*agent\.toml:\d+: ", "", fault) for fault in caught.value.faults]


def test_all_that_can_be_said_is_read(tmp_path):
    settings = read(
        tmp_path,
        "report = { dead_band = 0.5, at_least_every_s = 60 }\n"
        f"{RULE}when = {{ above = 0.8, clear = 0.6, at_least = 3, of = 5, for_s = 30 }}\n"
        'cool_down_s = 300\ncleared_for_s = 10\ndevices = ["a", "b"]\nmax_age_s = 5\n'
        'group = { name = "hall", combine = "count", count = 2 }\n'
        '[[rule.command]]\nname = "stop"\ndevice = "fan"\nvalue = true\nexpires_s = 5\n'
        '[[rule.command]]\non = "cleared"\ntopic = "fan/set"\npayload = { at = "${time_ms}" }\n',
    )

    rule = settings.rule[0].build("s", "pi")
    assert (rule.needed, rule.among, rule.hold_s, rule.max_age_ms) == (3, 5, 30, 5000)
    assert [plan.topic.content for plan in rule.plans] == ["atoll/v1/s/pi/command/fan/stop", "fan/set"]
    assert rule.plans[0].value is True
    band = settings.model[0].report.build()
    assert (band.absolute, band.at_least_every_ms) == (0.5, 60_000)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("when = {}", "one of above"),
        ("when = { above = 1, below = 0 }", "one of above"),
        ("when = { above = 1, clear = 2 }", "clear must not be higher"),
        ("when = { below = 1, clear = 0 }", "clear must not be lower"),
        ('when = { label = "x", clear = 0 }', "clear goes with"),
        ("when = { anomaly = false }", "when.anomaly"),
        ("when = { above = 1, of = 5 }", "of needs at_least"),
        ("when = { above = 1, at_least = 6, of = 5 }", "more than of"),
        ("when = { above = 1, at_least = 0 }", "at_least"),
        ("when = { above = nan }", "when.above"),
        ("when = { over = 1 }", "unknown key"),
        ('when = { anomaly = true }\ngroup = { name = "g", combine = "mean" }', "mean of a group"),
        ('when = { above = 1 }\ngroup = { name = "g", combine = "count" }', "count and combine"),
        ('when = { above = 1 }\ngroup = { name = "g", combine = "any", count = 1 }', "count and combine"),
        (
            'when = { above = 1 }\ndevices = ["a"]\ngroup = { name = "g", combine = "count", count = 2 }',
            "of 1 devices",
        ),
        (
            'when = { above = 1 }\ngroup = { name = "g", combine = "any" }\ncommand = [{ name = "x" }]',
            "needs a device",
        ),
        ("when = { above = 1 }\ncommand = [{}]", "needs a name"),
        ('when = { above = 1 }\ncommand = [{ name = "x", payload = "y" }]', "payload belongs"),
        ('when = { above = 1 }\ncommand = [{ topic = "x" }]', "needs a payload"),
        ('when = { above = 1 }\ncommand = [{ topic = "x", name = "y", payload = "z" }]', "name: not with"),
        ('when = { above = 1 }\ncommand = [{ topic = "x/#", payload = "z" }]', "holds one of"),
        ('when = { above = 1 }\ncommand = [{ topic = "atoll/v1/x", payload = "z" }]', "name and device"),
        ('when = { above = 1 }\ncommand = [{ topic = "${nobody}", payload = "z" }]', "unknown place"),
        ("when = { above = 1 }\ncommand = [{ topic = 'x', payload = '{\"a\": ' }]", "write a table"),
        (
            'when = { above = 1 }\ncommand = [{ topic = "x", payload = { t = 1979-05-27 } }]',
            "write it as text",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_told(tmp_path, text, told):
    (fault,) = faults(tmp_path, f"{RULE}{text}\n")

    assert fault.startswith("rule[0]")
    assert told in fault


def test_all_faults_are_told_at_once_also_those_between_rules(tmp_path):
    found = faults(
        tmp_path,
        "report = { dead_band = -1 }\n"
        f"{RULE}when = {{ above = 1 }}\n{RULE}when = {{}}\n"
        '[[rule]]\nname = "cold"\nmodel = "nobody"\nwhen = { below = 1 }\nmax_age_s = 0\n',
    )

    assert [fault.split(":")[0] for fault in found] == [
        "model[0].report.dead_band",
        "rule[1].name",
        "rule[1].when",
        "rule[2].model",
        "rule[2].max_age_s",
    ]


@pytest.mark.parametrize("rubbish", ["rule = 5", "rule = [1]", 'rule = "x"', "[rule]\nname = 5"])
def test_rubbish_in_the_place_of_rules_is_told(tmp_path, rubbish):
    path = tmp_path / "agent.toml"
    path.write_text(f"{rubbish}\n{GOOD}" if not rubbish.startswith("[") else f"{GOOD}{rubbish}\n")

    with pytest.raises(ConfigError):
        AgentSettings.read(path)
