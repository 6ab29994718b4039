"""What is tried: the families that fit a task, and the settings of each that a study proposes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import optuna

from atoll_trainer.search.how import Fit, LossKind
from atoll_trainer.search.network import Plan
from atoll_trainer.task import FAMILIES, TaskFile, TaskKind
from atoll_trainer.task_tables import FamilyName

_LEAST_OVER_TIME: Final = 8
"""Rows from which convolutions and smoothing make sense."""
_MOST_COMPUTED: Final = 2_048
"""Numbers in a window of a linear model that is computed: its equations fill 0.5 GB."""
_WIDTHS: Final = (8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One thing to try.

    Attributes:
        family: Kind of model.
        length: Of the window.
        plan: Form of the network.
        fit: How it is fitted.
        penalty: Of a computed linear model.
        smoothing: Of a seasonal one: readings.
        kept: Of a linear anomaly model: principal components.
        weighting: How much rarer classes count more: 0, or up to 1, as much as they are rarer.
    """

    family: FamilyName
    length: int
    plan: Plan = field(default_factory=Plan)
    fit: Fit = field(default_factory=lambda: Fit(LossKind.SQUARE))
    penalty: float = 0.0
    smoothing: int = 0
    kept: int = 0
    weighting: float = 0.0

    @property
    def form(self) -> str:
        """What it is beside family and length, in words."""
        parts = []
        if self.plan.filters:
            ends = ", mean" if self.plan.pools else ""
            parts.append(f"{'-'.join(map(str, self.plan.filters))} of {self.plan.kernel}{ends}")
        if self.plan.widths:
            parts.append("-".join(map(str, self.plan.widths)))
        if self.smoothing:
            parts.append(f"smoothed over {self.smoothing}")
        if self.kept:
            parts.append(f"{self.kept} components")
        if self.weighting:
            parts.append(f"rare classes weighted {self.weighting:g}")
        return "; ".join(parts)


def families(task: TaskFile) -> list[FamilyName]:
    """Return the families that are tried."""
    possible = FAMILIES[task.task.kind]
    return [name for name in possible if not task.search.families or name in task.search.families]


