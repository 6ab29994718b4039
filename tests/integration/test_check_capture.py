"""``atoll-agent check --capture`` on a recording as the recorder writes it."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest
from support.bundles import make_bundle, picture_bundle

pytest.importorskip("pyarrow")

from atoll_agent.cli import main
from atoll_link.recording import Kind, Recording, Row

START_MS = 1_730_764_800_000.0
SETTINGS = """
[agent]
id = "pi"
site = "site"
state_dir = "state"
[[stream]]
name = "press"
values = { x = {} }
[[model]]
name = "wear"
stream = "press"
report = { dead_band = 1.5 }
[[rule]]
name = "hot"
model = "wear"
when = { above = 10, for_s = 2 }
command = [{ name = "stop" }, { on = "cleared", topic = "lamp/set", payload = { on = false } }]
"""


def row(second, payload, *, age_s=0.0, **flags):
    """A message that arrived ``second`` seconds after the start."""
    if not isinstance(payload, bytes):
        payload = json.dumps(
            {"time_ms": START_MS + (second - age_s) * 1e3, "values": {"x": payload}}
        ).encode()
    return Row(
        arrival_ms=START_MS + second * 1e3,
        time_ms=None,
        kind=Kind.READING,
        name="press",
        device="press-1",
        topic="atoll/v1/site/press-1/reading/press",
        payload=payload,
        qos=1,
        **flags,
    )


# x: what it was predicted to be is 2 x + 1; it is above 10 from second 1 to 4
ROWS = [
    row(0, 1.0),
    row(1, 6.0),
    row(2, 6.1),
    row(3, 6.2),
    row(3, 6.2, is_duplicate=True),
    row(4, 6.3),
    row(5, b"{"),
    row(6, 1.0),
    row(7, 6.0, age_s=100),
    row(8, 6.0, age_s=100),
    row(9, 6.0, age_s=98),
]


@pytest.fixture
def capture(tmp_path):
    (tmp_path / "agent.toml").write_text(SETTINGS)
    (tmp_path / "wear.atoll").write_bytes(make_bundle().pack())
    with Recording(tmp_path / "recordings") as writer:
        for one in ROWS:
            writer.append(one, now_s=0.0)
    return tmp_path


def check(folder, *options) -> int:
    settings = ["--settings", str(folder / "agent.toml"), "--capture", str(folder / "recordings")]
    return main(["check", *settings, *map(str, options)])


def test_what_would_have_been_decided_and_commanded_is_shown(capture, capsys):
    assert check(capture, "--bundle", capture / "wear.atoll", "--json") == 0

    found = json.loads(capsys.readouterr().out)
    # held from 1 to 3: raised at 3, cleared at 6; what is old at its arrival raises without a command
    decided = [
        (told["state"], told["arrival_ms"] - START_MS, told.get("withheld")) for told in found["decisions"]
    ]
    assert decided == [("raised", 3e3, None), ("cleared", 6e3, None), ("raised", 9e3, "too_old")]
    assert [(told["topic"], told["arrival_ms"] - START_MS) for told in found["commands"]] == [
        ("atoll/v1/site/pi/command/press-1/stop", 3e3),
        ("lamp/set", 6e3),
    ]
    assert json.loads(found["commands"][0]["payload"]) == {"expires_ms": START_MS + 33e3}
    assert found["predictions"] == [
        {"model": "wear", "device": "press-1", "count": 4, "min": 3.0, "max": pytest.approx(13.0)}
    ]
    assert found["counts"]["predictions_suppressed"] == 5
    assert [(one["reason"], one["count"]) for one in found["refusals"]] == [("malformed_payload", 1)]


def test_pictures_are_answered(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra pictures")
    topics = 'topics = ["atoll/v1/site/{device}/reading/press"]\ndialect = "picture"\n'
    (tmp_path / "agent.toml").write_text(SETTINGS.replace("values =", f"{topics}values =", 1))
    (tmp_path / "wear.atoll").write_bytes(picture_bundle().pack())
    payloads = [b"\xff\xd8\xff damaged"]
    for brightness in (7, 90):
        file = io.BytesIO()
        image.new("RGB", (2, 2), (brightness,) * 3).save(file, "PNG")
        payloads.append(file.getvalue())
    with Recording(tmp_path / "recordings") as writer:
        for second, payload in enumerate(payloads):
            writer.append(row(second, payload), now_s=0.0)

    assert check(tmp_path, "--bundle", tmp_path / "wear.atoll", "--json") == 0

    found = json.loads(capsys.readouterr().out)
    (predicted,) = found["predictions"]
    assert (predicted["count"], predicted["min"], predicted["max"]) == (
        2,
        pytest.approx(7),
        pytest.approx(90),
    )
    assert [(one["reason"], one["count"]) for one in found["refusals"]] == [("malformed_payload", 1)]


def test_the_table_says_the_same_of_one_part_of_a_recording(capture, capsys):
    (part,) = (capture / "recordings").glob("*/*/*/*.parquet")

    assert check(capture, "--bundle", capture / "wear.atoll", "--capture", part) == 0

    out = capsys.readouterr().out
    assert "decision  2024-11-05T00:00:03Z hot raised for press-1 at 13.4" in out
    assert 'command   2024-11-05T00:00:06Z lamp/set {"on":false}' in out
    assert "refused   press: 1 for malformed_payload" in out
    assert "in all    3 decisions, 2 commands, 1 withheld" in out


def test_without_a_release_or_with_one_of_another_model_it_says_so(capture, capsys):
    (capture / "other.atoll").write_bytes(make_bundle("other").pack())

    assert check(capture) == 78
    assert check(capture, "--bundle", capture / "other.atoll") == 78

    err = capsys.readouterr().err
    assert "no model has a release here: give --bundle" in err
    assert "of model 'other'" in err


def test_a_folder_or_file_that_is_no_capture_is_told(capture, capsys):
    (capture / "no.parquet").write_bytes(b"no parquet")
    (capture / "empty").mkdir()

    for name in ("nowhere", "empty", "no.parquet"):
        assert check(capture, "--bundle", capture / "wear.atoll", "--capture", capture / name) == 1

    err = capsys.readouterr().err
    assert ["no such folder" in err, "no readings of press" in err, "damaged" in err] == [True] * 3


def test_without_the_extra_it_says_which_one_is_missing(capture):
    code = (
        "import sys; sys.modules['pyarrow'] = None; from atoll_agent.cli import main; "
        "sys.exit(main(['check', '--settings', sys.argv[1], '--capture', sys.argv[2]]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(capture / "agent.toml"), str(capture)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.returncode == 2
    assert "pip install 'atoll[record]'" in ended.stderr
