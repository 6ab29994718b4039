"""What a scene makes of messages, and what it leaves out."""

from __future__ import annotations

import json

import pytest

from atoll_contract.decisions import Decision, State
from atoll_contract.drift import DriftReport
from atoll_contract.errors import Reason
from atoll_contract.messages import (
    Champion,
    Health,
    Label,
    Prediction,
    Reading,
    Refusal,
    SlotStatus,
    Status,
    encode_prediction,
    encode_reading,
)
from atoll_contract.release import ReleaseTerms
from atoll_contract.topics import (
    DecisionTopic,
    DriftTopic,
    LabelTopic,
    MetadataTopic,
    PredictionTopic,
    ReadingTopic,
    SlotTopic,
    StatusTopic,
)
from atoll_dashboard import scene as scene_module
from atoll_dashboard import views
from atoll_dashboard.scene import Scene
from atoll_link.cohort import Standing
from atoll_link.events import Delivery
from atoll_link.stream_settings import StreamTable

SITE = "plant-a"
NOW_MS = 1_800_000_000_000.0


class Feeding:
    """A scene, and a clock that each message moves on."""

    def __init__(self, **options) -> None:
        options.setdefault("max_devices", 100)
        self.now_ms = NOW_MS
        self.scene = Scene(SITE, trainer=(SITE, "trainer"), now_ms=NOW_MS, **options)

    def take(self, topic, payload: bytes, *, step_ms: float = 300.0, is_retained: bool = False) -> None:
        self.now_ms += step_ms
        nanoseconds = int((self.now_ms - NOW_MS) * 1e6)
        self.scene.take(Delivery(str(topic), payload, 0, 0, False, is_retained, 1, self.now_ms, nanoseconds))

    def predict(self, value: float, release: int = 1, device: str = "press-1", **more) -> float:
        time_ms = self.now_ms
        payload = encode_prediction(Prediction(time_ms, value, release, 0.4))
        self.take(PredictionTopic(SITE, "pi", device, "wear"), payload, **more)
        return time_ms

    def track(self, device: str = "press-1"):
        return self.scene.devices[SITE, device].models["pi", "wear"]


@pytest.fixture
def feeding() -> Feeding:
    return Feeding()


def slot(release: int, sha256: str, **more) -> bytes:
    champion = Champion(release=release, sha256=sha256, backend="cpu", task="regression")
    return SlotStatus(model="wear", time_ms=NOW_MS, champion=champion, **more).encode()


def status(health: Health = Health.READY, session: int = 1, token: str = "t") -> bytes:
    return Status(health=health, session=session, token=token, time_ms=NOW_MS).encode()


def test_a_release_that_takes_over_leaves_a_mark_where_it_did(feeding):
    feeding.predict(1.0)
    feeding.predict(1.1)
    swapped_ms = feeding.predict(1.2, release=2)
    feeding.predict(1.3, release=2)

    # press-1   1 1 2 2
    #               ^
    assert [(mark.release, mark.time_ms) for mark in feeding.track().marks][1] == (2, swapped_ms)
    assert [value for _, value in feeding.track().predictions] == [1.0, 1.1, 1.2, 1.3]


def test_a_label_finds_the_prediction_of_its_time(feeding):
    time_ms = feeding.predict(5.0)
    feeding.predict(9.0)
    feeding.take(LabelTopic(SITE, "press-1", "press-1", "wear"), Label(value=4.5, time_ms=time_ms).encode())

    assert feeding.track().error == pytest.approx(0.5)


def test_of_many_predictions_each_is_counted_and_one_in_a_quarter_of_a_second_is_kept(feeding):
    for number in range(100):
        feeding.predict(float(number), step_ms=10.0)

    assert feeding.scene.counts["predictions"] == 100
    assert len(feeding.track().predictions) in {4, 5}


def test_beyond_what_can_be_read_in_a_second_messages_are_counted_alone(feeding, monkeypatch):
    monkeypatch.setattr(scene_module, "MOST_READ_PER_S", 10)
    for _ in range(50):
        feeding.predict(1.0, step_ms=1.0)

    assert feeding.scene.counts["predictions"] == 50
    assert feeding.scene.counts["sampled_out"] == 40


