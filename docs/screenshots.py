"""Makes the pictures of the dashboard in docs/pictures: a staged fleet on a real broker, a real browser.

`make screenshots`; needs chromium and mosquitto.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from support.brokers import mosquitto
from support.dashboards import dashboard
from support.staged_fleet import MODEL, SITE, StagedFleet

from atoll_contract.decisions import State
from atoll_contract.errors import Reason
from atoll_contract.messages import Health
from atoll_contract.release import ReleaseTerms

PICTURES = Path(__file__).parent / "pictures"
AGENTS = 48
OFFLINE = frozenset({19, 41})
HISTORY_S = 62.0
"""So long the fleet plays before the pictures: a chart shows a minute."""


def stage(fleet: StagedFleet) -> None:
    """Let the fleet say what a fleet says in the middle of a rollout."""
    fleet.releases(
        ReleaseTerms(model=MODEL, release=2, rollout_percent=75, rollout_salt="2"),
        ReleaseTerms(model=MODEL, release=1),
        ReleaseTerms(model="bearing", release=7),
        ReleaseTerms(model="bearing", release=6),
    )
    two, seven = ReleaseTerms(model=MODEL, release=2, rollout_percent=75, rollout_salt="2"), 7
    for number in range(AGENTS):
        name = fleet.agent(number)
        health, why = Health.READY, None
        if number == 11:
            health, why = (
                Health.DEGRADED,
                f"the CPU answers for {MODEL}: no stick at 1-2, next attempt in 60 s",
            )
        elif number == 30:
            health, why = Health.FAULTED, f"duplicate_id: another agent calls itself '{name}' at this site"
        elif number in OFFLINE:
            health = Health.OFFLINE
        fleet.status(name, health, detail=why)
        refusal = fleet.refusal(
            2, Reason.ERROR_TOO_LARGE, "error 4.21 µm on 60 labels, 1.9 times the champion's"
        )
        if not two.includes(name):
            fleet.slot(name, 1)
        elif number % 17 == 4:
            fleet.slot(name, 1, refused=refusal)
        elif number % 9 in {1, 5}:
            fleet.slot(name, 1, challenger=fleet.challenge(2, "shadow" if number % 2 else "probation"))
        elif number % 13 == 6:
            fleet.slot(name, 1)
        else:
            fleet.slot(name, 2)
        if number % 3 == 0:
            fleet.slot(name, seven if number % 5 else 6, model="bearing")
    fleet.settle()


def play(fleet: StagedFleet) -> None:
    """Let a minute pass in which the process changes, an alarm is raised, and release 2 mends it."""
    fleet.play()
    time.sleep(HISTORY_S * 0.35)
    fleet.bias = 5.0
    time.sleep(HISTORY_S * 0.15)
    fleet.decide(fleet.device(0), "worn", State.RAISED)
    fleet.decide(fleet.device(7), "worn", State.RAISED, 0.88)
    time.sleep(HISTORY_S * 0.2)
    fleet.release, fleet.bias = 2, 0.0
    time.sleep(HISTORY_S * 0.12)
    fleet.decide(fleet.device(0), "worn", State.CLEARED, 0.31)
    time.sleep(HISTORY_S * 0.18)


def shoot(browser: Browser, url: str, path: str, name: str, **options: object) -> None:
    """Take one picture."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
    page = context.new_page()
    page.goto(url + path)
    page.locator(".pill.live").wait_for()
    page.locator("canvas, table").first.wait_for()
    page.wait_for_timeout(2000)  # charts and tables that came later
    page.screenshot(path=PICTURES / f"{name}.png")
    context.close()


def main() -> None:
    """Make them."""
    PICTURES.mkdir(exist_ok=True)
    device = f"/device/{SITE}/{StagedFleet.device(0)}"
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True}
    with tempfile.TemporaryDirectory() as folder, mosquitto(Path(folder) / "broker") as broker:
        fleet = StagedFleet(broker.port, devices=144, rate_hz=4.0, agents=AGENTS, silent=OFFLINE)
        with fleet, dashboard(Path(folder) / "web", broker) as (url, _), sync_playwright() as playwright:
            stage(fleet)
            play(fleet)
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            shoot(browser, url, device, "device", color_scheme="dark")
            shoot(browser, url, "/", "fleet")
            shoot(browser, url, "/releases", "releases")
            shoot(browser, url, device, "phone", **phone)
            browser.close()


if __name__ == "__main__":
    main()
