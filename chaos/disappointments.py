"""Releases that pass verification and disappoint on live readings: `make chaos-trials`.

One is worse on live labels and has to be stopped in shadow, unheard. One is as fast as it promises in shadow
and becomes slow on probation, since other programs then want the same processor: the champion has to come
back. Told is how long that takes and how many readings the release answered meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from support import brokers
from support.agents import AgentProcess
from support.brokers import RunningBroker
from support.bundles import make_bundle
from support.feeder import Feeder
from support.releases import Trainer
from support.spy import Spy
from world import READING, SAID, answered, champion, new_trainer, report, wait_for

from atoll_contract.manifest import OutputSpec, PassRules
from atoll_link.session import Broker, Session

LABEL = "atoll/v1/site/press-1/label/press-1/wear"
TRUTH = 7.0
"""Of x = 3, which the feeder sends."""
PATIENCE_S = 120.0
HOGS = 20
BUDGET_MS = 60.0
"""Five times what the model takes on an idle x86-64 machine, half of what the busy programs make of it."""


def slot(spy: Spy) -> dict[str, Any]:
    """The slot as the agent last told it."""
    found = spy.on("/slot/wear")
    return json.loads(found[-1].payload) if found else {}


def is_refused(spy: Spy, release: int) -> bool:
    """Whether the agent says that it refused this release."""
    return bool(slot(spy).get("refused", {}).get("release") == release)


def is_in(spy: Spy, phase: str) -> bool:
    """Whether the release on its way is in this phase."""
    return bool(slot(spy).get("challenger", {}).get("phase") == phase)


def heard(spy: Spy) -> list[tuple[float, int]]:
    """When each prediction arrived, and of which release it is."""
    return [(item.arrival_ms, json.loads(item.payload)["release"]) for item in spy.on("/prediction/")]


class Labels:
    """The truth about each reading, from the device itself, while a ``with`` block lasts."""

    def __init__(self, port: int, spy: Spy) -> None:
        self._session = Session(Broker(host="127.0.0.1", port=port), "labels")
        self._spy = spy
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for item in self._spy.on("/prediction/")[self.sent :]:
                label = {"time_ms": json.loads(item.payload)["time_ms"], "value": TRUTH}
                if self._session.publish(LABEL, json.dumps(label).encode()) is None:
                    break
                self.sent += 1
            self._session.step(0.02)
        self._session.close()


def worse_on_labels(broker: RunningBroker, trainer: Trainer, spy: Spy, release: int) -> dict[str, Any]:
    """Publish a release that is off by ten; return what it took to stop it."""
    rules = PassRules(shadow_windows=100_000, probation_windows=10, min_labels=20, max_error_ratio=1.5)
    with Labels(broker.port, spy):
        bundle = make_bundle(release=release, passing=rules, output=OutputSpec(offset=10.0))
        trainer.publish(broker, bundle.pack())
        wait_for(lambda: is_in(spy, "shadow"), "shadow", PATIENCE_S)
        begun_s = time.monotonic()
        wait_for(lambda: is_refused(spy, release), "a refusal", PATIENCE_S)
    refused = slot(spy)["refused"]
    return {
        "worse_on_labels": f"{refused['reason']}: {refused['detail']}",
        "worse_seconds_in_shadow": round(time.monotonic() - begun_s, 2),
        "worse_readings_it_answered": sum(one == release for _, one in heard(spy)),
    }


def slow_on_probation(
    broker: RunningBroker, trainer: Trainer, spy: Spy, release: int, processor: int
) -> dict[str, Any]:
    """Publish a release and take its processor once it answers; return what it took to take it back."""
    rules = PassRules(shadow_windows=40, probation_windows=100_000, latency_ms=BUDGET_MS)
    trainer.publish(broker, make_bundle(release=release, file="slow_float", passing=rules).pack())
    wait_for(lambda: any(one == release for _, one in heard(spy)), "its first prediction", PATIENCE_S)
    code = f"import os\nos.sched_setaffinity(0, [{processor}])\nwhile True: pass"
    hogs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(HOGS)]
    began_ms = time.time() * 1e3
    try:
        wait_for(lambda: is_refused(spy, release), "a refusal", PATIENCE_S)
        after = len(heard(spy))
        wait_for(lambda: len(heard(spy)) > after + 5, "predictions of the champion", PATIENCE_S)
    finally:
        for one in hogs:
            one.kill()
            one.wait()
    seen = heard(spy)
    theirs = [at for at, number in seen if number == release]
    back = next(at for at, number in seen if at > theirs[-1] and number == 1)
    refused = slot(spy)["refused"]
    return {
        "slow": f"{refused['reason']}: {refused['detail']}",
        "slow_s_from_activation_until_the_champion_is_heard": round((back - theirs[0]) / 1e3, 2),
        "slow_s_since_it_became_slow": round((back - began_ms) / 1e3, 2),
        "slow_ms_without_any_prediction": round(back - theirs[-1]),
        "slow_readings_it_answered": len(theirs),
    }


def main() -> int:
    """Run both on one agent, which shares one processor with nobody but the hogs."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    processor = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with brokers.mosquitto(folder / "broker") as broker:
            trainer, root = new_trainer(folder)
            agent = AgentProcess(folder / "agent", broker.port, root)
            with Spy(broker.port, SAID) as spy, Feeder(broker.port, READING) as feeder:
                try:
                    trainer.publish(broker, make_bundle(release=1).pack())
                    agent.start()
                    assert agent.process is not None
                    wait_for(lambda: champion(spy) == 1, "the first release", PATIENCE_S)
                    feeder.go_on()
                    found = worse_on_labels(broker, trainer, spy, 2)
                    for task in Path(f"/proc/{agent.process.pid}/task").iterdir():
                        os.sched_setaffinity(int(task.name), {processor})
                    found |= slow_on_probation(broker, trainer, spy, 3, processor)
                    feeder.pause()
                    wait_for(lambda: len(set(answered(spy))) == feeder.sent, "all predictions", PATIENCE_S)
                finally:
                    agent.close()
    lost = feeder.sent - len(set(answered(spy)))
    return report(
        {**found, "readings": feeder.sent, "lost": lost},
        {
            "the worse one was never heard": found["worse_readings_it_answered"] == 0,
            "the slow one was stopped for its slowness": found["slow"].startswith("too_slow"),
            "every reading was answered": lost == 0,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