def test_a_device_too_many_takes_the_place_of_the_longest_silent_one():
    feeding = Feeding(max_devices=2)
    for device in ("a", "b", "a", "c"):
        feeding.predict(1.0, device=device)
    feeding.predict(2.0, device="b")

    assert [name for _, name in feeding.scene.devices] == ["c", "b"]
    assert feeding.scene.counts["devices_forgotten"] == 2
    assert [value for _, value in feeding.track("b").predictions] == [2.0]


def test_what_cannot_be_read_is_counted_by_reason_with_its_topic(feeding):
    feeding.take(PredictionTopic(SITE, "pi", "press-1", "wear"), b"<script>")
    feeding.take(StatusTopic(SITE, "pi"), b"[]")
    feeding.take("atoll/v1/plant-a", b"")

    count, detail = feeding.scene.refusals[Reason.MALFORMED_PAYLOAD]
    assert count == 2
    assert detail.startswith("atoll/v1/plant-a/pi/status")
    assert feeding.scene.refusals[Reason.MALFORMED_TOPIC][0] == 1


def test_readings_are_drawn_by_value_and_arrays_by_their_mean(feeding):
    reading = Reading({"x": 3.0, "vibration": [1.0, 2.0], "picture": [[1.0]], "gone": None}, NOW_MS)
    feeding.take(ReadingTopic(SITE, "press-1", "press"), encode_reading(reading))

    values = feeding.scene.devices[SITE, "press-1"].values
    assert list(values["press", "x"]) == [(NOW_MS, 3.0)]
    assert list(values["press", "vibration"]) == [(NOW_MS, 1.5)]
    assert not len(values["press", "picture"])
    assert not len(values["press", "gone"])


def test_a_retained_reading_is_not_news(feeding):
    payload = encode_reading(Reading(3.0, NOW_MS))
    feeding.take(ReadingTopic(SITE, "press-1", "press"), payload, is_retained=True)

    assert feeding.scene.counts["readings"] == 0


def test_readings_of_another_dialect_belong_to_their_device():
    table = StreamTable(name="climate", preset="zigbee2mqtt", values={"temperature": {"unit": "°C"}})
    stream = table.build(SITE)
    feeding = Feeding(foreign=[stream])
    feeding.take("zigbee2mqtt/office", json.dumps({"temperature": 21.5}).encode())

    device = feeding.scene.devices[SITE, "office"]
    assert [value for _, value in device.values["climate", "temperature"]] == [21.5]


def test_an_alarm_stands_from_raised_to_cleared(feeding):
    topic = DecisionTopic(SITE, "pi", "press-1", "worn")
    feeding.predict(1.0)
    for state in State:
        decision = Decision(state=state, time_ms=NOW_MS, model="wear", release=1, value=0.9)
        feeding.take(topic, decision.encode())
        if state is State.RAISED:
            assert [alarm.topic for alarm in feeding.scene.alarms.standing] == [topic]

    assert not len(feeding.scene.alarms)
    assert feeding.scene.alarms.over[0].cleared_ms == feeding.now_ms
    assert len(feeding.scene.devices[SITE, "press-1"].decisions) == 2


def publish(feeding: Feeding, *terms: ReleaseTerms, version: int = 3) -> None:
    targets = {
        one.target: {"hashes": {"sha256": str(one.release)}, "custom": one.encode(), "length": 1}
        for one in terms
    }
    for file, signed in (
        ("timestamp.json", {"expires": "2030-01-01T00:00:00Z", "meta": {"snapshot.json": {"version": 7}}}),
        ("7.snapshot.json", {"meta": {"trainer.json": {"version": version}}}),
        (f"{version}.trainer.json", {"targets": targets}),
    ):
        feeding.take(MetadataTopic(file), json.dumps({"signed": signed}).encode())


