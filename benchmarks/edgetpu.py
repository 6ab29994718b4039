"""What an Edge TPU's child costs, what contests find, how runtimes differ, what models cost each other.

The device is the stand-in of the tests: what is measured is the way to it and back. Needs gcc. Prints tables.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import select
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from support import edgetpu_stub
from support.edgetpu_stub import USB, Layer, compiled, fully_connected
from support.edgetpus import TpuBench
from support.lanes import Clock, lane_plan, stream
from support.scripted_wire import ScriptedWaiter, ScriptedWire

from atoll_agent.lane.lane import Lane
from atoll_contract.bundle import Bundle
from atoll_contract.manifest import Manifest, Normalisation, Task, ValueSpec
from atoll_infer import contest, edgetpu, golden, tuning
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Runtime, look_for_runtimes

MODELS = Path(__file__).parent / "models"


def main() -> None:
    """Measure all, or the parts that are named."""
    parts = {
        "transport": transport,
        "child": child,
        "contest": tables,
        "int8": int8,
        "models": models,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}; by default all")
    for part in parser.parse_args().parts or parts:
        print(f"\n## {part}: {parts[part].__doc__}\n", flush=True)
        parts[part]()


def times_us(work: Callable[[], object], times: int = 3000) -> list[float]:
    for _ in range(50):
        work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append((time.perf_counter() - started) * 1e6)
    return sorted(taken)


def median_us(work: Callable[[], object], times: int = 3000) -> float:
    return statistics.median(times_us(work, times))


# Pipe against shared memory


def transport() -> None:
    """Ways to hand a tensor to another process and get an answer, median us."""
    print(
        "| tensor | through pipes | shared memory, tokens through pipes | shared memory, tokens by socket |"
    )
    print("|---|---|---|---|")
    for name, size in (("[1,8]", 8), ("[1,64,3]", 192), ("128x128x3", 49_152), ("224x224x3", 150_528)):
        found = [median_us(_transport(kind, size), 2000) for kind in ("pipe", "shared", "socket")]
        print(f"| {name} | {' | '.join(f'{us:.1f}' for us in found)} |", flush=True)


def _transport(kind: str, size: int) -> Callable[[], object]:
    """Start a process that answers, and return what asks it once; the process ends with this one."""
    context = multiprocessing.get_context("fork")
    memory = mmap.mmap(-1, size)
    if kind == "socket":
        ours, theirs = context.Pipe()  # a socket pair
        ends = (ours.fileno(), ours.fileno(), theirs.fileno(), theirs.fileno())
        keep: object = (ours, theirs)
    else:
        (there, to), (back, answer) = os.pipe(), os.pipe()
        ends = (to, back, there, answer)
        keep = None
    process = context.Process(target=_answer, args=(kind, size, memory, ends[2], ends[3]), daemon=True)
    process.start()
    tensor = np.zeros(size, np.uint8)
    shared = np.frombuffer(memory, np.uint8)
    poll = select.poll()
    poll.register(ends[1], select.POLLIN)

    def ask() -> None:
        if kind == "pipe":
            left = memoryview(tensor.tobytes())
            while left:
                left = left[os.write(ends[0], left) :]
        else:
            shared[:] = tensor
            os.write(ends[0], bytes(8))
        poll.poll(2000)
        os.read(ends[1], 8)

    ask.keep = keep  # type: ignore[attr-defined]
    return ask


def _answer(kind: str, size: int, memory: mmap.mmap, asked: int, answer: int) -> None:
    shared = np.frombuffer(memory, np.uint8)
    while True:
        left = size if kind == "pipe" else 8
        while left:
            left -= len(os.read(asked, left))
        shared.copy()
        os.write(answer, bytes(8))


# The child against a direct call


def child() -> None:
    """An inference on the stand-in, in this process and in the child, us: median, and the fastest tenth."""
    layers = {
        "[1,8]": ([1, 8], 4),
        "[1,64,3]": ([1, 64, 3], 4),
        "128x128x3": ([1, 128, 128, 3], 1),
    }
    print("| tensor | direct | child | difference | of the fastest tenth |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        bench = TpuBench(Path(folder))
        bench.sysfs.plug_usb("1-1")
        runtime = _runtimes()[0]
        library = edgetpu.load_library(str(edgetpu_stub.build()))
        _, delegate = edgetpu.open_device(library, [runtime], USB)
        for name, (shape, outputs) in layers.items():
            size = int(np.prod(shape))
            # A picture's thousands of products would be the model's own cost: a sparse one has few.
            layer = Layer(np.ones((outputs, size)), np.zeros(outputs), np.full(outputs, 1e-3 / size), 0, 0)
            ends = ((shape, 0.05, 0), ([1, outputs], 0.1, 0))
            content, twin = compiled([layer], *ends), runtime.load(fully_connected(layer, *ends))
            direct = runtime.load(content, delegate=delegate)
            placed = bench.tpus.place(content, twin, lambda _model: None, None)
            placed.wait_ready()
            tensor = np.ones(shape, np.int8)
            taken = [times_us(partial(model.invoke, tensor)) for model in (direct, placed)]
            assert not placed.is_degraded
            one, two = map(statistics.median, taken)
            fast = taken[1][len(taken[1]) // 10] - taken[0][len(taken[0]) // 10]
            print(f"| {name} | {one:.1f} | {two:.1f} | {two - one:.1f} | {fast:.1f} |", flush=True)
        bench.tpus.close()


# The contest


def tables() -> None:
    """The table of the contest, for float and int8 models, us."""
    for name, bundle in _bundles().items():
        held = contest.hold(
            bundle, list(look_for_runtimes()), key="", cpus=len(os.sched_getaffinity(0)), preferred=None
        )
        print(f"- {name}: {held.why}", flush=True)


def _bundles() -> dict[str, Bundle]:
    found = {file.stem: _bundle(file.read_bytes()) for file in sorted(MODELS.glob("*.tflite"))}
    rng = np.random.default_rng(1)
    for name, shape, outputs in (("dense8_int8", [1, 8], 1), ("dense64x3_int8", [1, 64, 3], 4)):
        size = int(np.prod(shape))
        layer = Layer(
            rng.integers(-127, 127, (outputs, size)), np.zeros(outputs), np.full(outputs, 1e-3), 0, 0
        )
        found[name] = _bundle(fully_connected(layer, (shape, 0.05, 0), ([1, outputs], 0.1, 0)))
    folder = os.environ.get("ATOLL_DATA")
    if folder:
        for name in ("mobilenet_v1_0.25_128_quant", "keras_lstm_mnist_ptq"):
            found[name] = _bundle((Path(folder) / "models" / f"{name}.tflite").read_bytes())
    return found


def _bundle(content: bytes) -> Bundle:
    """Return a bundle whose golden vectors come from the model in the first runtime."""
    model = _runtimes()[0].load(content)
    shape = model.inputs[0].shape[1:]
    described = Manifest(
        model="m",
        release=1,
        task=Task.FORECAST,
        values=[ValueSpec(name="x", shape=shape)],
        features=["x"],
        normalisation=Normalisation(mean=[0.0], scale=[1.0]),
        inputs=model.inputs,
        outputs=model.outputs,
        tolerance=8 if model.outputs[0].scale else 1e-4,
    )
    size = int(np.prod(shape))
    windows = np.random.default_rng(2).uniform(0, 1, (4, 1, size)).astype(np.float32)
    return Bundle(described, content, golden.record(Predictor(described, model), windows))


# Two runtimes


def int8() -> None:
    """The largest difference of int8 outputs between runtimes, on 10,000 inputs each, or for 20 s."""
    runtimes = _runtimes()
    if len(runtimes) < 2:
        print("only one runtime works here")
        return
    rng = np.random.default_rng(3)
    for name, bundle in _bundles().items():
        spec = bundle.manifest.inputs[0]
        if not spec.scale:
            continue
        one, other = (runtime.load(bundle.model) for runtime in runtimes[:2])
        limits = np.iinfo(spec.dtype.value)
        most, differing, asked = 0, 0, 0
        until = time.monotonic() + 20
        while asked < 10_000 and time.monotonic() < until:
            asked += 1
            tensor = rng.integers(limits.min, limits.max + 1, spec.shape).astype(spec.dtype.value)
            difference = int(np.abs(one.invoke(tensor).astype(int) - other.invoke(tensor).astype(int)).max())
            most, differing = max(most, difference), differing + (difference > 0)
        print(f"- {name}: at most {most} LSB; {differing} of {asked} inputs differ", flush=True)


# Several models


def models() -> None:
    """From the arrival of a reading to its prediction, for small models, each on a stream of its own, us."""
    small = _bundle((MODELS / "mlp8.tflite").read_bytes())
    slow = _bundle((MODELS / "slow8.tflite").read_bytes())
    print("| models | p50 | p99 | answers of the slow one |\n|---|---|---|---|")
    for name, bundles in (
        ("1 small", [small]),
        ("8 small", [small] * 8),
        ("7 small beside a slow one (50 ms alone on a desktop core)", [*[small] * 7, slow]),
    ):
        taken, of_slow = _beside(bundles)
        p50, p99 = np.percentile(taken, (50, 99))
        print(f"| {name} | {p50:.0f} | {p99:.0f} | {of_slow or ''} |", flush=True)


def _beside(bundles: list[Bundle]) -> tuple[list[float], int]:
    """Let all answer in one lane, a reading of one stream at a time; the slow one is at work all the time."""
    names = [f"m{number}" for number in range(len(bundles))]
    wires = {name: ScriptedWire() for name in names}
    plan = lane_plan(*map(stream, names), models=[(name, name) for name in names], max_devices=9)
    lane = Lane(ScriptedWaiter(**wires), plan, site="site", agent="pi", clock=Clock())
    runtime = _runtimes()[0]
    slow = []
    for name, bundle in zip(names, bundles, strict=True):
        manifest = bundle.manifest.model_copy(update={"model": name})
        predictor = Predictor(manifest, runtime.load(bundle.model))
        tuning.tune(predictor, bundle, runtime)
        if predictor.answer_s >= tuning.SLOW_S:
            slow.append(name)
        lane.swap(predictor, has_restarted=False)
        wires[name].connect()
    lane.turn(0)
    payload = b'{"time_ms":1,"values":{"x":[0,0,0,0,0,0,0,0]}}'

    def deliver(name: str) -> None:
        wires[name].deliver(f"atoll/v1/site/d/reading/{name}", payload, qos=0)

    asked = dict.fromkeys(slow, 0)
    taken = []
    for turn in range(4000):
        name = names[turn % len(names)]
        if name in slow:
            if asked[name] == len(wires[name].sent):
                asked[name] += 1
                deliver(name)
            lane.turn(0)
            continue
        before = len(wires[name].sent)
        deliver(name)
        began = time.perf_counter()
        while len(wires[name].sent) == before:
            lane.turn(0)
        taken.append((time.perf_counter() - began) * 1e6)
    return taken, sum(len(wires[name].sent) for name in slow)


def _runtimes() -> list[Runtime]:
    return [looked.runtime for looked in look_for_runtimes() if looked.runtime is not None]


if __name__ == "__main__":
    main()
