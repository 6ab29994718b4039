"""Owns one Edge TPU and runs models on it, until the agent or the device ends it.

A USB fault aborts this process and a PCIe fault hangs it: that is what it is for. It says what it
does in the manner of :mod:`atoll_agent.adapters.edgetpu_wire`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import socket
import sys
from typing import Any

from atoll_agent.adapters.edgetpu_wire import CONTROL, DONE, FAILED, TOKEN, SharedTensors, receive, send
from atoll_agent.children import be_a_child
from atoll_contract.errors import AtollError
from atoll_contract.manifest import TensorSpec
from atoll_infer import edgetpu
from atoll_infer.runtime import ModelFailedError, Runtime, TfliteModel, look_for_runtimes

_VERBOSE = 10


class _Loaded:
    """A model on the device, and the memory that its tensors are exchanged in."""

    def __init__(self, content: bytes, runtime: Runtime, delegate: Any) -> None:
        self._content = content
        self._runtime = runtime
        self._delegate = delegate
        self.model = self._load()
        self.tensors: SharedTensors | None = None

    def run(self) -> None:
        """Run the model once.

        Raises:
            ModelFailedError: The driver or the runtime gives up.
        """
        if self.tensors is None:
            raise RuntimeError("a model without tensors is asked for")
        try:
            self.tensors.found[:] = self.model.invoke(self.tensors.given)
        except ModelFailedError:
            # The texts of all earlier failures would come with each later one.
            self.model = self._load()
            raise

    def _load(self) -> TfliteModel:
        return self._runtime.load(self._content, delegate=self._delegate, on="Edge TPU")


class _Device:
    """The open device and its models."""

    def __init__(self, peer: socket.socket) -> None:
        self._peer = peer
        self._models: dict[int, _Loaded] = {}
        self._opened: tuple[Runtime, Any] | None = None

    def run(self, model: int) -> None:
        self._models[model].run()

    def obey(self) -> None:
        """Do what the next message asks, and answer it."""
        message, descriptors = receive(self._peer, 2)
        try:
            match message.pop("do"):
                case "open":
                    answer = self._open(**message)
                case "load":
                    answer = self._load(descriptors, **message)
                case "unload":
                    self._models.pop(message["model"], None)
                    answer = {}
                case unknown:
                    raise RuntimeError(f"the agent said {unknown!r}")
        except AtollError as error:
            answer = {"reason": error.reason.value, "detail": error.detail}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        send(self._peer, answer)

    def _open(self, library: str, path: str) -> dict[str, Any]:
        loaded = edgetpu.load_library(library)
        runtimes = [looked.runtime for looked in look_for_runtimes() if looked.runtime is not None]
        # What opening fails of, only the driver's own words tell.
        verbosity = ctypes.CDLL(library).edgetpu_verbosity
        verbosity(_VERBOSE)
        self._opened = edgetpu.open_device(loaded, runtimes, path)
        verbosity(0)
        return {"runtime": self._opened[0].name, "library": loaded.version}

    def _load(self, descriptors: list[int], model: int, inputs: Any, outputs: Any) -> dict[str, Any]:
        if self._opened is None:
            raise RuntimeError("a model is loaded before the device is open")
        content, tensors = descriptors
        with mmap.mmap(content, 0, prot=mmap.PROT_READ) as memory:
            loaded = _Loaded(memory[:], *self._opened)
        found = [spec.model_dump(mode="json") for spec in (loaded.model.inputs[0], loaded.model.outputs[0])]
        specs = TensorSpec.model_validate_json(inputs), TensorSpec.model_validate_json(outputs)
        if all(
            len(side) == 1 and (side[0].shape, side[0].dtype) == (spec.shape, spec.dtype)
            for side, spec in zip((loaded.model.inputs, loaded.model.outputs), specs, strict=True)
        ):
            loaded.tensors = SharedTensors(tensors, *specs)
            self._models[model] = loaded
        return {"inputs": found[:1], "outputs": found[1:], "backend": loaded.model.backend}


def main() -> int:
    """Serve until the agent closes its end."""
    be_a_child(is_urgent=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    orders, answers, channel = map(int, sys.argv[1:])
    with socket.socket(fileno=channel) as peer:
        device = _Device(peer)
        while token := os.read(orders, TOKEN.size):
            model, number = TOKEN.unpack(token)
            if model == CONTROL:
                device.obey()
                continue
            try:
                device.run(model)
            except ModelFailedError as error:
                send(peer, {"detail": error.detail})
                os.write(answers, TOKEN.pack(number, FAILED))
            else:
                os.write(answers, TOKEN.pack(number, DONE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
