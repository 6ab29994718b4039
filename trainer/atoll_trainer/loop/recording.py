"""The recorder beside the loop, in a thread of its own; another one that has the folder ends the loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Self

import structlog

from atoll_link.broker import Broker
from atoll_link.recorder import Recorder, Site, Tally
from atoll_link.recording import Recording
from atoll_link.session import Session
from atoll_link.stop import Stop
from atoll_trainer.home import Home

_STOP_S: Final = 20.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RecorderThread:
    """Records until it is stopped; use as a context manager.

    Attributes:
        tally: What has been recorded so far.
    """

    def __init__(
        self, broker: Broker, client_id: str, home: Home, site: Site, open_recording: Callable[[], Recording]
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._home = home
        self._site = site
        self._open_recording = open_recording
        self._stop = Stop()
        self._session: Session | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)
        self.tally = Tally()

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """Bring to disk what has come, and end."""
        self._stop.request()
        if self._session is not None:
            self._session.wake()
        self._thread.join(_STOP_S)

    @property
    def is_connected(self) -> bool:
        """Whether its connection to the broker stands."""
        return self._session is not None and self._session.is_connected

    def require_running(self) -> None:
        """Raise what has ended it: AtollError, or a bug."""
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            with self._open_recording() as recording:
                self._session = Session(
                    self._broker, self._client_id, is_clean=False, acknowledges_by_hand=True
                )
                try:
                    recorder = Recorder(self._session, recording, self._site)
                    self.tally = recorder.tally
                    _log.info(
                        "recording.started", folder=str(self._home.recordings), broker=str(self._broker)
                    )
                    recorder.run(lambda: self._stop.is_requested, lambda _tally: None)
                finally:
                    self._session.close()
                _log.info("recording.ended", rows=recording.written)
        except BaseException as error:  # noqa: BLE001 - require_running() raises it where it ends the loop
            self._failure = error
