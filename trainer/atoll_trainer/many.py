"""Many models, one for each device, trained side by side on Dask: on this machine or on a cluster.

The only importer of Dask. What comes of a group depends on its readings and its task alone, not on how
many workers there are or where they run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import dask
import distributed

from atoll_contract.errors import BrokerUnavailableError, ConfigError, TransientError
from atoll_contract.ids import is_id
from atoll_link.files import make_folder, write_whole
from atoll_trainer.dataset import Readings
from atoll_trainer.group import Ended, Ending, Work, group_of, train_group
from atoll_trainer.task import TaskFile

SUMMARY: Final = "groups.json"
_DASK: Final[Any] = distributed
"""Left untyped: its signatures are partly so."""
_CONNECT_S: Final = 20
_MAX_WHY_CHARS: Final = 300
_MODEL: Final = re.compile(r"""^([ \t]*model[ \t]*=[ \t]*)(?:"[^"\n]*"|'[^'\n]*')""", re.MULTILINE)


class ClusterLostError(TransientError):
    """The Dask scheduler does not answer, or has no workers."""

    default_reason = BrokerUnavailableError.default_reason


def works_of(
    task_path: Path, task: TaskFile, readings: Readings, least_windows: int, limit_s: float
) -> list[Work]:
    """Return the work for each device, in the order of their names.

    Raises:
        ConfigError: The id of a model would be none.
    """
    devices = sorted(set(readings.devices))
    names = {device: f"{task.task.model}-{device}" for device in devices}
    if long := [name for name in names.values() if not is_id(name)]:
        raise ConfigError(
            "task.model: with the name of its device it is no id of at most 48 characters: "
            f"{', '.join(long[:5])}"
        )
    text = task_path.read_text(encoding="utf-8")
    return [
        Work(
            device,
            _renamed(text, names[device], task_path),
            group_of(readings, device),
            least_windows,
            limit_s,
        )
        for device in devices
    ]


def train_all(
    works: Sequence[Work],
    folder: Path,
    *,
    workers: int,
    scheduler: str | None,
    on_end: Callable[[Ended], None],
) -> list[Ended]:
    """Return what came of each of ``works``, in their order, with a run folder each below ``folder``.

    Args:
        works: What is to be done.
        folder: Where the run folders go, and a summary.
        workers: Processes on this machine, where there is no scheduler.
        scheduler: Address of a Dask scheduler, whose workers have the same version of atoll.
        on_end: Told of each as it ends; the files of its run are on disk then.

    Raises:
        TransientError: The scheduler cannot be reached, or has no workers.
        StorageError: A run folder cannot be written.
    """
    found: dict[str, Ended] = {}
    with _client(min(workers, len(works)), scheduler) as client:
        # No two groups are equal by chance: the same work, sent again, must be done again.
        futures = {client.submit(train_group, work, pure=False, retries=2): work.name for work in works}
        for future in _DASK.as_completed(futures):
            error = future.exception()
            lost = f"{type(error).__name__}: {error}"[:_MAX_WHY_CHARS]  # its worker was ended, say
            ended = future.result() if error is None else Ended(futures[future], Ending.NONE, lost)
            _put(folder / ended.name, ended.files or {})
            found[ended.name] = ended
            on_end(ended)
    endings = [found[work.name] for work in works]
    write_whole(folder / SUMMARY, summary(endings).encode())
    return endings


def summary(endings: Sequence[Ended]) -> str:
    """Return ``groups.json``: what came of each group, without times, which differ from run to run."""
    groups: list[dict[str, Any]] = []
    for ended in endings:
        line: dict[str, Any] = {"group": ended.name, "ending": ended.ending.value, "windows": ended.windows}
        if ended.why:
            line["why"] = ended.why
        if ended.evaluation is not None:
            figures = ended.evaluation
            own = {name: _figures(getattr(figures, name)) for name in ("naive", "float_model", "int8_model")}
            line |= {"sha256": ended.sha256, "test_windows": figures.windows, **own}
        groups.append(line)
    return json.dumps({"format": 1, "groups": groups}, indent=1) + "\n"


def _figures(metrics: Any) -> dict[str, float]:
    left_out = {"latency_us", "sha256", "saturated"}
    figures: dict[str, float] = metrics.model_dump(exclude=left_out, exclude_none=True)
    return figures


def _renamed(text: str, model: str, path: Path) -> str:
    renamed, count = _MODEL.subn(lambda match: f'{match[1]}"{model}"', text)
    if count != 1:
        raise ConfigError(f'{path}: task.model: must stand once, on a line of its own: model = "..."')
    return renamed


def _put(folder: Path, files: dict[str, bytes]) -> None:
    # run.json last: a folder with it is complete.
    for name in sorted(files, key=lambda name: (name == "run.json", name)):
        make_folder((folder / name).parent)
        write_whole(folder / name, files[name])


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    if scheduler is not None:
        try:
            client = _DASK.Client(scheduler, timeout=_CONNECT_S)
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterLostError(f"--scheduler {scheduler}: does not answer: {error}") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=_CONNECT_S)
            except TimeoutError as error:
                raise ClusterLostError(
                    f"--scheduler {scheduler}: has no workers: dask worker {scheduler}"
                ) from error
            yield client
        return
    quiet = {"distributed.worker.memory.terminate": False, "distributed.admin.tick.limit": "1m"}
    with (
        dask.config.set(quiet),
        _DASK.LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        _DASK.Client(cluster) as client,
    ):
        yield client
