"""Where a trainer keeps its things: recordings, runs, repository, and its client token."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from atoll_contract.errors import StorageError
from atoll_link.files import make_folder, storage_error, write_whole

SYSTEM_HOME = Path("/var/lib/atoll-trainer")


@dataclass(frozen=True, slots=True)
class Home:
    """A trainer's folder. Nothing is made before it is needed."""

    folder: Path

    @classmethod
    def find(cls, given: Path | None) -> Home:
        """Return the home ``given``, else the system's if it can be written, else the user's own.

        Args:
            given: What the command line says, or else the settings.
        """
        if given is not None:
            return cls(given)
        if os.access(SYSTEM_HOME, os.W_OK):
            return cls(SYSTEM_HOME)
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        if not state.is_absolute():  # to be ignored, say the XDG rules
            state = Path.home() / ".local" / "state"
        return cls(state / "atoll-trainer")

    @property
    def recordings(self) -> Path:
        """The recorded messages."""
        return self.folder / "recordings"

    @property
    def runs(self) -> Path:
        """The training runs."""
        return self.folder / "runs"

    @property
    def for_loop(self) -> Home:
        """What the closed loop has for itself: its state, and runs that it deletes again."""
        return Home(self.folder / "loop")

    @property
    def keys(self) -> Path:
        """The signing keys, those that are not kept elsewhere."""
        return self.folder / "keys"

    @property
    def root(self) -> Path:
        """The newest root: what agents are enrolled with."""
        return self.folder / "root.json"

    @property
    def root_out(self) -> Path:
        """The version of the newest root that was published with all that belongs to it."""
        return self.folder / "root-out"

    @property
    def repository(self) -> Path:
        """The signed releases."""
        return self.folder / "repository"

    def new_run(self, model: str) -> Path:
        """Make and return the folder of the next run of ``model``: ``runs/press-3``.

        Raises:
            StorageError: It cannot be made.
        """
        make_folder(self.runs)
        pattern = re.compile(re.escape(model) + r"-(\d+)")
        found = (pattern.fullmatch(path.name) for path in self.runs.iterdir())
        number = max((int(match[1]) for match in found if match), default=0)
        while True:
            number += 1
            run = self.runs / f"{model}-{number}"
            try:
                run.mkdir()
            except FileExistsError:  # another run started at this moment
                continue
            except OSError as error:
                raise storage_error(run, error) from error
            return run

    def client_token(self) -> str:
        """Return 64 random bits in hexadecimal, the same every time: they make client ids our own.

        Raises:
            StorageError: The file cannot be written or holds something else.
        """
        path = self.folder / "client-token"
        if not path.exists():
            make_folder(self.folder)
            write_whole(path, secrets.token_hex(8).encode() + b"\n", 0o600)
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{path}: cannot be read: {error}") from error
        if re.fullmatch("[0-9a-f]{16}", token) is None:
            raise StorageError(f"{path}: not a client token; delete it to get a new one")
        return token
