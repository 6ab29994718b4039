"""The trainer's steps from a recording to a bundle, for every model of a world."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from atoll_sim.demo.programs import Programs, command
from atoll_sim.worlds.parts import SIDE
from atoll_sim.worlds.scenario import Lesson

_PROGRAM_S: Final = 1800.0
"""Minutes are enough, unless the machine has much else to do."""


class School:
    """Trains models with ``trainer.toml`` and the task files in the folder of ``programs``."""

    def __init__(self, programs: Programs, folder: Path) -> None:
        self._programs = programs
        self._folder = folder

    def bundle(self, lesson: Lesson, recordings: str) -> tuple[Path, str]:
        """Return the bundle of a model that is learnt from ``recordings``, and how good it is, in words.

        Raises:
            ProgramFailedError: The trainer cannot make it.
        """
        run, out = f"run-{lesson.model}", f"{lesson.model}-1.atoll"
        settings = ("--settings", "trainer.toml")
        if lesson.task is None:
            facts = self._trainer(
                "train-pictures",
                *(*settings, "--model", lesson.model, "--stream", lesson.stream),
                *("--labels", ",".join(lesson.labels), "--size", f"{SIDE}x{SIDE}"),
                *("--recordings", recordings, "--out", run, "--json"),
            )
            self._trainer(
                "bundle",
                *("--manifest", f"{run}/model.toml", "--model", f"{run}/model.tflite"),
                *("--samples", f"{run}/samples", "--release", "1", "--out", out, "--json"),
            )
            right, total = 100 * facts["accuracy"], facts["test_pictures"]
            return self._folder / out, f"right about {right:.1f} % of {total:,} pictures it had not seen"
        self._trainer(
            "train",
            *(*settings, "--task", f"{lesson.model}.toml"),
            *("--recordings", recordings, "--out", run, "--json"),
        )
        self._trainer("optimise", run, "--json")
        facts = self._trainer("evaluate", run, "--json")
        self._trainer("bundle", "--run", run, "--release", "1", "--out", out, "--json")
        naive, int8 = facts["naive"]["mae"], facts["int8_model"]["mae"]
        return self._folder / out, (
            f"mean error {int8:.3g} {facts['unit'] or ''} on what it had not seen; "
            f"naive guess ({facts['naive_kind']}) {naive:.3g}"
        )

    def _trainer(self, name: str, *arguments: str) -> dict[str, Any]:
        return self._programs.run(name, command("atoll-trainer", name, *arguments), _PROGRAM_S)
