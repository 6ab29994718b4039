"""Puts scene, feed, guard and pages together, and serves them until told to stop."""

from __future__ import annotations

import signal
import socket
import time
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from nicegui import app, ui
from starlette.responses import HTMLResponse, Response

from atoll_contract.errors import ConfigError
from atoll_contract.ids import is_id
from atoll_dashboard.asking import Asking
from atoll_dashboard.feed import Feed, filters
from atoll_dashboard.guard import Guard, Logins, local_names, read_password
from atoll_dashboard.pages.alarms import alarms_page
from atoll_dashboard.pages.board import Board
from atoll_dashboard.pages.device import device_page
from atoll_dashboard.pages.devices import devices_page
from atoll_dashboard.pages.fleet import agent_page, fleet_page
from atoll_dashboard.pages.releases import releases_page
from atoll_dashboard.scene import Scene
from atoll_dashboard.settings import DashboardSettings, WebTable
from atoll_link.systemd import Notifier

_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#14a89d" '
    'stroke-width="2.6" stroke-linecap="round"><path d="M19.5 7.5a9 9 0 1 0 1.2 7"/>'
    '<circle cx="12" cy="12" r="2.6" fill="#14a89d" stroke="none"/>'
    '<circle cx="20.6" cy="10.8" r="1.5" fill="#14a89d" stroke="none"/></svg>'
)
_STOP_S: Final = 3
_BEAT_S: Final = 1.0
_RECONNECT_S: Final = 10.0
_KEPT_MESSAGES: Final = 60
"""What a browser that was cut off gets when it is back; beyond it loads the page anew."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def serve(settings: DashboardSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: A password cannot be read, or nobody can listen there.
    """
    me, web = settings.dashboard, settings.web
    operate = settings.operate
    trainer_site = operate.site or me.site
    broker = settings.build_broker()
    require_free(web)
    scene = Scene(
        me.site,
        settings.foreign,
        trainer=(trainer_site, operate.trainer),
        max_devices=me.max_devices,
        now_ms=time.time() * 1e3,
    )
    asking = Asking(trainer_site, me.id, operate.trainer, frozenset(operate.requests), operate.timeout_s)
    wanted = filters(None if me.all_sites else me.site, settings.foreign)
    feed = Feed(broker, me.id, scene, asking, wanted, app.shutdown)
    _guard(web)
    _lay_out(Board(me.site, scene, feed, asking, has_login=web.password_file is not None))
    service = Notifier()

    def tell() -> None:
        service.tell(READY="1")
        log.info("dashboard.started", url=web.url, site=me.site, broker=str(broker))
        print(f"dashboard on {web.url}", flush=True)  # noqa: T201 - the result

    seen = -1

    def beat() -> None:
        nonlocal seen
        if feed.steps != seen:
            seen = feed.steps
            service.beat()

    app.on_startup(tell)
    app.timer(_BEAT_S, beat)
    # uvicorn raises the signal again that has ended it: a clean stop is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with feed:
        ui.run(
            host=web.host,
            port=web.port,
            title="atoll",
            favicon=_ICON,
            dark=None,
            reload=False,
            show=False,
            show_welcome_message=False,
            tailwind=False,
            reconnect_timeout=_RECONNECT_S,
            message_history_length=_KEPT_MESSAGES,
            binding_refresh_interval=None,
            ssl_certfile=web.cert_file,
            ssl_keyfile=web.key_file,
            timeout_graceful_shutdown=_STOP_S,
            server_header=False,
        )
        service.tell(STOPPING="1")
    if feed.failure is not None:
        raise feed.failure
    log.info("dashboard.stopped", **scene.counts)


def require_free(web: WebTable) -> None:
    """Refuse an address where nobody can listen.

    Raises:
        ConfigError: It is taken, or none of this machine's; or the password or a certificate cannot be read.
    """
    if web.password_file is not None:
        read_password(web.password_file)
    for path in (web.cert_file, web.key_file):
        if path is not None and not path.is_file():
            raise ConfigError(f"{path}: cannot be read: web.cert_file and web.key_file are PEM files")
    try:
        found = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise ConfigError(
            f"web.host, web.port: nobody can listen on {web.host} port {web.port}: {error.strerror}"
        ) from error


def _guard(web: WebTable) -> None:
    logins = None
    if web.password_file is not None:
        logins = Logins(web.password_file, web.session_hours * 3600)
        if web.cert_file is None and not web.is_local:
            log.warning("login.unencrypted", url=web.url)
    names = frozenset(name.lower() for name in web.names)
    if names or logins is None:
        names |= local_names(web.host)
    app.add_middleware(Guard, logins=logins, names=names, is_secure=web.cert_file is not None)


def _lay_out(board: Board) -> None:
    folder = Path(__file__).parent
    ui.add_css((folder / "style.css").read_text(encoding="utf-8"), shared=True)
    for path, page in (
        ("/", fleet_page),
        ("/devices", devices_page),
        ("/releases", releases_page),
        ("/alarms", alarms_page),
    ):
        ui.page(path)(partial(page, board))

    @ui.page("/agent/{site}/{name}")
    def agent(site: str, name: str) -> Response | None:
        return _named(board, site, name, is_agent=True)

    @ui.page("/device/{site}/{name}")
    def device(site: str, name: str) -> Response | None:
        return _named(board, site, name, is_agent=False)


def _named(board: Board, site: str, name: str, *, is_agent: bool) -> Response | None:
    if not is_id(site) or not is_id(name):
        return HTMLResponse("there is no such page", 404)
    (agent_page if is_agent else device_page)(board, site, name)
    return None
