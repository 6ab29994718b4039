"""The demo's course of events, told as it goes."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from atoll_contract.messages import Command, SlotStatus
from atoll_sim.demo import files
from atoll_sim.demo.ports import free_port
from atoll_sim.demo.programs import Programs, command, module, quieten_tensorflow
from atoll_sim.demo.watch import Watch

READINGS_TO_LEARN_FROM: Final = 450
PREDICTIONS_TO_JUDGE: Final = 300
TOLERANCE: Final = 0.1
_PROGRAM_S: Final = 300.0
_FACT_S: Final = 90.0
_LABEL_DELAY_MS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Truth:
    """What the devices' process does: ``y = slope * x + intercept``."""

    slope: float
    intercept: float

    def __str__(self) -> str:
        sign = "+" if self.intercept >= 0 else "-"
        return f"y = {self.slope:g}x {sign} {abs(self.intercept):g}"


FIRST: Final = Truth(2.0, 1.0)
SECOND: Final = Truth(3.0, -1.0)


@dataclass(slots=True)
class Outcome:
    """What the demo found, figure by figure; ``failures`` names what is not as it should be."""

    figures: dict[str, float | int | str | None] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def require(self, claim: str, *, holds: bool) -> None:
        """Note a failure unless the claim holds."""
        if not holds:
            self.failures.append(claim)


