"""The faults, each a function that inflicts it and returns when it is over."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from device_faults import (
    clock_1970,
    clock_back,
    clock_forward,
    disk_full,
    disk_read_only,
    disk_slow,
    no_descriptors,
    no_memory,
    state_corrupted,
)
from netns import Namespace
from scene import SPOOL, Scene
from scene_acts import let_pass, publish
from support.agents import AgentProcess
from world import READING, SITE

_BEYOND_KEEPALIVE_S: Final = 9.0
Inflict = Callable[[Scene, random.Random], None]


@dataclass(frozen=True)
class Fault:
    """What is done, and how often compared with others.

    Attributes:
        where: Whose fault it is.
        name: What happens.
        inflict: Does it.
        weight: How often.
        needs_root: Whether it needs namespaces and mounts of its own.
    """

    where: str
    name: str
    inflict: Inflict
    weight: int = 4
    needs_root: bool = False


# The agent


def agent_killed(scene: Scene, rng: random.Random) -> None:
    scene.agent.kill()
    let_pass(scene, rng.uniform(0, 1))
    scene.start_agent()


def agent_ended(scene: Scene, _rng: random.Random) -> None:
    scene.agent.stop(timeout_s=60)
    scene.start_agent()


def agent_stopped(scene: Scene, rng: random.Random) -> None:
    _pause(scene, scene.pid, rng.uniform(0.5, 3))


def agent_stopped_long(scene: Scene, _rng: random.Random) -> None:
    _pause(scene, scene.pid, _BEYOND_KEEPALIVE_S)


def _pause(scene: Scene, pid: int, seconds: float) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        let_pass(scene, seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def same_id(scene: Scene, _rng: random.Random) -> None:
    """Another device with this id, and a token of its own: both answer, and say `duplicate_id`."""
    root = scene.trainer.home / "root.json"
    twin = AgentProcess(
        scene.folder / "twin",
        scene.broker.port,
        root,
        prefix=_prefix(scene),
        more="[spool]\nenabled = false\n",
    )
    _beside(scene, twin, 6)


def same_token(scene: Scene, _rng: random.Random) -> None:
    """The card was copied: both take each other's sessions away."""
    root = scene.trainer.home / "root.json"
    twin = AgentProcess(scene.folder / "twin", scene.broker.port, root, prefix=_prefix(scene), more=SPOOL)
    shutil.rmtree(twin.folder / "state")
    shutil.copytree(scene.state, twin.folder / "state")
    _beside(scene, twin, 6)


def _prefix(scene: Scene) -> list[str]:
    return [] if scene.agent_net is None else scene.agent_net.prefix


def _beside(scene: Scene, twin: AgentProcess, seconds: float) -> None:
    scene.start_agent(twin)
    try:
        deadline = time.monotonic() + 20
        while not twin.events("model.activated") and time.monotonic() < deadline:
            let_pass(scene, 0.2)
        let_pass(scene, seconds)
    finally:
        # What it has taken and not answered, the broker sends to the other one only after a clean stop.
        twin.stop(timeout_s=60)
        shutil.rmtree(twin.folder)


# The trainer


def trainer_killed(scene: Scene, rng: random.Random) -> None:
    scene.release += 1
    trainer = scene.publishing(scene.release)
    let_pass(scene, rng.uniform(0.5, 8))
    trainer.kill()
    trainer.wait(20)
    scene.complete_release()


def trainer_stopped(scene: Scene, rng: random.Random) -> None:
    scene.release += 1
    trainer = scene.publishing(scene.release)
    let_pass(scene, rng.uniform(0.5, 4))
    _pause(scene, trainer.pid, 3)
    if trainer.wait(120):
        scene.complete_release()


def trainer_cut(scene: Scene, rng: random.Random) -> None:
    scene.release += 1
    trainer = scene.publishing(scene.release)
    while trainer.poll() is None:
        let_pass(scene, rng.uniform(0.2, 2))
        scene.trainer_line.cut()
        if rng.random() < 0.3:
            break
    if trainer.wait(120):
        scene.complete_release()


# The broker


def broker_stopped(scene: Scene, rng: random.Random) -> None:
    assert scene.broker.process is not None
    _pause(scene, scene.broker.process.pid, rng.uniform(0.5, 3))


def broker_stopped_long(scene: Scene, _rng: random.Random) -> None:
    assert scene.broker.process is not None
    _pause(scene, scene.broker.process.pid, _BEYOND_KEEPALIVE_S)


def broker_restarted(scene: Scene, rng: random.Random) -> None:
    scene.broker.stop()
    let_pass(scene, rng.uniform(0, 2))
    scene.broker.start()


# The line


def cut(scene: Scene, _rng: random.Random) -> None:
    scene.agent_line.cut()


def cuts(scene: Scene, rng: random.Random) -> None:
    for _ in range(5):
        scene.agent_line.cut()
        let_pass(scene, rng.uniform(0.1, 0.8))


def refused(scene: Scene, rng: random.Random) -> None:
    scene.agent_line.refuses = True
    scene.agent_line.cut()
    let_pass(scene, rng.uniform(1, 4))
    scene.agent_line.heal()


def delayed(scene: Scene, rng: random.Random) -> None:
    scene.agent_line.delay_s = rng.uniform(0.1, 0.5)
    let_pass(scene, 3)
    scene.agent_line.heal()


def half_open(scene: Scene, rng: random.Random) -> None:
    scene.agent_line.swallows = True
    let_pass(scene, rng.uniform(1, 3))
    scene.agent_line.heal()


