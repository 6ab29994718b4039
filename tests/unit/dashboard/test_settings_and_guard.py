"""Who may see a dashboard, and which settings are refused."""

from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.requests import Response
from atoll_dashboard.asking import Asking
from atoll_dashboard.cli import main
from atoll_dashboard.guard import COOKIE, Guard, Logins, local_names
from atoll_dashboard.settings import DashboardSettings

PASSWORD = "correct horse"


@pytest.fixture
def password_file(tmp_path):
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return path


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Browser:
    """Asks a guard as a browser would, and keeps its cookie."""

    def __init__(self, logins: Logins | None, names: frozenset[str] = frozenset(), *, is_secure=False):
        self.cookie = ""
        self.guard = Guard(self._app, logins=logins, names=names, is_secure=is_secure)

    @staticmethod
    async def _app(scope, _receive, send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"inside"})
        else:
            await send({"type": "websocket.accept"})

    def ask(self, path="/", *, method="GET", body=b"", kind="http", **headers):
        """Return the status, or what happened to the WebSocket, and the headers."""
        given = {"host": "localhost:8080", "accept": "text/html", "cookie": self.cookie, **headers}
        scope = {
            "type": kind, "method": method, "path": path, "query_string": b"", "client": ("10.0.0.9", 5),
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "scheme": "http", "server": ("localhost", 8080), "root_path": "", "http_version": "1.1",
        }  # fmt: skip
        sent = []

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        asyncio.run(self.guard(scope, receive, send))
        first = sent[0]
        answered = {name.decode(): value.decode() for name, value in first.get("headers", [])}
        if "set-cookie" in answered:
            self.cookie = answered["set-cookie"].split(";")[0]
        return first.get("status", first["type"]), answered

    def log_in(self, password: str):
        return self.ask("/login", method="POST", body=urlencode({"password": password}).encode())


def test_nobody_gets_in_without_the_password(password_file):
    browser = Browser(Logins(password_file, 3600))

    assert browser.ask("/")[0] == 303
    assert browser.ask("/_nicegui/x.js", accept="*/*")[0] == 401
    assert browser.ask("/_nicegui_ws/", kind="websocket")[0] == "websocket.close"
    assert browser.log_in("wrong")[0] == 401
    assert browser.ask("/")[0] == 303


def test_the_password_opens_pages_and_websocket_until_the_session_ends(password_file):
    clock = Clock()
    browser = Browser(Logins(password_file, 3600, clock), is_secure=True)
    status, headers = browser.log_in(PASSWORD)

    assert status == 303
    assert {"HttpOnly", "SameSite=strict", "Secure"} <= set(headers["set-cookie"].split("; "))
    assert headers["x-frame-options"] == "DENY"
    assert browser.cookie.startswith(COOKIE)
    assert PASSWORD not in headers["set-cookie"]
    assert browser.ask("/")[0] == 200
    assert browser.ask("/_nicegui_ws/", kind="websocket")[0] == "websocket.accept"
    clock.now_s = 3601.0
    assert browser.ask("/")[0] == 303


def test_who_logs_out_is_out(password_file):
    browser = Browser(Logins(password_file, 3600))
    browser.log_in(PASSWORD)

    assert browser.ask("/logout", method="POST")[0] == 303
    assert browser.ask("/")[0] == 303


def test_five_wrong_passwords_do_not_close_the_door_to_others(password_file):
    logins = Logins(password_file, 3600)
    for _ in range(5):
        logins.enter("wrong", "10.0.0.1")

    assert logins.enter(PASSWORD, "10.0.0.1") is None
    assert logins.enter(PASSWORD, "10.0.0.2") is not None


def test_another_password_ends_all_sessions(password_file):
    logins = Logins(password_file, 3600)
    token = logins.enter(PASSWORD, "10.0.0.1")
    assert logins.knows(token)
    password_file.write_text("another horse\n")

    assert not logins.knows(token)


def test_an_open_page_ends_with_the_login(password_file):
    clock = Clock()
    browser = Browser(Logins(password_file, 3600, clock))
    browser.log_in(PASSWORD)
    heard, sent = [], []

    async def app(_scope, receive, send) -> None:
        await send({"type": "websocket.accept"})
        heard.append((await receive())["type"])
        clock.now_s = 3601.0
        heard.append((await receive())["type"])

    async def receive():
        return {"type": "websocket.receive", "text": "2"}

    async def send(message):
        sent.append(message)

    browser.guard._app = app
    headers = [(b"host", b"localhost:8080"), (b"cookie", browser.cookie.encode())]
    asyncio.run(browser.guard({"type": "websocket", "headers": headers}, receive, send))

    assert heard == ["websocket.receive", "websocket.disconnect"]
    assert sent[-1] == {"type": "websocket.close", "code": 4401}


