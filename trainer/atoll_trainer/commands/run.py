"""``atoll-trainer run``: the closed loop, until it is stopped."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from atoll_contract.errors import ConfigError
from atoll_link.alive_file import ALIVE_S, AliveFile
from atoll_link.metrics import Exporter
from atoll_link.recorder import Site, Tally
from atoll_link.recording import Recording
from atoll_link.stop import Stop, stop_on_signals
from atoll_link.systemd import Notifier
from atoll_trainer.commands.options import add_trainer_options
from atoll_trainer.home import Home
from atoll_trainer.loop.course import Course, Policy
from atoll_trainer.loop.loop import Loop, Who
from atoll_trainer.loop.recording import RecorderThread
from atoll_trainer.loop.state import LoopFile, LoopStore, ModelState
from atoll_trainer.loop.work import Means
from atoll_trainer.metrics import RecorderMetrics
from atoll_trainer.repository import Repository
from atoll_trainer.settings import ModelTable, TrainerSettings
from atoll_trainer.task import TaskFile


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_trainer_options(parser)
    parser.add_argument("--check", action="store_true", help="read settings, tasks and repository, and end")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Each [[model]] of the settings is learnt anew when its agents report drift, after so many new\n"
        "labels, on a schedule or by request; gated; tried by a share of the devices; watched there; and\n"
        "then promoted or withdrawn. It learns from what is recorded: by the recorder that runs beside it,\n"
        "or by its own ([loop] records = true). What it is at stands on its status topic and in the log,\n"
        "and survives a restart (HOME/loop/loop.json). SIGTERM and Ctrl-C end it cleanly."
    )


def run(arguments: argparse.Namespace) -> int:
    """Go on until stopped."""
    path: Path = arguments.settings
    settings = TrainerSettings.read(path)
    if not settings.model:
        raise ConfigError(f"{path}: model: missing; add a [[model]] table for each model of the loop")
    home = Home.find(arguments.home or settings.trainer.home)
    tasks = _tasks(path, settings)
    Repository.load(home.repository)  # without one nothing can be published
    broker = settings.build_broker()
    if arguments.check:
        print(f"{path}: the loop keeps {', '.join(tasks)} up to date")  # noqa: T201 - the result
        return 0
    store = LoopStore(home.for_loop.folder)
    stored = store.read()
    trainer = settings.trainer
    trusted = frozenset(trainer.trusted_writers)
    who = Who(trainer.id, trainer.site, home.client_token(), version("atoll"), trusted)
    courses = {
        model: Course(_policy(model, table), _state(model, stored)) for model, (table, _) in tasks.items()
    }
    means = {
        model: Means(
            settings=path.absolute(),
            home=home,
            keys=tuple(arguments.keys),
            passphrase_files=tuple(arguments.passphrase_file),
            task=table.task.absolute(),
            train_s=table.train_s,
            worse_by=table.worse_by,
            max_size_bytes=table.max_size_bytes,
            max_latency_us=table.max_latency_us,
            canary_percent=table.canary_percent,
            max_delay_s=table.max_delay_s,
            keep_runs=table.keep_runs,
        )
        for model, (table, _) in tasks.items()
    }
    loop = Loop(who, broker, home, courses, means, store, stored)
    stop, service, alive = Stop(), Notifier(), AliveFile(trainer.alive_file, every_s=ALIVE_S)
    with ExitStack() as stack:
        recorder = None
        if settings.loop.records:
            streams = tuple(stream.build(trainer.site) for stream in settings.stream)
            client_id = f"{trainer.id}-record-{home.client_token()}"
            kept, site = settings.recordings, Site(trainer.site, streams, trusted)
            bucket = kept.bucket()

            def open_recording() -> Recording:
                return Recording(home.recordings, bucket=bucket, bounds=kept.bounds)

            recorder = stack.enter_context(RecorderThread(broker, client_id, home, site, open_recording))
        metrics = RecorderMetrics(
            lambda: Tally() if recorder is None else recorder.tally,
            lambda: loop.is_connected if recorder is None else recorder.is_connected,
            home.repository,
        )
        stack.enter_context(Exporter(settings.metrics, metrics.collect))
        stack.enter_context(stop_on_signals(stop, loop.wake))
        service.tell(READY="1")

        def on_step() -> None:
            service.beat()
            alive.beat()
            if recorder is not None:
                recorder.require_running()

        try:
            loop.run(lambda: stop.is_requested, on_step)
        finally:
            service.tell(STOPPING="1")
    return 0


def _tasks(path: Path, settings: TrainerSettings) -> dict[str, tuple[ModelTable, TaskFile]]:
    """Return the tables with their tasks, by model.

    Raises:
        ConfigError: With one line per fault.
    """
    tasks: dict[str, tuple[ModelTable, TaskFile]] = {}
    faults: list[str] = []
    streams = {stream.name for stream in settings.stream}
    for number, table in enumerate(settings.model):
        try:
            task = TaskFile.read(table.task)
        except ConfigError as error:
            faults += error.faults
            continue
        if task.task.model in tasks:
            faults.append(f"{path}: model[{number}].task: a second task of model {task.task.model!r}")
        if task.task.stream not in streams:
            faults.append(f"{path}: model[{number}].task: there is no stream {task.task.stream!r}")
        tasks[task.task.model] = (table, task)
    if faults:
        raise ConfigError(faults)
    return tasks


def _policy(model: str, table: ModelTable) -> Policy:
    return Policy(
        model=model,
        on_drift=table.on_drift,
        drift_agents=table.drift_agents,
        on_labels=table.on_labels,
        every_s=table.every_s,
        history_s=table.history_s,
        fresh_s=table.fresh_s,
        cool_down_s=table.cool_down_s,
        settle_s=table.settle_s,
        watch_s=table.watch_s,
        withdraw_above=table.withdraw_above,
    )


def _state(model: str, stored: LoopFile) -> ModelState:
    now_ms = time.time() * 1e3
    return stored.models.get(model) or ModelState(model=model, since_ms=now_ms, created_ms=now_ms)
