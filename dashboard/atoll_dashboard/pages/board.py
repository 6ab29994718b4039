"""What all pages share: the scene, and views of it that are made once for all browsers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from atoll_dashboard import views
from atoll_dashboard.asking import Asking
from atoll_dashboard.feed import Feed
from atoll_dashboard.scene import Scene

VIEW_S: Final = 1.0
"""Tables change so often."""
CHART_S: Final = 0.25
"""And charts so often."""

_T = TypeVar("_T")


class Board:
    """The scene, as pages see it.

    Attributes:
        site: The site that is shown.
        scene: What is shown.
        feed: Sends requests.
        asking: Makes them.
        has_login: Whether people log in, and so can log out.
    """

    def __init__(self, site: str, scene: Scene, feed: Feed, asking: Asking, *, has_login: bool) -> None:
        self.site = site
        self.scene = scene
        self.feed = feed
        self.asking = asking
        self.has_login = has_login
        self._made: dict[str, tuple[float, object]] = {}
        self._releases: tuple[int, list[views.ReleaseView]] = (-1, [])

    @property
    def releases(self) -> list[views.ReleaseView]:
        """The releases; with a thousand agents that takes a while, and is made when something changes."""
        return self.view("releases", self._make_releases)

    def _make_releases(self, scene: Scene, _: float) -> list[views.ReleaseView]:
        if self._releases[0] != scene.version:
            self._releases = (scene.version, views.releases(scene))
        return self._releases[1]

    def view(self, name: str, make: Callable[[Scene, float], _T]) -> _T:
        """Return what ``make`` returns of the scene and the time, at most a second old."""
        now_s = time.monotonic()
        made = self._made.get(name)
        if made is not None and now_s - made[0] < VIEW_S * 0.9:
            return made[1]  # type: ignore[return-value]  # made by the same name
        with self.scene.lock:
            view = make(self.scene, time.time() * 1e3)
        self._made[name] = (now_s, view)
        return view