def test_releases_are_followed_from_the_timestamp_on_and_counted_by_where_agents_stand(feeding):
    publish(feeding, ReleaseTerms(model="wear", release=1), ReleaseTerms(model="wear", release=2))
    refusal = Refusal(
        release=2, sha256="2", reason=Reason.ERROR_TOO_LARGE, detail="too large", time_ms=NOW_MS
    )
    for name, payload in {"a": slot(2, "2"), "b": slot(1, "1", refused=refusal), "c": slot(1, "1")}.items():
        feeding.take(StatusTopic(SITE, name), status())
        feeding.take(SlotTopic(SITE, name, "wear"), payload)

    newest, before = views.releases(feeding.scene)
    assert newest.terms.release == 2
    counts = {standing: count for standing, count in newest.counts.items() if count}
    assert counts == {Standing.RUNS: 1, Standing.REFUSED: 1, Standing.WAITING: 1}
    assert newest.reasons == [("error_too_large", 1)]
    assert before.counts[Standing.RUNS] == 2
    assert [one.agent for one in views.refusals(feeding.scene)] == ["b"]


def test_the_version_grows_with_what_rollouts_are_made_of_and_not_with_every_status(feeding):
    feeding.take(StatusTopic(SITE, "a"), status())
    before = feeding.scene.version
    feeding.take(StatusTopic(SITE, "a"), status(Health.DEGRADED))
    assert feeding.scene.version == before

    feeding.take(StatusTopic(SITE, "a"), status(Health.OFFLINE))
    feeding.take(SlotTopic(SITE, "a", "wear"), slot(1, "1"))
    publish(feeding, ReleaseTerms(model="wear", release=1))
    assert feeding.scene.version >= before + 3


def test_what_agents_run_and_is_not_out_is_shown_too(feeding):
    feeding.take(StatusTopic(SITE, "a"), status())
    feeding.take(SlotTopic(SITE, "a", "wear"), slot(5, "5"))

    (left,) = views.releases(feeding.scene)
    assert (left.terms.release, left.is_out) == (5, False)


def test_metadata_that_make_no_sense_are_a_fault_and_lose_nothing(feeding):
    publish(feeding, ReleaseTerms(model="wear", release=1))
    feeding.take(MetadataTopic("timestamp.json"), b'{"signed": {"meta": 5}}')

    publication = feeding.scene.publication
    assert publication.fault is not None
    assert len(publication.releases) == 1


def test_drift_is_known_by_agent_and_model_until_its_topic_is_cleared(feeding):
    feeding.take(StatusTopic(SITE, "a"), status())
    feeding.take(SlotTopic(SITE, "a", "wear"), slot(1, "1"))
    report = DriftReport(model="wear", time_ms=NOW_MS, release=1, drifting=True, detail="load has moved")
    feeding.take(DriftTopic(SITE, "a", "wear"), report.encode())

    (row,) = views.agents(feeding.scene, feeding.now_ms)
    assert row.drifts["wear"].drifting
    assert views.overview(feeding.scene, feeding.now_ms).drifting == 1
    feeding.take(DriftTopic(SITE, "a", "wear"), b"")
    assert views.overview(feeding.scene, feeding.now_ms).drifting == 0


def test_agents_in_trouble_stand_first_and_a_late_will_changes_nothing(feeding):
    for name in ("a", "b", "c"):
        feeding.take(StatusTopic(SITE, name), status(session=2))
    feeding.take(StatusTopic(SITE, "c"), status(Health.FAULTED, session=2))
    feeding.take(StatusTopic(SITE, "b"), status(Health.OFFLINE, session=1))
    feeding.take(StatusTopic(SITE, "trainer"), status())

    rows = views.agents(feeding.scene, feeding.now_ms)
    assert [(row.agent.name, row.health) for row in rows] == [
        ("c", "faulted"),
        ("a", "ready"),
        ("b", "ready"),
    ]
    assert views.overview(feeding.scene, feeding.now_ms).healths == {"faulted": 1, "ready": 2}


def decide(feeding: Feeding, state: State, agent: str = "pi", **more) -> None:
    decision = Decision(state=state, time_ms=NOW_MS, model="wear", release=1, value=9.0, **more)
    feeding.take(DecisionTopic(SITE, agent, "press-1", "worn"), decision.encode())


