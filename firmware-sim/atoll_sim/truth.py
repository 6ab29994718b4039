"""What is true of a reading: the label that a simulated device publishes after it. Pure.

The truth is linear in the undisturbed signals, so that whoever learns it can be checked: ``y`` is
the sum of slope times signal, plus the intercept, plus noise.

The table ``[device.truth]`` of a world file is :class:`Truth`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from numpy.random import Generator
from pydantic import ConfigDict, Field

from atoll_contract.errors import MalformedMessageError
from atoll_contract.messages import Id
from atoll_sim.signals import LARGEST, STRICT, NotNegative, Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """How the label of a reading follows from its signals.

    Attributes:
        model: Id of the model that the labels are for.
        slope: Slope of each signal that counts, by its name.
        intercept: What is left when all of them are 0.
        noise: Standard deviation of what nothing explains.
        label_delay_s: How long after its reading a label is known.
        labelled_share: Share of the readings that get a label, drawn at random.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    model: Id
    slope: Mapping[str, Number]
    intercept: Number = 0.0
    noise: NotNegative = 0.0
    label_delay_s: NotNegative = 0.0
    labelled_share: Annotated[float, Field(ge=0, le=1)] = 1.0

    def label(self, signals: Mapping[str, float], generator: Generator) -> float | None:
        """Return the label of a reading with these undisturbed ``signals``, or None for no label.

        It draws twice from ``generator`` whatever the outcome, so that a command that changes the
        truth leaves later noise as it was.
        """
        noise, lot = generator.standard_normal(), generator.random()
        if lot >= self.labelled_share:
            return None
        explained = sum(slope * signals[name] for name, slope in self.slope.items())
        return explained + self.intercept + self.noise * noise

    def changed(self, arguments: Mapping[str, float | str | bool]) -> Truth:
        """Return the truth as a command changes it: ``slope_NAME``, ``intercept``, ``noise``.

        Raises:
            MalformedMessageError: No or another argument, or one that is no number of use.
        """
        if not arguments:
            raise MalformedMessageError("truth: no arguments; slope_NAME, intercept or noise is wanted")
        numbers = {name: _number(name, value) for name, value in arguments.items()}
        slope = dict(self.slope)
        for name, number in numbers.items():
            if name.removeprefix("slope_") in slope and name.startswith("slope_"):
                slope[name.removeprefix("slope_")] = number
            elif name not in {"intercept", "noise"}:
                known = ", ".join([*(f"slope_{signal}" for signal in slope), "intercept", "noise"])
                raise MalformedMessageError(f"truth: unknown argument {name[:48]!r}; known: {known}")
        noise = numbers.get("noise", self.noise)
        if noise < 0:
            raise MalformedMessageError("truth: noise is below 0")
        return replace(self, slope=slope, intercept=numbers.get("intercept", self.intercept), noise=noise)


def _number(name: str, value: float | str | bool) -> float:  # noqa: FBT001 - what a command may carry
    if isinstance(value, str | bool):
        raise MalformedMessageError(f"truth: {name[:48]!r} is not a number")
    if abs(value) > LARGEST:
        raise MalformedMessageError(f"truth: {name[:48]!r} is beyond {LARGEST:g}")
    return value