def starts(task: TaskFile, lengths: list[int]) -> list[dict[str, Any]]:
    """Return what is tried first: each family with the shortest, a middle and the longest length."""
    found = []
    for family in families(task):
        suited = _suited(family, task, lengths)
        if suited:
            chosen = sorted({suited[0], suited[len(suited) // 2], suited[-1]})
            found += [{"family": family.value, f"{family.value}.length": length} for length in chosen]
    return found


def proposed(  # noqa: PLR0911 - one for each family
    trial: optuna.Trial, task: TaskFile, lengths: list[int], *, has_rare: bool
) -> Recipe:
    """Return what the study proposes."""
    possible = [name for name in families(task) if _suited(name, task, lengths)]
    family = FamilyName(trial.suggest_categorical("family", [name.value for name in possible]))
    length = trial.suggest_categorical(f"{family.value}.length", _suited(family, task, lengths))
    recipe = Recipe(family, length)
    if task.task.kind is TaskKind.CLASSIFICATION:
        shares = (0.0, 0.5, 1.0) if has_rare else (0.0,)
        recipe = replace(
            recipe, weighting=trial.suggest_categorical("weighting", shares), fit=Fit(LossKind.CROSS_ENTROPY)
        )
    match family:
        case FamilyName.LINEAR | FamilyName.SVM if task.task.kind is TaskKind.CLASSIFICATION:
            return _linear_classifier(trial, recipe, task)
        case FamilyName.LINEAR if task.task.kind is TaskKind.ANOMALY:
            most = min(64, task.with_length(length).manifest().inputs[0].size - 1)
            share = trial.suggest_float("linear.kept", 0.0, 0.9)
            return replace(recipe, kept=round(share**3 * most))
        case FamilyName.LINEAR:
            return replace(recipe, penalty=trial.suggest_float("linear.penalty", 1e-7, 1.0, log=True))
        case FamilyName.SEASONAL:
            smoothing = trial.suggest_categorical("seasonal.smoothing", [3, 7, 13, 25])
            penalty = trial.suggest_float("seasonal.penalty", 1e-7, 1.0, log=True)
            return replace(recipe, penalty=penalty, smoothing=smoothing)
        case FamilyName.AUTOENCODER:
            return _autoencoder(trial, recipe, task)
        case FamilyName.CONV:
            return _conv(trial, recipe, task)
        case _:
            return _mlp(trial, recipe, task)


def _suited(family: FamilyName, task: TaskFile, lengths: list[int]) -> list[int]:
    if family in {FamilyName.CONV, FamilyName.SEASONAL}:
        lengths = [length for length in lengths if length >= _LEAST_OVER_TIME]
    is_computed = family is FamilyName.LINEAR and task.task.kind is not TaskKind.CLASSIFICATION
    if is_computed or family is FamilyName.SEASONAL:
        sizes = {length: task.with_length(length).manifest().inputs[0].size for length in lengths}
        lengths = [length for length in lengths if sizes[length] <= _MOST_COMPUTED]
    return lengths


def _linear_classifier(trial: optuna.Trial, recipe: Recipe, task: TaskFile) -> Recipe:
    is_svm = recipe.family is FamilyName.SVM
    loss = LossKind.SQUARED_HINGE if is_svm else LossKind.CROSS_ENTROPY
    return replace(recipe, fit=_fit(trial, recipe.family.value, task, loss, (1e-2, 1e-1), can_rest=False))


def _mlp(trial: optuna.Trial, recipe: Recipe, task: TaskFile) -> Recipe:
    depth = trial.suggest_int("mlp.depth", 1, 3)
    width = trial.suggest_categorical("mlp.width", _WIDTHS)
    widths = tuple(max(4, width >> place) for place in range(depth))
    fit = _fit(trial, "mlp", task, _loss(trial, "mlp", task), (1e-3, 2e-2), can_rest=True)
    return replace(recipe, plan=Plan(widths), fit=fit)


def _conv(trial: optuna.Trial, recipe: Recipe, task: TaskFile) -> Recipe:
    depth = trial.suggest_int("conv.depth", 1, 2)
    filters = trial.suggest_categorical("conv.filters", (8, 16, 32))
    head = trial.suggest_categorical("conv.head", (0, 16, 32))
    plan = Plan(
        widths=(head,) if head else (),
        filters=(filters,) * depth,
        kernel=trial.suggest_categorical("conv.kernel", (3, 5, 9)),
        stride=2,
        pools=trial.suggest_categorical("conv.pools", (False, True)),
    )
    fit = _fit(trial, "conv", task, _loss(trial, "conv", task), (1e-3, 2e-2), can_rest=False)
    return replace(recipe, plan=plan, fit=fit)


def _autoencoder(trial: optuna.Trial, recipe: Recipe, task: TaskFile) -> Recipe:
    width = trial.suggest_categorical("autoencoder.width", (8, 16, 32, 64))
    narrow = trial.suggest_categorical("autoencoder.narrow", (1, 2, 4, 8))
    fit = _fit(trial, "autoencoder", task, LossKind.RESTORATION, (1e-3, 2e-2), can_rest=False)
    return replace(recipe, plan=Plan((width, narrow, width)), fit=fit)


def _loss(trial: optuna.Trial, name: str, task: TaskFile) -> LossKind:
    if task.task.kind is TaskKind.CLASSIFICATION:
        return LossKind.CROSS_ENTROPY
    chosen = trial.suggest_categorical(f"{name}.loss", [LossKind.ABSOLUTE.value, LossKind.HUBER.value])
    return LossKind(chosen)


def _fit(
    trial: optuna.Trial,
    name: str,
    task: TaskFile,
    loss: LossKind,
    rates: tuple[float, float],
    *,
    can_rest: bool,
) -> Fit:
    return Fit(
        loss,
        rate=trial.suggest_float(f"{name}.rate", *rates, log=True),
        batch=trial.suggest_categorical(f"{name}.batch", (32, 128)),
        decay=trial.suggest_float(f"{name}.decay", 1e-5, 1e-1, log=True),
        dropout=trial.suggest_categorical(f"{name}.dropout", (0.0, 0.1, 0.25)) if can_rest else 0.0,
        epochs=task.search.epochs,
        patience=task.search.patience,
        seed=task.search.seed,
    )
