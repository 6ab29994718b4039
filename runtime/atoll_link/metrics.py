"""Metrics for Prometheus: an endpoint of its own, made of what is known at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Self

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from atoll_contract.errors import ConfigError
from atoll_link.settings import MetricsTable

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer


class _Told(Collector):
    def __init__(self, tell: Callable[[], Iterable[Metric]]) -> None:
        self._tell = tell

    def collect(self) -> Iterable[Metric]:
        return self._tell()

    def describe(self) -> Iterable[Metric]:
        return []  # else the registry would ask before there is anything to tell


class Exporter:
    """Serves what ``tell`` returns, and figures of the process. A context; does nothing without a port.

    Args:
        table: Where it listens.
        tell: Called at each scrape, in a thread of its own.
    """

    def __init__(self, table: MetricsTable, tell: Callable[[], Iterable[Metric]]) -> None:
        self._table = table
        self._registry = CollectorRegistry()
        self._registry.register(_Told(tell))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._server: WSGIServer | None = None

    def __enter__(self) -> Self:
        table = self._table
        if table.port is not None:
            try:
                self._server, _ = start_http_server(table.port, table.host, self._registry)
            except OSError as error:
                where = f"{table.host} port {table.port}"
                raise ConfigError(
                    f"metrics.port: nobody can listen on {where}: {error.strerror or error}"
                ) from error
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
