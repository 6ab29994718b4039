"""The dashboard in a real browser, over a real broker."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator

import pytest
from support.brokers import RunningBroker, mosquitto
from support.dashboards import dashboard
from support.staged_fleet import MODEL, SITE, StagedFleet

from atoll_contract.decisions import State
from atoll_contract.errors import Reason
from atoll_contract.messages import Health
from atoll_contract.release import ReleaseTerms
from atoll_contract.requests import Request, Response
from atoll_contract.topics import RequestTopic, ResponseTopic
from atoll_link.session import Broker, Delivery, Session, wait_connected

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.mosquitto,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]
HOSTILE = "<img src=x onerror='window.broken=1'>"
WAIT_MS = 60_000
"""So long a page may take on a machine that has much else to do."""


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


class Stage:
    """A broker with a fleet that plays, and a dashboard beside it."""

    def __init__(self, broker: RunningBroker, fleet: StagedFleet, url: str) -> None:
        self.broker, self.fleet, self.url = broker, fleet, url


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("dashboard")
    with mosquitto(folder / "broker") as broker, StagedFleet(broker.port, devices=2, agents=2) as fleet:
        fleet.releases(ReleaseTerms(model=MODEL, release=1), ReleaseTerms(model=MODEL, release=2))
        fleet.status(fleet.agent(0), Health.DEGRADED, detail=HOSTILE)
        fleet.status(fleet.agent(1))
        refusal = fleet.refusal(2, Reason.ERROR_TOO_LARGE, f"its error is 4.2 µm {HOSTILE}")
        fleet.slot(fleet.agent(0), 1, challenger=fleet.challenge(2, "probation"))
        fleet.slot(fleet.agent(1), 1, refused=refusal)
        fleet.settle()
        fleet.play()
        with dashboard(folder, broker) as (url, _):
            yield Stage(broker, fleet, url)


@pytest.fixture
def page(browser, stage):
    context = browser.new_context(base_url=stage.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    opened = context.new_page()
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    yield opened
    broken = opened.evaluate("window.broken")
    context.close()
    assert faults == []
    assert broken is None, "something from MQTT became markup"


def drawn(page, place: int = 0) -> dict:
    """Return what a chart draws: the times of its first series, and the names of its marks."""
    return page.evaluate(
        """place => {
            const element = document.querySelectorAll(".chart")[place];
            const option = getElement(element.id.slice(1)).chart.getOption();
            const [first] = option.series;
            return {
                times: (first?.data ?? []).map(sample => sample[0]),
                names: option.series.map(series => series.name),
                marks: (first?.markLine?.data ?? []).map(mark => mark.name),
            };
        }""",
        place,
    )


def until(fact, what: str, timeout_s: float = 60.0):
    """Return what ``fact`` returns once it is true; a browser has no other way to wait for our own facts."""
    deadline = time.monotonic() + timeout_s
    while not (found := fact()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
    return found


def test_the_fleet_is_seen_at_a_glance_and_what_came_by_mqtt_stays_text(page, stage):
    page.goto("/")

    agents = page.get_by_role("table", name="Agents")
    agents.get_by_text("degraded", exact=True).wait_for()
    agents.get_by_text(HOSTILE).wait_for()
    page.get_by_text(f"{MODEL} 2 probation").wait_for()
    page.get_by_role("table", name="Rollouts").get_by_text("1 on its way, 1 refused it").wait_for()
    page.get_by_label("Search Agents").fill(stage.fleet.agent(1))
    sync_api.expect(agents.locator("tbody tr")).to_have_count(1, timeout=WAIT_MS)
    page.goto("/releases")
    page.get_by_role("table", name="Refused releases").get_by_text(HOSTILE).wait_for()
    assert page.get_by_role("button", name="Withdraw").count() == 0, "nothing was configured to be asked for"


def test_charts_move_and_a_release_that_takes_over_leaves_its_mark(page, stage):
    page.goto(f"/device/{SITE}/{stage.fleet.device(0)}")
    page.get_by_text(f"on {stage.fleet.agent(0)}").wait_for()
    before = until(lambda: drawn(page)["times"], "a prediction in the chart")
    later = until(lambda: [t for t in drawn(page)["times"] if t > before[-1]], "a newer one")
    assert drawn(page)["names"] == ["prediction", "label"]
    assert len(later) >= 1

    stage.fleet.release = 2
    until(lambda: "release 2" in drawn(page)["marks"], "the mark of release 2")
    stage.fleet.decide(stage.fleet.device(0), "worn", State.RAISED)
    until(lambda: "worn" in drawn(page)["marks"], "the mark of the alarm")
    page.get_by_role("table", name="Decisions").get_by_text("raised").wait_for()
    until(lambda: drawn(page, 3)["names"] == ["load", "temperature"], "the readings")


def test_the_keyboard_is_enough(page, stage):
    def press_until(name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent.trim()") == name:
                return
        raise AssertionError(f"{name!r} cannot be reached by Tab")

    page.goto("/")
    page.get_by_role("table", name="Agents").wait_for()
    press_until("To the content")
    press_until("Devices")
    page.keyboard.press("Enter")
    page.get_by_role("table", name="Devices").wait_for()
    press_until("By name")
    press_until("Busiest")
    page.keyboard.press("Space")
    page.locator("button[aria-pressed=true]", has_text="Busiest").wait_for()
    press_until(stage.fleet.device(0))
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/device/"))
    page.get_by_role("heading", name=stage.fleet.device(0)).wait_for()


def test_a_phone_in_the_dark_shows_all_of_it_without_scrolling_aside(browser, stage):
    context = browser.new_context(
        base_url=stage.url, viewport={"width": 360, "height": 740}, color_scheme="dark", is_mobile=True
    )
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    for path in ("/", f"/device/{SITE}/{stage.fleet.device(0)}", "/releases", "/devices"):
        page.goto(path)
        page.get_by_role("heading", level=1).wait_for()
        page.locator("td .cell" if "device/" not in path else ".chart canvas").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 19, 25)"
    context.close()


def test_an_outage_of_the_broker_is_said_and_is_over_when_it_is_over(page, stage):
    page.goto(f"/device/{SITE}/{stage.fleet.device(1)}")
    page.get_by_text(re.compile(r"^live")).wait_for()
    stage.broker.stop()
    page.get_by_role("alert").get_by_text(re.compile("Cut off from the broker since")).wait_for()
    page.get_by_text("cut off", exact=True).wait_for()
    frozen = drawn(page)["times"]

    stage.broker.start()
    page.get_by_text(re.compile(r"^live")).wait_for()
    sync_api.expect(page.get_by_role("alert").first).to_be_hidden(timeout=WAIT_MS)
    until(lambda: drawn(page)["times"][-1] > frozen[-1], "the chart to go on")


def test_who_has_the_password_may_ask_the_trainer_and_sees_the_answer(browser, stage, tmp_path):
    (tmp_path / "password").write_text("correct horse")
    stage.fleet.releases(ReleaseTerms(model=MODEL, release=2), version=2)
    trainer = Session(Broker("127.0.0.1", stage.broker.port), "staged-trainer")
    trainer.subscribe(RequestTopic.any_of(target="trainer"))
    wait_connected(trainer, 20)
    more = 'password_file = "password"\n[operate]\nrequests = ["withdraw"]\n'
    with dashboard(tmp_path, stage.broker, more) as (url, log):
        context = browser.new_context(base_url=url)
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        page.goto("/releases")
        page.get_by_label("Password").fill("wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").get_by_text("That is not the password.").wait_for()
        page.get_by_label("Password").fill("correct horse")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Releases").click()
        page.get_by_role("button", name="Withdraw").click()
        page.get_by_text("Ask to withdraw").click()
        found: list[Delivery] = []
        deadline = time.monotonic() + 60
        while not found:
            assert time.monotonic() < deadline, "no request at the broker"
            found = [event for event in trainer.step(0.2) if isinstance(event, Delivery)]
        request = Request.decode(found[0].payload)
        answer = Response(
            id=request.id, time_ms=1.0, done=False, reason=Reason.WITHDRAWN, detail="is not out"
        )
        trainer.publish(str(ResponseTopic(SITE, "trainer", "dashboard", "withdraw")), answer.encode())
        trainer.step(0)
        page.get_by_text("refused: is not out [withdrawn]").wait_for()
        context.close()

    trainer.close()
    assert found[0].topic == f"atoll/v1/{SITE}/dashboard/request/trainer/withdraw"
    assert request.arguments == {"model": MODEL, "release": 2.0}
    assert "correct horse" not in log.read_text()
    assert "request.answered" in log.read_text()
