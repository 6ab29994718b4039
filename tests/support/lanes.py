"""A lane on a scripted wire, and models for it."""

from __future__ import annotations

import json
import threading
import time

from support.bundles import make_bundle
from support.scripted_wire import ScriptedWaiter, ScriptedWire

from atoll_agent.lane.lane import Lane
from atoll_agent.ports import LanePlan
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.stream import Stream, TopicPattern

TOPIC = "atoll/v1/site/press-1/reading/press"


def stream(name="press", **options) -> Stream:
    pattern = TopicPattern(f"atoll/v1/site/{{device}}/reading/{name}")
    return Stream(name, (pattern,), AtollDialect(), {"x": None}, **options)


def lane_plan(
    *streams: Stream, models=(("wear", "press"),), max_devices=100, trusted_writers=(), **decided
) -> LanePlan:
    filters = {item.name: [pattern.subscription for pattern in item.patterns] for item in streams}
    return LanePlan(streams, filters, {}, dict(models), max_devices, trusted_writers, **decided)


def predictor(release=1, **options) -> Predictor:
    bundle = make_bundle(release=release, **options)
    return Predictor(bundle.manifest, choose_runtime().runtime.load(bundle.model))


def tuned(**options) -> Predictor:
    """Return a predictor that answers in batches."""
    bundle, runtime = make_bundle(**options), choose_runtime().runtime
    made = Predictor(bundle.manifest, runtime.load(bundle.model))
    assert made.use_batches(runtime.load(bundle.model, batch=32), pays_from=2)
    return made


class Clock:
    """Implements ``ports.ClockState``."""

    is_time_unsynced = False

    def look(self) -> bool:
        return False


class Bench:
    """A lane on a scripted wire, connected."""

    def __init__(
        self,
        *predictors: Predictor,
        streams=None,
        stream_of=None,
        windows=None,
        spool=None,
        spool_after_s=0.0,
        **decided,
    ):
        self.wire = ScriptedWire()
        self.waiter = ScriptedWaiter(press=self.wire)
        self.clock = Clock()
        plan = lane_plan(*(streams or [stream()]), models=(stream_of or {"wear": "press"}).items(), **decided)
        self.lane = Lane(
            self.waiter,
            plan,
            site="site",
            agent="pi",
            clock=self.clock,
            windows=windows,
            spool=spool,
            spool_after_s=spool_after_s,
        )
        for item in predictors:
            self.lane.swap(item, has_restarted=False)
        self.wire.connect()
        self.turn()

    def turn(self) -> None:
        self.lane.turn(0)

    def deliver(self, payload=b'{"time_ms":5,"values":{"x":3}}', topic=TOPIC, **options) -> None:
        self.wire.deliver(topic, payload, **options)
        self.turn()

    @property
    def predictions(self) -> list[dict]:
        return [json.loads(payload) for _, _, payload in self.wire.sent]

    @property
    def acknowledged(self) -> list[int]:
        return [delivery.mid for delivery in self.wire.acknowledged]

    def counts(self) -> dict[str, int]:
        self.lane._make_report(0)
        return dict(self.lane.report.counts)

    def refusals(self) -> dict:
        self.lane._make_report(0)
        return dict(self.lane.report.refusals)


class Hold:
    """Lets ``model`` run in a thread that waits at each answer, until a test lets it go on.

    Attributes:
        at_work: Released when an answer has begun.
    """

    def __init__(self, model: Predictor, answer_s: float = 0.1) -> None:
        self.at_work = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)
        self._answers = model.answers
        model.answers = self._wait_and_answer
        model.answer_s = answer_s

    def let_go(self, count: int = 1) -> None:
        """Let ``count`` answers be given."""
        self._go_on.release(count)

    def _wait_and_answer(self, windows):
        self.at_work.release()
        assert self._go_on.acquire(timeout=20)
        return self._answers(windows)


def slow_down(model: Predictor, seconds: float) -> None:
    """Let each call of ``model`` take ``seconds`` longer, at work all the time."""
    answers = model.answers

    def delayed(windows):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
        return answers(windows)

    model.answers = delayed


def turn_until(bench: Bench, fact) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline
        bench.lane.turn(0.1)
