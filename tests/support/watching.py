"""A device that looks at the releases all the time."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from support.brokers import RunningBroker, select_pause
from support.releases import device, newest

from atoll_contract.errors import AtollError


class WatchingDevice:
    """Refreshes, and fetches what it should run, again and again in a thread.

    Attributes:
        looks: How many refreshes there were.
        seen: The newest release of each successful refresh, each once, in order.
        faults: What it could not verify or get.
    """

    def __init__(
        self, broker: RunningBroker, folder: Path, root: bytes, *, model: str, pause_s: float
    ) -> None:
        self._broker = broker
        self._folder = folder
        self._root = root
        self._model = model
        self._pause_s = pause_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watching-device", daemon=True)
        self.looks = 0
        self.seen: list[int] = []
        self.faults: list[AtollError] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._look()
            except AtollError as error:
                self.faults.append(error)
            self.looks += 1
            select_pause(self._pause_s)

    def _look(self) -> None:
        part = self._folder / "bundle.part"
        with device(self._broker, self._folder, self._root) as repository:
            release = newest(repository.refresh(), self._model)
            if release.release not in self.seen[-1:]:
                part.unlink(missing_ok=True)
                repository.fetch(release, part)
                self.seen.append(release.release)
