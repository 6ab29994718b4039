"""The child process that owns an Edge TPU, as the agent sees it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from typing import Any, Final

from numpy.typing import NDArray

from atoll_agent.adapters.child_environment import child_environment
from atoll_agent.adapters.edgetpu_wire import (
    CONTROL,
    DONE,
    TOKEN,
    SharedTensors,
    receive,
    send,
    shared_memory,
)
from atoll_contract.errors import AcceleratorLostError, BundleRejectedError, Reason
from atoll_contract.manifest import TensorSpec
from atoll_infer.runtime import ModelFailedError

_MODULE: Final = "atoll_agent.children.edgetpu"
_LOG_BYTES: Final = 4096
_END_S: Final = 2.0
_STUCK: Final = "its process cannot be ended: power off the device, or reboot"
_LATER_NUMBERS: Final = 0xFFFFFFFF


class EdgeTpuChild:
    """A running child. One caller at a time, but for :meth:`kill`, :meth:`nudge` and :meth:`heed`.

    Attributes:
        loaded: The models that it has loaded, with their tensors.
        checked: Those of them that may be used.
        answered: How many inferences it has done.
        runtime: What runs the models, once it is open.
    """

    def __init__(self) -> None:
        try:
            self._start()
        except OSError as error:
            raise AcceleratorLostError(f"the child of the Edge TPU cannot be started: {error}") from error
        self._answering = select.poll()
        self._answering.register(self._answers, select.POLLIN)
        self._number = 0
        self._log = b""
        self._opened = ""
        self.loaded: dict[int, SharedTensors] = {}
        self.checked: set[int] = set()
        self.answered = 0
        self.runtime = ""

    def _start(self) -> None:
        with ExitStack() as its, ExitStack() as own:
            orders, self._orders = os.pipe()
            its.callback(os.close, orders)
            own.callback(os.close, self._orders)
            self._answers, answers = os.pipe()
            its.callback(os.close, answers)
            own.callback(os.close, self._answers)
            self._peer, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            its.enter_context(channel)
            own.enter_context(self._peer)
            self._nudges = os.eventfd(0)
            own.callback(os.close, self._nudges)
            ends = (orders, answers, channel.fileno())
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", _MODULE, *map(str, ends)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=ends,
                env=child_environment(),
                start_new_session=True,
            )
            self._own = own.pop_all()

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone; the kernel keeps one whose driver does not return."""
        return self._process.poll() is not None

    def open(self, library: str, path: str, timeout_s: float) -> None:
        """Let it open the device at ``path``.

        Raises:
            AcceleratorLostError: It cannot; the driver's own words are in the log, see :meth:`with_log`.
        """
        answer = self._order({"do": "open", "library": library, "path": path}, timeout_s)
        if "reason" in answer:
            raise AcceleratorLostError(answer["detail"], Reason(answer["reason"]))
        self.runtime, self._opened = answer["runtime"], answer["library"]

    def load(
        self, model: int, content: bytes, ends: tuple[TensorSpec, TensorSpec], timeout_s: float
    ) -> tuple[list[TensorSpec], list[TensorSpec]]:
        """Let it load a model file; return the tensors that this has.

        Raises:
            BundleRejectedError: The runtime or the driver does not take it.
            AcceleratorLostError: It ended meanwhile, or there is no memory to share with it.
        """
        sides = {key: end.model_dump_json() for key, end in zip(("inputs", "outputs"), ends, strict=True)}
        try:
            with shared_memory("model") as file, shared_memory("tensors") as tensors:
                file.write(content)
                shared = SharedTensors(tensors.fileno(), *ends)
                descriptors = (file.fileno(), tensors.fileno())
                answer = self._order({"do": "load", "model": model, **sides}, timeout_s, descriptors)
        except OSError as error:
            raise AcceleratorLostError(f"no memory to share with its child: {error}") from error
        if "reason" in answer:
            raise BundleRejectedError(answer["detail"], Reason(answer["reason"]))
        self.loaded[model] = shared
        inputs, outputs = (
            [TensorSpec.model_validate(spec, strict=False) for spec in answer[key]] for key in sides
        )
        return inputs, outputs

    def unload(self, model: int, timeout_s: float) -> None:
        """Let it forget a model.

        Raises:
            AcceleratorLostError: It ended meanwhile.
        """
        self.checked.discard(model)
        if self.loaded.pop(model, None) is not None:
            self._order({"do": "unload", "model": model}, timeout_s)

    def invoke(self, model: int, tensor: NDArray[Any], deadline_s: float) -> NDArray[Any]:
        """Return the output of ``model``.

        Raises:
            ModelFailedError: The driver reports a failure and goes on.
            AcceleratorLostError: The child has ended, or does not answer.
        """
        tensors = self.loaded[model]
        tensors.given[:] = tensor
        if self._exchange(model, deadline_s) != DONE:
            raise ModelFailedError(self._received(deadline_s)["detail"])
        self.answered += 1
        return tensors.found.copy()

    def nudge(self) -> None:
        """Let :meth:`heed` return."""
        os.eventfd_write(self._nudges, 1)

    def heed(self, timeout_s: float) -> bool:
        """Keep the end of what it writes on stderr; False: it has ended. One thread at a time."""
        if self._process.stderr is None:
            raise RuntimeError("the child has no stderr")
        stderr = self._process.stderr.fileno()
        ready, _, _ = select.select([stderr, self._nudges], [], [], timeout_s)
        if self._nudges in ready:
            os.eventfd_read(self._nudges)
        if stderr not in ready:
            return True
        content = os.read(stderr, _LOG_BYTES)
        self._log = (self._log + content)[-_LOG_BYTES:]
        return bool(content)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """Close what leads to it, once it has ended."""
        self._own.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def end(self) -> str:
        """End it, if it has not ended; return for people how it did; empty: it was told to."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        status = self._process.returncode
        if status is None:  # in uninterruptible sleep: the kernel keeps it
            return _STUCK
        if status == -signal.SIGKILL:
            return ""
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        hint = ""
        if -status == signal.SIGSEGV:
            hint = f"; {self._opened or 'libedgetpu'} may be too old for {self.runtime or 'the runtime'}"
        return self.with_log(f"its child ended with {how}{hint}")

    def with_log(self, detail: str) -> str:
        """Return ``detail`` with the last that the driver wrote and :meth:`heed` has read."""
        lines = [line for line in self._log.decode(errors="replace").splitlines() if line[:4] != "INFO"]
        words = " ".join(lines[-1].split())[:200] if lines else ""
        return f"{detail}: {words}" if words else detail

    def _order(self, message: dict[str, Any], timeout_s: float, descriptors: tuple[int, ...] = ()) -> Any:
        """Say ``message`` and return what it answers."""
        try:
            self._peer.settimeout(timeout_s)
            os.write(self._orders, TOKEN.pack(CONTROL, 0))
            send(self._peer, message, descriptors)
        except OSError as error:
            raise AcceleratorLostError(f"its child does not listen: {error}") from error
        return self._received(timeout_s)

    def _received(self, timeout_s: float) -> dict[str, Any]:
        try:
            self._peer.settimeout(timeout_s)
            message, _ = receive(self._peer)
        except TimeoutError as error:
            raise AcceleratorLostError(f"its child did not answer within {timeout_s:g} s") from error
        except (OSError, ValueError) as error:
            raise AcceleratorLostError("its child has ended") from error
        return message

    def _exchange(self, model: int, deadline_s: float) -> int:
        self._number = number = (self._number + 1) & _LATER_NUMBERS
        try:
            os.write(self._orders, TOKEN.pack(model, number))
        except BrokenPipeError as error:
            raise AcceleratorLostError("its child has ended") from error
        if not self._answering.poll(deadline_s * 1000):
            raise AcceleratorLostError(f"no answer within {deadline_s:g} s")
        token = os.read(self._answers, TOKEN.size)
        if not token:
            raise AcceleratorLostError("its child has ended")
        answered, outcome = TOKEN.unpack(token)
        if answered != number:
            raise AcceleratorLostError("its child has lost count")
        return int(outcome)
