"""Where the MQTT broker is, how to log in, how to trust it, and what to leave with it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from atoll_contract.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when a connection breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how to log in. It holds no secret, only the paths of files that do.

    Attributes:
        host: Name or address.
        port: TCP port.
        username: MQTT user name; by convention the id of the writer.
        password_file: File that holds the password; read anew at every connect.
        tls: Whether the connection is encrypted.
        ca_file: Certificates to trust; None: those of the system.
        cert_file: Own certificate for mutual TLS; like the other two files read anew at every connect.
        key_file: Its key.
        websocket_path: Where the broker serves MQTT over WebSocket; None: it is plain TCP or TLS.
        keepalive_s: Longest silence before a ping; half of it later the connection counts as lost.
    """

    host: str = "localhost"
    port: int = 1883
    username: str | None = None
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    websocket_path: str | None = None
    keepalive_s: int = 30

    def __post_init__(self) -> None:
        """Refuse a keepalive that is switched off: a broker that froze would never be noticed."""
        if self.keepalive_s < 1:
            raise ValueError(f"keepalive_s is {self.keepalive_s}, not above 0")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "mqtt" if self.websocket_path is None else "ws"
        return f"{scheme}{'s' if self.tls else ''}://{host}:{self.port}{self.websocket_path or ''}"

    def read_password(self) -> str | None:
        """Return the password, without the line end after it; None without a password file.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is not UTF-8. The message shows nothing of it.
        """
        if self.password_file is None:
            return None
        try:
            return self.password_file.read_text(encoding="utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise ValueError(f"the password in {self.password_file} is not UTF-8") from None

    def require_password(self) -> None:
        """Refuse a password file that cannot be read now; at each later connect it is read anew.

        Raises:
            ConfigError: With the name of the file.
        """
        try:
            self.read_password()
        except OSError as error:
            raise ConfigError(
                f"{self.password_file}: the password cannot be read: {error.strerror}"
            ) from error
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def tls_context(self) -> ssl.SSLContext:
        """Return the TLS settings, with certificates and key as the files hold them now.

        Raises:
            ConfigError: A file cannot be read or is not what it should be.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file)
        except OSError as error:
            files = [str(path) for path in (self.ca_file, self.cert_file, self.key_file) if path]
            raise ConfigError(f"broker: cannot read the TLS files {', '.join(files)}: {error}") from error
        return context