def test_five_wrong_passwords_close_the_door_for_a_minute(password_file):
    clock = Clock()
    browser = Browser(Logins(password_file, 3600, clock))
    for _ in range(5):
        browser.log_in("wrong")

    assert browser.log_in(PASSWORD)[0] == 429
    clock.now_s = 61.0
    assert browser.log_in(PASSWORD)[0] == 303


def test_a_password_that_changes_counts_at_the_next_login(password_file):
    browser = Browser(Logins(password_file, 3600))
    password_file.write_text("another")

    assert browser.log_in(PASSWORD)[0] == 401
    assert browser.log_in("another")[0] == 303
    password_file.unlink()
    assert browser.log_in("another")[0] == 500


def test_a_form_that_is_too_long_is_not_read(password_file):
    browser = Browser(Logins(password_file, 3600))

    assert browser.ask("/login", method="POST", body=b"x" * 5000)[0] == 413


def test_pages_of_others_cannot_ask_for_anything():
    browser = Browser(None, local_names("127.0.0.1"))

    assert browser.ask("/")[0] == 200
    assert browser.ask("/", host="evil.example")[0] == 421
    assert (
        browser.ask("/_nicegui_ws/", kind="websocket", origin="http://evil.example")[0] == "websocket.close"
    )
    assert (
        browser.ask("/_nicegui_ws/", kind="websocket", origin="http://localhost:8080")[0]
        == "websocket.accept"
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[web]\nhost = "0.0.0.0"', "password_file is needed"),
        ('[web]\ncert_file = "x.pem"', "cert_file and key_file go together"),
        ('[operate]\nrequests = ["reboot"]', "operate.requests"),
        ("[dashbord]\n", "dashbord"),
    ],
)
def test_wrong_settings_are_refused_with_file_and_key(tmp_path, capsys, text, fault):
    path = tmp_path / "dashboard.toml"
    path.write_text(f'[dashboard]\nsite = "plant-a"\n{text}\n')

    assert main(["--settings", str(path), "--check"]) == 78
    assert f"{path}" in (told := capsys.readouterr().err)
    assert fault in told


def test_the_shipped_settings_make_sense(capsys):
    from pathlib import Path

    assert main(["--settings", str(Path(__file__).parents[3] / "config/dashboard.toml"), "--check"]) == 0
    assert "http://127.0.0.1:8080" in capsys.readouterr().out


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "nicegui", None)

    assert main(["--site", "plant-a"]) == 2
    assert "atoll[dashboard]" in capsys.readouterr().err


def test_a_port_that_is_taken_is_a_fault_of_the_settings(tmp_path):
    import socket

    from atoll_dashboard.settings import WebTable
    from atoll_dashboard.web import require_free

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="nobody can listen"):
            require_free(WebTable(port=taken.getsockname()[1]))


def test_streams_on_atolls_own_topics_need_no_reader_of_their_own(tmp_path):
    path = tmp_path / "dashboard.toml"
    path.write_text(
        '[dashboard]\nsite = "plant-a"\n[[stream]]\nname = "press"\nvalues = { x = {} }\n'
        '[[stream]]\nname = "climate"\npreset = "zigbee2mqtt"\nvalues = { temperature = {} }\n'
    )

    assert [stream.name for stream in DashboardSettings.read(path).foreign] == ["climate"]


def test_a_request_is_answered_once_and_only_if_it_was_made():
    asking = Asking("plant-a", "dashboard", "trainer", frozenset({"withdraw"}), 60.0)
    topic, request = asking.ask("withdraw", "wear", 2, 1000.0)

    assert str(topic) == "atoll/v1/plant-a/dashboard/request/trainer/withdraw"
    assert request.arguments == {"model": "wear", "release": 2.0}
    assert asking.asked[0].outcome(2000.0) == "waits for an answer"
    assert asking.asked[0].outcome(99_000.0).startswith("no answer")
    assert asking.take(Response(id="stranger", time_ms=1.0, done=True).encode()) is None
    answered = asking.take(Response(id=request.id, time_ms=1.0, done=False, detail="not out").encode())
    assert answered is not None
    assert answered.outcome(2000.0) == "refused: not out"
    assert asking.take(Response(id=request.id, time_ms=1.0, done=True).encode()) is None
    with pytest.raises(ValueError, match="promote"):
        asking.ask("promote", "wear", 2, 1000.0)
    with pytest.raises(MalformedMessageError):
        asking.take(b"{}")