def half_open_long(scene: Scene, _rng: random.Random) -> None:
    scene.agent_line.swallows = True
    let_pass(scene, 12)
    scene.agent_line.heal()


def half_open_up(scene: Scene, rng: random.Random) -> None:
    """What is worst for answers: readings come, and nothing that is said arrives."""
    scene.agent_line.swallows_up = True
    let_pass(scene, rng.uniform(1, 4))
    scene.agent_line.heal()


def slow_reader(scene: Scene, rng: random.Random) -> None:
    scene.agent_line.stalls = True
    let_pass(scene, rng.uniform(1, 4))
    scene.agent_line.heal()


def loss(scene: Scene, rng: random.Random) -> None:
    with _net(scene) as net:
        net.lose(rng.choice((5, 10, 20, 40)))
        let_pass(scene, 4)
        net.heal_loss()


def rate(scene: Scene, rng: random.Random) -> None:
    with _net(scene) as net:
        net.throttle(rng.choice((32, 64, 128)))
        let_pass(scene, 4)
        net.heal_rate()


def unplugged(scene: Scene, rng: random.Random) -> None:
    with _net(scene) as net:
        net.unplug()
        let_pass(scene, rng.uniform(1, 4))
        net.plug()


def partition(scene: Scene, rng: random.Random) -> None:
    with _net(scene) as net:
        net.lose(100)
        let_pass(scene, rng.uniform(1, 4))
        net.heal_loss()


def partition_long(scene: Scene, _rng: random.Random) -> None:
    with _net(scene) as net:
        net.lose(100)
        let_pass(scene, 12)
        net.heal_loss()


@contextmanager
def _net(scene: Scene) -> Iterator[Namespace]:
    assert scene.agent_net is not None
    yield scene.agent_net


# Messages


def malformed_flood(scene: Scene, rng: random.Random) -> None:
    publish(scene, READING, [rng.randbytes(rng.randrange(200)) for _ in range(3000)])


def oversized(scene: Scene, _rng: random.Random) -> None:
    publish(scene, READING, [b"[" * 5_000_000, b'{"values":' * 400_000])


def retained_rubbish(scene: Scene, rng: random.Random) -> None:
    """On every topic that the agent hears; taken away afterwards, and the releases put back."""
    own = f"atoll/v1/{SITE}"
    topics = [
        READING,
        f"{own}/pi/status",
        f"{own}/pi/slot/wear",
        f"{own}/pi/drift/wear",
        f"{own}/operator/request/pi/skip_delay",
        f"{own}/operator/command/pi/stop",
        f"{own}/press-1/label/press-1/wear",
    ]
    releases = ["atoll/v1/releases/metadata/timestamp.json", "atoll/v1/releases/metadata/root.json"]
    for topic in (*topics, *releases):
        publish(scene, topic, [rng.randbytes(300)], retain=True)
    let_pass(scene, 1)
    scene.agent_line.cut()
    let_pass(scene, 3)
    for topic in topics:
        publish(scene, topic, [b""], retain=True)
    scene.complete("republish")


FAULTS: Final = (
    Fault("agent", "killed, started again", agent_killed, 12),
    Fault("agent", "ended and started", agent_ended),
    Fault("agent", "stopped for up to 3 s", agent_stopped, 6),
    Fault("agent", "stopped beyond the keepalive", agent_stopped_long, 1),
    Fault("agent", "a second one with its id", same_id, 1),
    Fault("agent", "a second one with its id and token", same_token, 1),
    Fault("trainer", "killed while it publishes", trainer_killed, 2),
    Fault("trainer", "stopped while it publishes", trainer_stopped, 1),
    Fault("trainer", "cut off while it publishes", trainer_cut, 1),
    Fault("broker", "stopped for up to 3 s", broker_stopped, 4),
    Fault("broker", "stopped beyond the keepalive", broker_stopped_long, 1),
    Fault("broker", "ended and started", broker_restarted, 3),
    Fault("line", "cut", cut, 24),
    Fault("line", "cut five times", cuts, 8),
    Fault("line", "refuses connections", refused, 6),
    Fault("line", "0.1 to 0.5 s slow", delayed, 6),
    Fault("line", "half-open", half_open, 8),
    Fault("line", "half-open beyond the keepalive", half_open_long, 1),
    Fault("line", "half-open upwards", half_open_up, 8),
    Fault("line", "takes nothing from the broker", slow_reader, 6),
    Fault("network", "loses 5 to 40 % of the packets", loss, 4, needs_root=True),
    Fault("network", "32 to 128 kbit/s", rate, 4, needs_root=True),
    Fault("network", "no carrier", unplugged, 5, needs_root=True),
    Fault("network", "partition of up to 4 s", partition, 5, needs_root=True),
    Fault("network", "partition of 12 s", partition_long, 1, needs_root=True),
    Fault("disk", "full", disk_full, 3, needs_root=True),
    Fault("disk", "read-only", disk_read_only, 2, needs_root=True),
    Fault("disk", "fsync takes 0.2 s", disk_slow, 2),
    Fault("limits", "out of descriptors", no_descriptors, 3),
    Fault("limits", "out of memory", no_memory, 2),
    Fault("clock", "1970 and back", clock_1970, 1),
    Fault("clock", "20 days ahead and back", clock_forward, 1),
    Fault("clock", "20 days behind and back", clock_back, 1),
    Fault("state", "a file is corrupted", state_corrupted, 6),
    Fault("messages", "3,000 malformed ones at once", malformed_flood, 3),
    Fault("messages", "5 MB each", oversized, 2),
    Fault("messages", "retained rubbish on every topic", retained_rubbish, 1),
)
