"""Who may see the pages: a login by password, and only names that this server is meant to have.

It stands before everything that is served, the WebSocket among it. Without a password only this
machine can reach the server, and a name in ``Host`` that is not this machine's is refused: a page of
somebody else could make a browser ask us by a name of its own (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import html
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from atoll_contract.errors import ConfigError

COOKIE: Final = "atoll_login"
_LOGIN: Final = "/login"
_LOGOUT: Final = "/logout"
_MOST_SESSIONS: Final = 256
_MOST_FORM_BYTES: Final = 4096
_ATTEMPTS: Final = 5
"""Wrong passwords in a minute from one address; then nobody there is let in until it is over."""
_MOST_ADDRESSES: Final = 1024
_MINUTE_S: Final = 60.0
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_POLICY: Final = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Other sites learn nothing; our own forms say where they come from, and "null" is never ours.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def read_password(path: Path) -> str:
    """Return the password in ``path``.

    Raises:
        ConfigError: The file cannot be read, or holds none.
    """
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{path}: the password cannot be read: {why}") from None
    if not password:
        raise ConfigError(f"{path}: there is no password in it")
    return password


class Logins:
    """Sessions of people who gave the password; they end with it.

    Args:
        password_file: Where the password stands; read anew when it changes.
        session_s: How long a login lasts.
        clock: Seconds that only grow.
    """

    def __init__(
        self, password_file: Path, session_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._password_file = password_file
        self._session_s = session_s
        self._clock = clock
        self._stamp: tuple[int, int, int] | None = None
        self._sessions: OrderedDict[str, float] = OrderedDict()
        self._wrong: OrderedDict[str, list[float]] = OrderedDict()

    def is_closed(self, address: str) -> bool:
        """Whether too many wrong passwords came from there just now."""
        now_s = self._clock()
        latest = [at_s for at_s in self._wrong.pop(address, ()) if now_s - at_s < _MINUTE_S]
        if latest:
            self._wrong[address] = latest
        return len(latest) >= _ATTEMPTS

    def enter(self, password: str, address: str) -> str | None:
        """Return the token of a new session; None: that is not the password.

        Raises:
            ConfigError: The password cannot be read any more.
        """
        known = read_password(self._password_file)
        self._look()
        if self.is_closed(address) or not hmac.compare_digest(_digest(password), _digest(known)):
            self._wrong.setdefault(address, []).append(self._clock())
            if len(self._wrong) > _MOST_ADDRESSES:
                self._wrong.popitem(last=False)
            return None
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = self._clock() + self._session_s
        if len(self._sessions) > _MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def knows(self, token: str | None) -> bool:
        """Whether ``token`` is that of a session that has not ended."""
        self._look()
        ends_s = self._sessions.get(_digest(token)) if token else None
        return ends_s is not None and self._clock() < ends_s

    def _look(self) -> None:
        """End all sessions when the file of the password is another one."""
        try:
            found = self._password_file.stat()
        except OSError:
            return  # the next login tells
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._stamp not in (None, stamp):
            self._sessions.clear()
            log.info("logins.ended", detail="the password file was changed")
        self._stamp = stamp

    def leave(self, token: str | None) -> None:
        """End a session."""
        if token:
            self._sessions.pop(_digest(token), None)


class Guard:
    """Middleware that lets nobody pass who may not.

    Args:
        app: What is guarded.
        logins: Who has logged in; None: everybody may, from this machine.
        names: Names and addresses that ``Host`` may say; empty: any.
        is_secure: Whether it is served by HTTPS.
    """

    def __init__(
        self, app: ASGIApp, *, logins: Logins | None, names: frozenset[str], is_secure: bool
    ) -> None:
        self._app = app
        self._logins = logins
        self._names = names
        self._is_secure = is_secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(scope, receive)

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_POLICY)
            await send(message)

        if refusal is None:
            if scope["type"] == "websocket" and self._logins is not None:
                receive = _until_logged_out(self._logins, scope, receive, send)
            await self._app(scope, receive, send_with_policy)
        elif scope["type"] == "http":
            await refusal(scope, receive, send_with_policy)
        else:
            await send({"type": "websocket.close", "code": 4401})

    async def _refusal(self, scope: Scope, receive: Receive) -> Response | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = urlsplit(f"//{headers.get('host', '')}")
        if self._names and host.hostname not in self._names:
            return PlainTextResponse("this server has no such name (web.names in its settings)", 421)
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != host.netloc:
            return PlainTextResponse("asked for by a page of somebody else", 403)
        if self._logins is None:
            return None
        request = Request(scope, receive) if scope["type"] == "http" else None
        return await self._unless_known(self._logins, request, headers)

    async def _unless_known(
        self, logins: Logins, request: Request | None, headers: dict[str, str]
    ) -> Response | None:
        """Return what somebody gets who has not logged in; ``request`` is None for a WebSocket."""
        token = _token(headers.get("cookie", ""))
        path = "" if request is None else request.url.path
        if request is not None and path == _LOGIN:
            return await self._login(logins, request)
        if request is not None and path == _LOGOUT and request.method == "POST":
            logins.leave(token)
            return RedirectResponse(_LOGIN, 303)
        if logins.knows(token):
            return None
        if request is not None and request.method == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(_LOGIN, 303)
        return PlainTextResponse("log in first", 401)

    async def _login(self, logins: Logins, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(_page())
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MOST_FORM_BYTES:
                return PlainTextResponse("too long", 413)
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        client = request.client.host if request.client else ""
        if logins.is_closed(client):
            return HTMLResponse(_page("Too many wrong passwords. Wait a minute."), 429)
        try:
            token = logins.enter(given, client)
        except ConfigError as error:
            log.error("login.impossible", detail=str(error))  # noqa: TRY400 - the detail says it all
            return HTMLResponse(_page("The password cannot be checked now: see the log."), 500)
        if token is None:
            log.warning("login.refused", client=client)
            return HTMLResponse(_page("That is not the password."), 401)
        log.info("login.accepted", client=client)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=self._is_secure)
        return answer


def _until_logged_out(logins: Logins, scope: Scope, receive: Receive, send: Send) -> Receive:
    """Return ``receive`` of a WebSocket that ends with the login; a browser answers a ping twice a minute."""
    cookie = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
    token = _token(cookie)

    async def receive_while_known() -> Message:
        message = await receive()
        if message["type"] == "websocket.receive" and not logins.knows(token):
            await send({"type": "websocket.close", "code": 4401})
            return {"type": "websocket.disconnect", "code": 4401}
        return message

    return receive_while_known


def local_names(host: str) -> frozenset[str]:
    """Return what ``Host`` may say of a server that only this machine can reach."""
    return _LOCAL | {host.lower()}


def _token(cookie: str) -> str | None:
    try:
        found = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _page(fault: str = "") -> str:
    told = f'<p role="alert">{html.escape(fault)}</p>' if fault else ""
    return _PAGE.replace("<!-- fault -->", told)


_PAGE: Final = (Path(__file__).parent / "login.html").read_text(encoding="utf-8")