class Story:
    """Runs the demo in ``folder`` and tells it on ``console``."""

    def __init__(
        self, folder: Path, console: Console, programs: Programs, *, has_dashboard: bool = False
    ) -> None:
        self._folder = folder
        self._console = console
        self._programs = programs
        self._has_dashboard = has_dashboard
        self._port = free_port()
        self._web_port = free_port()
        self._changed_ms = float("inf")
        self.outcome = Outcome()

    @property
    def port(self) -> int:
        """Port of the demo's broker."""
        return self._port

    @property
    def dashboard(self) -> str | None:
        """Address of the demo's web page, if there is one."""
        return f"http://127.0.0.1:{self._web_port}" if self._has_dashboard else None

    def play(self) -> None:
        """Play the whole demo; processes go on running until the programs' context is left."""
        self._set_the_stage()
        with Watch(self._port) as watch:
            self._start_the_actors(watch)
            self._learn_and_publish(watch, 1, FIRST)
            self._judge(watch, 1, "error_release_1")
            self._change_the_process(watch)
            self._learn_and_publish(watch, 2, SECOND)
            self._judge(watch, 2, "error_release_2")
            self._publish_a_bad_release(watch)
            self._come_to_an_end(watch)

    # The acts

    def _set_the_stage(self) -> None:
        quieten_tensorflow()
        files.write(self._folder, self._port, self._web_port)
        self._say("1. A broker, a trainer with keys for this demo only, an agent that trusts it")
        self._programs.start("broker", module("atoll_sim.demo.embedded_broker", str(self._port)))
        self._programs.wait_for_port(self._port)
        self._run("init", command("atoll-trainer", "init", "--home", "trainer", "--demo"), shows=None)
        self._run(
            "enrol",
            command("atoll-agent", "enrol", "--settings", "agent.toml", "--root", "trainer/root.json"),
            shows=None,
        )
        self._note(f"MQTT broker (amqtt) on 127.0.0.1:{self._port}; files in {self._folder}")
        if self._has_dashboard:
            self._programs.start(
                "dashboard",
                command("atoll-dashboard", "--settings", "dashboard.toml", "--log-level", "warning"),
            )
            self._note(f"watch it: {self.dashboard}")

    def _start_the_actors(self, watch: Watch) -> None:
        self._programs.start("agent", command("atoll-agent", "run", "--settings", "agent.toml"))
        status = self._wait(watch, lambda: watch.status, "the agent's status")
        self._note(f"agent is {status.health.value}: {status.detail or 'answering'}")
        self._say(f"2. Three devices publish readings x, and later the truth: {FIRST}, with noise")
        self._programs.start(
            "devices", command("atoll-sim", "run", "--broker", f"mqtt://127.0.0.1:{self._port}", "world.toml")
        )

    def _learn_and_publish(self, watch: Watch, release: int, truth: Truth) -> None:
        step = 3 if release == 1 else 5
        learns = f"records {READINGS_TO_LEARN_FROM} readings, learns, and publishes release {release}"
        self._say(f"{step}. The trainer {learns}")
        home, run = f"recorded-{release}", f"run-{release}"
        settings = ("--settings", "trainer.toml")
        self._run(
            "record",
            command(
                "atoll-trainer",
                *("record", *settings, "--home", home, "--json"),
                *("--readings", str(READINGS_TO_LEARN_FROM), "--for", "120"),
            ),
        )
        self._run(
            "train",
            command(
                "atoll-trainer",
                *("train", *settings, "--task", "task.toml", "--out", run),
                *("--recordings", f"{home}/recordings"),
                *(() if self._shows else ("--json",)),
            ),
            shows=self._shows,
        )
        self._check_weights(release, truth)
        self._run("optimise", command("atoll-trainer", "optimise", run, "--json"))
        evaluation = self._run("evaluate", command("atoll-trainer", "evaluate", run, "--json"))
        self._note(_evaluation(evaluation))
        self._publish(run, release)
        slot = self._wait(watch, lambda: _answering(watch, release), f"release {release} as champion")
        champion = slot.champion
        if champion is not None:
            self._note(f"agent: verified, self-tested, release {release} answers on {champion.backend}")
            self._note(f"       chosen since {champion.why}")
            self.outcome.figures["backend"] = champion.backend
        first_ms = self._wait(
            watch, lambda: watch.tally.first_arrival_ms(release), f"a prediction of release {release}"
        )
        self.outcome.figures[f"swap_s_release_{release}"] = round((first_ms - watch.announced_ms) / 1e3, 2)

    def _judge(self, watch: Watch, release: int, figure: str) -> None:
        # A label is not known before its delay: the error is that of a moment ago.
        count = PREDICTIONS_TO_JUDGE
        error = self._wait(watch, lambda: _enough(watch.tally.error(release), count), "labelled predictions")
        self.outcome.figures[figure] = round(error, 3)
        self._note(f"mean error of release {release}: {error:.3f} over {count}+ labelled predictions")

    def _change_the_process(self, watch: Watch) -> None:
        self._say(f"4. The process changes to {SECOND}, and nobody tells the model")
        order = Command(
            expires_ms=time.time() * 1e3 + 30_000,
            arguments={"slope_x": SECOND.slope, "intercept": SECOND.intercept},
        )
        for device in files.DEVICES:
            watch.command(device, "truth", order)
        # From here on devices may still label a reading by the old truth for a moment.
        self._changed_ms = time.time() * 1e3 + 1000.0
        error = self._wait(
            watch,
            lambda: _enough(watch.tally.error(1, since_ms=self._changed_ms), PREDICTIONS_TO_JUDGE),
            "labelled predictions after the change",
        )
        self.outcome.figures["error_after_change"] = round(error, 3)
        self._note(f"mean error of release 1 rises to {error:.3f}")

    def _publish(self, run: str, release: int) -> None:
        bundle = f"wear-{release}.atoll"
        self._run(
            "bundle",
            command(
                "atoll-trainer",
                *("bundle", "--run", run, "--release", str(release), "--out", bundle, "--json"),
            ),
        )
        settings = ("--settings", "trainer.toml")
        published = self._run("publish", command("atoll-trainer", "publish", *settings, bundle, "--json"))
        self._note(
            f"signed and pushed over retained topics: {published['topics_stored']} topics, "
            f"{published['bytes_stored']:,} bytes"
        )

    def _publish_a_bad_release(self, watch: Watch) -> None:
        self._say("6. By mistake, what was learnt before the change is published again, as release 3")
        self._publish("run-1", 3)
        slot = self._wait(watch, lambda: _refused(watch, 3), "the end of release 3")
        if slot.refused is not None:
            self._note(f"agent: stopped it, {slot.refused.detail}")
            self.outcome.figures["release_3"] = slot.refused.reason.value

    def _come_to_an_end(self, watch: Watch) -> None:
        self._programs.require_running()
        self._say("7. The devices stop; every reading must have its prediction")
        self._programs.stop("devices")
        tally = watch.tally
        deadline = time.monotonic() + 15.0
        while tally.lost and time.monotonic() < deadline:
            self._programs.require_running()
            time.sleep(0.1)
        p50, p99 = tally.latency_ms()
        figures = self.outcome.figures
        figures |= {
            "readings": tally.readings,
            "predictions": tally.predictions,
            "lost": tally.lost,
            "duplicated": tally.duplicated,
            "latency_p50_ms": round(p50, 2),
            "latency_p99_ms": round(p99, 2),
            "bytes_in": tally.bytes_in,
            "bytes_out": tally.bytes_out,
            "bytes_releases": tally.bytes_release,
        }
        by_release = tally.by_release()
        require = self.outcome.require
        require("no reading is lost", holds=tally.lost == 0)
        require("the releases 1 and 2 answered, and the bad one never", holds=set(by_release) == {1, 2})
        require("the bad release was stopped", holds=figures.get("release_3") == "error_too_large")
        before, during, after = (
            float(figures[name] or 0.0)
            for name in ("error_release_1", "error_after_change", "error_release_2")
        )
        require("the error rises with the change", holds=during > 2 * before)
        require("the error falls with release 2", holds=after < during / 2)

    # Telling

    @property
    def _shows(self) -> bool:
        return not self._console.quiet

    def _say(self, text: str) -> None:
        self._console.print(f"\n[bold]{text}[/bold]")

    def _note(self, text: str) -> None:
        self._console.print(f"   {text}", markup=False, highlight=False)

    def _run(self, name: str, words: list[str], *, shows: bool | None = False) -> dict[str, Any]:
        """Run a step to its end. ``shows``: on the terminal; None: what it prints is not JSON."""
        self._programs.require_running()
        if shows is None:
            self._programs.run_quietly(name, words, _PROGRAM_S)
            return {}
        return self._programs.run(name, words, _PROGRAM_S, shows=shows)

    def _wait(self, watch: Watch, fact: Any, what: str) -> Any:
        return watch.wait(fact, what, _FACT_S, self._programs.require_running)

    def _check_weights(self, release: int, truth: Truth) -> None:
        facts = json.loads((self._folder / f"run-{release}" / "run.json").read_text())
        w, b = facts["linear"]["w"][0][0], facts["linear"]["b"]
        losses = [loss["train"] for loss in facts["losses"]]
        self.outcome.figures |= {f"w_release_{release}": round(w, 4), f"b_release_{release}": round(b, 4)}
        self._note(
            f"learnt y = {w:.3f}x {'+' if b >= 0 else '-'} {abs(b):.3f} (truth {truth}); "
            f"loss {losses[0]:.4f} -> {losses[-1]:.4f}"
        )
        self.outcome.require(
            f"w and b of release {release} are within {TOLERANCE} of the truth",
            holds=abs(w - truth.slope) <= TOLERANCE and abs(b - truth.intercept) <= TOLERANCE,
        )


def _answering(watch: Watch, release: int) -> SlotStatus | None:
    slot = watch.slot(files.MODEL)
    return slot if slot and slot.champion and slot.champion.release == release else None


def _refused(watch: Watch, release: int) -> SlotStatus | None:
    slot = watch.slot(files.MODEL)
    return slot if slot and slot.refused and slot.refused.release == release else None


def _enough(error: tuple[float | None, int], count: int) -> float | None:
    return error[0] if error[1] >= count else None


def _evaluation(facts: dict[str, Any]) -> str:
    mae = {name.removesuffix("_model"): facts[name]["mae"] for name in ("naive", "float_model", "int8_model")}
    return "on the untouched part, mean error: " + ", ".join(
        f"{name} {value:.3f}" for name, value in mae.items()
    )
