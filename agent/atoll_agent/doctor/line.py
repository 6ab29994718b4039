"""The way to the broker: its name, its port, TLS, the login."""

from __future__ import annotations

import socket
import ssl
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from atoll_agent.doctor.finding import Finding, fault, ok, warning
from atoll_contract.errors import BrokerUnavailableError, ConfigError
from atoll_link.packets import Level
from atoll_link.session import Broker, Disconnected, Session

_CONNECT_S: Final = 5.0
_LOGIN_S: Final = 15.0
_EXPIRES_SOON_S: Final = 30 * 86_400.0
_LOOPBACK: Final = ("localhost", "127.", "::1")


def look_at_line(broker: Broker, agent: str) -> list[Finding]:
    """Return what is found on the way to ``broker``, up to and without the login; ends at a fault."""
    findings: list[Finding] = []
    for steps in (_files(broker, agent), _reach(broker)):
        findings += steps
    return findings


def log_in(broker: Broker, client_id: str) -> Session:
    """Return a session that is connected; the caller closes it.

    It is clean, and its client id is of nobody else, so that no other one is disturbed.

    Raises:
        BrokerUnavailableError: The broker refuses the login, or does not answer.
    """
    session = Session(broker, client_id)
    deadline = time.monotonic() + _LOGIN_S
    detail = f"{broker}: no answer within {_LOGIN_S:g} s"
    while not session.is_connected:
        for event in session.step(0.2):
            if isinstance(event, Disconnected):
                detail = event.detail
                if event.was_refused:
                    deadline = 0.0  # another attempt would be refused, too
        if time.monotonic() > deadline and not session.is_connected:
            session.close()
            raise BrokerUnavailableError(detail)
    return session


def login_finding(broker: Broker, session: Session) -> Finding:
    """Return that the login was accepted."""
    version = "MQTT 5" if session.level is Level.MQTT_5 else "MQTT 3.1.1"
    return ok("login", f"{broker} accepts {broker.username or 'nobody (anonymous)'}, {version}")


def login_fault(broker: Broker, detail: str) -> Finding:
    """Return that it was not, and what to do."""
    todo = "check the user name and broker.password_file, and that the broker knows this user"
    if broker.username is None:
        todo = "the broker may want a login: set broker.password_file (and broker.username)"
    return fault("login", detail, todo)


def _files(broker: Broker, agent: str) -> Iterator[Finding]:
    try:
        broker.require_password()
        if broker.tls:
            broker.tls_context()
    except ConfigError as error:
        yield fault("credentials", error.detail, "let the agent's user read the file, or mend [broker]")
        return
    for path in (broker.password_file, broker.key_file):
        if path is None:
            continue
        with suppress(OSError):
            if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
                yield warning("credentials", f"{path} is open to all users", f"chmod 600 {path}")
    if broker.username is not None and broker.username != agent:
        yield warning(
            "credentials",
            f"the user name is {broker.username!r}, the agent's id {agent!r}",
            "give both the same name: access rules with %u count on it",
        )
    if broker.password_file is not None and not broker.tls and not broker.host.startswith(_LOOPBACK):
        yield warning("tls", "the password crosses the network as it is", "tls = true in [broker]")


def _reach(broker: Broker) -> Iterator[Finding]:
    try:
        socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except OSError as error:
        yield fault("network", f"{broker.host}: {error.strerror}", "check broker.host, and the name server")
        return
    started = time.perf_counter()
    try:
        made = socket.create_connection((broker.host, broker.port), _CONNECT_S)
    except OSError as error:
        yield fault("network", f"{broker}: {_words(error)}", _todo(error))
        return
    with made:
        yield ok("network", f"{broker} is {(time.perf_counter() - started) * 1e3:.1f} ms away")
        if broker.tls:
            yield _tls(broker, made)


def _tls(broker: Broker, made: socket.socket) -> Finding:
    try:
        context = broker.tls_context()
        with context.wrap_socket(made, server_hostname=broker.host) as secured:
            certificate = secured.getpeercert() or {}
            spoken = secured.version()
    except ssl.SSLCertVerificationError as error:
        todo = "name the CA that signed the broker's certificate in broker.ca_file, and the broker as it does"
        return fault("tls", f"the broker's certificate is not trusted: {error.verify_message}", todo)
    except (OSError, ConfigError) as error:
        todo = "check that this port speaks TLS (8883, for most), and whether it wants cert_file and key_file"
        return fault("tls", f"no TLS with {broker}: {_words(error)}", todo)
    left_s = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()
    if left_s < _EXPIRES_SOON_S:
        return warning("tls", f"the broker's certificate ends in {left_s / 86_400:.0f} days", "renew it")
    return ok("tls", f"{spoken}; the broker's certificate is good for {left_s / 86_400:.0f} days")


def _todo(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: start the broker, check broker.port"
    return "check the cable, the route and the firewall between here and the broker"


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_S:g} s"
    return str(getattr(error, "strerror", None) or error)