def test_an_alarm_is_not_certain_once_a_word_that_it_is_over_could_have_been_missed(feeding):
    decide(feeding, State.RAISED)
    feeding.scene.connect(feeding.now_ms)
    feeding.scene.disconnect(feeding.now_ms, "gone")
    [unsure] = feeding.scene.alarms.standing

    assert unsure.unsure_ms == feeding.now_ms
    assert (len(feeding.scene.alarms), feeding.scene.alarms.unconfirmed) == (1, 1)
    decide(feeding, State.RAISED)
    assert feeding.scene.alarms.unconfirmed == 0
    feeding.take(StatusTopic(SITE, "pi"), status(Health.OFFLINE))
    assert feeding.scene.alarms.unconfirmed == 1
    decide(feeding, State.CLEARED)
    assert len(feeding.scene.alarms) == 0


def test_an_alarm_that_nobody_confirms_for_a_day_is_forgotten(feeding):
    decide(feeding, State.RAISED)
    feeding.scene.alarms.doubt(NOW_MS)
    feeding.scene.alarms.doubt(NOW_MS + 25 * 3600e3)

    assert len(feeding.scene.alarms) == 0


def test_a_device_that_says_hello_is_no_agent(feeding):
    hello = Status(health=Health.READY, session=1, time_ms=NOW_MS)
    feeding.take(StatusTopic(SITE, "press-1"), hello.encode())
    feeding.take(StatusTopic(SITE, "pi"), status())

    assert [agent.name for agent in views.known_agents(feeding.scene)] == ["pi"]


def test_no_more_text_is_kept_than_a_page_shows(feeding):
    feeding.predict(1.0)
    decide(feeding, State.RAISED, label="x" * 10_000, commands=["t/" * 500] * 64)
    payload = encode_prediction(
        Prediction(NOW_MS, 1.0, 1, 0.4, output={"label": "y" * 9_000, "p": [1.0] * 99})
    )
    feeding.take(PredictionTopic(SITE, "pi", "press-1", "wear"), payload)
    device = feeding.scene.devices[SITE, "press-1"]
    [told] = device.decisions

    assert len(told.decision.label) == 48
    assert [len(text) for text in told.decision.commands[:3]] == [120] * 3
    assert told.decision.commands[3] == "and 61 more"
    assert device.models["pi", "wear"].last == (1, 1.0, "y" * 48, ())


def test_one_agent_cannot_hide_what_another_one_says_of_a_device(feeding):
    for number in range(20):
        feeding.take(PredictionTopic(SITE, "evil", "press-1", f"m{number}"), b"junk")
    for number in range(20):
        payload = encode_prediction(Prediction(NOW_MS, 1.0, 1, 0.4))
        feeding.take(PredictionTopic(SITE, "evil", "press-1", f"m{number}"), payload)
    feeding.predict(5.0)

    assert feeding.track().last.value == 5.0
    assert sum(agent == "evil" for agent, _ in feeding.scene.devices[SITE, "press-1"].models) == 8


def test_a_model_that_is_silent_makes_room_on_a_device(feeding):
    for agent in ("a", "b"):
        for number in range(8):
            payload = encode_prediction(Prediction(NOW_MS, 1.0, 1, 0.4))
            feeding.take(PredictionTopic(SITE, agent, "press-1", f"m{number}"), payload)
    feeding.predict(5.0)
    assert ("pi", "wear") not in feeding.scene.devices[SITE, "press-1"].models
    feeding.predict(6.0, step_ms=60_000)

    assert feeding.track().last.value == 6.0
    assert ("a", "m0") not in feeding.scene.devices[SITE, "press-1"].models


def test_a_slot_that_is_known_is_updated_however_many_there_are(feeding):
    for number in range(257):
        feeding.take(SlotTopic(SITE, "pi", f"m{number}"), slot(1, "a").replace(b"wear", b"m%d" % number))
    feeding.take(SlotTopic(SITE, "pi", "m3"), slot(2, "b").replace(b"wear", b"m3"))

    slots = feeding.scene.fleet.find(SITE, "pi").slots
    assert len(slots) == 256
    assert slots["m3"].champion.release == 2
