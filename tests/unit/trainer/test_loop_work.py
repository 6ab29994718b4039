"""What the loop's jobs run: commands of the trainer, as a person would type them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.releases import Trainer, make_bundle, utc_now

from atoll_trainer.home import Home
from atoll_trainer.loop.course import Ended, Job, JobKind
from atoll_trainer.loop.work import BUNDLE, Means, Work

PUBLISH = Job(JobKind.PUBLISH, "press", 2, run="press-1")
Begin = Callable[..., Work]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer whose loop has made release 2 of press."""
    made = Trainer.create(tmp_path / "trainer")
    folder = made.folder / "loop" / "runs" / "press-1"
    folder.mkdir(parents=True)
    (folder / BUNDLE).write_bytes(make_bundle(release=2))
    return made


@pytest.fixture
def begin(trainer: Trainer) -> Iterator[Begin]:
    begun: list[Work] = []

    def begin(job: Job, **changes: object) -> Work:
        means = Means(
            settings=trainer.folder / "nowhere.toml",
            home=Home(trainer.folder),
            keys=(),
            passphrase_files=(),
            task=Path("press.toml"),
            train_s=60.0,
            worse_by=0.0,
            max_size_bytes=None,
            max_latency_us=None,
            canary_percent=10,
            max_delay_s=0,
            keep_runs=3,
        )
        begun.append(Work(job, replace(means, **changes), []))  # type: ignore[arg-type]  # its fields
        return begun[-1]

    yield begin
    for work in begun:
        work.stop()


def words(work: Work) -> list[str]:
    return [str(word) for word in work._process.args[3:]]  # type: ignore[union-attr,index]  # a list


def after(option: str, work: Work) -> str:
    line = words(work)
    return line[line.index(option) + 1]


def ended(work: Work) -> Ended:
    deadline = time.monotonic() + 60
    while (found := work.poll()) is None:
        assert time.monotonic() < deadline
        work._process.wait(60)
    return found


def test_a_training_finds_the_recordings_by_the_settings_be_they_in_a_bucket(begin: Begin) -> None:
    line = words(begin(Job(JobKind.TRAIN, "press", since_ms=5.0)))

    assert line[0] == "train"
    assert "--settings" in line
    assert "--recordings" not in line
    assert line[line.index("--since") + 1] == "5.000"


def test_a_release_that_is_signed_already_is_told_from_one_of_another_model(
    trainer: Trainer, begin: Begin
) -> None:
    trainer.sign(make_bundle("zinc", release=2), rollout_percent=50)
    assert after("--percent", begin(PUBLISH)) == "10"

    trainer.sign(make_bundle(release=2), rollout_percent=30)
    assert after("--percent", begin(PUBLISH)) == "30"


def test_a_number_that_was_given_away_meanwhile_is_replaced_and_kept(trainer: Trainer, begin: Begin) -> None:
    trainer.sign(make_bundle(release=2, size=100))

    work = begin(PUBLISH)

    assert words(work)[:2] == ["bundle", "--run"]
    assert after("--release", work) == "3"
    # It was published like that, and is completed after an interruption.
    (work._folder / BUNDLE).write_bytes(make_bundle(release=3))
    trainer.sign(make_bundle(release=3))
    again = begin(PUBLISH)
    assert words(again)[0] == "publish"
    assert ended(again).release == 3


def test_a_number_that_was_withdrawn_is_not_replaced(trainer: Trainer, begin: Begin) -> None:
    repository = trainer.sign(make_bundle(release=2))
    repository.withdraw("press", 2, "by hand")
    repository.commit(trainer.ring, utc_now())

    assert words(begin(PUBLISH))[0] == "publish"


def test_a_publication_that_fails_tells_whether_it_is_signed(trainer: Trainer, begin: Begin) -> None:
    before = ended(begin(PUBLISH))
    trainer.sign(make_bundle(release=2))
    after_it = ended(begin(PUBLISH))

    assert (before.is_done, before.is_signed) == (False, False)
    assert (after_it.is_done, after_it.is_signed, after_it.release) == (False, True, 2)
    assert "nowhere.toml" in after_it.detail


def test_limits_of_the_settings_are_the_gate_s(begin: Begin) -> None:
    free, bounded = begin(PUBLISH), begin(PUBLISH, max_size_bytes=4096, max_latency_us=250.0, worse_by=0.05)

    assert not {"--max-size", "--max-latency"} & set(words(free))
    assert after("--worse-by", free) == "0"
    assert [after(option, bounded) for option in ("--max-size", "--max-latency", "--worse-by")] == [
        "4096",
        "250",
        "0.05",
    ]
