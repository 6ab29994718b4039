"""The Edge TPUs of this device, and models that run on one with the CPU in reserve."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from numpy.typing import NDArray

from atoll_agent.adapters.edgetpu import EdgeTpu
from atoll_agent.adapters.edgetpu_care import Care
from atoll_agent.adapters.edgetpu_devices import find_devices
from atoll_agent.ports import AcceleratorState
from atoll_contract.errors import AcceleratorLostError
from atoll_contract.manifest import TensorSpec
from atoll_infer.runtime import Model


class TwinnedModel:
    """Runs on an Edge TPU, and on the CPU whenever that does not answer. Implements ``Model``.

    Attributes:
        inputs: See ``Model``.
        outputs: See ``Model``.
        is_degraded: Whether the latest output came from the CPU.
        is_remote: See ``Model``: it is.
    """

    is_remote: Final = True

    def __init__(self, tpu: EdgeTpu, number: int, twin: Model) -> None:
        self._tpu = tpu
        self._number = number
        self._twin = twin
        self.inputs: list[TensorSpec] = twin.inputs
        self.outputs: list[TensorSpec] = twin.outputs
        self.is_degraded = False
        weakref.finalize(self, tpu.remove, number)

    @property
    def backend(self) -> str:
        """See ``Model``."""
        if self.degradation is None:
            return self._tpu.state.detail
        return f"{self._twin.backend}, in place of the Edge TPU"

    @property
    def degradation(self) -> str | None:
        """See ``Model``: why the CPU answers."""
        return self._tpu.fault(self._number)

    def wait_ready(self) -> None:
        """Wait until the Edge TPU runs it.

        Raises:
            BundleRejectedError: It is not to be used there.
            AcceleratorLostError: There is none, for now.
        """
        self._tpu.wait_ready(self._number)

    def invoke(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """See ``Model``."""
        try:
            output = self._tpu.invoke(self._number, tensor)
        except AcceleratorLostError:
            self.is_degraded = True
            self._tpu.count("edgetpu_degraded")
            return self._twin.invoke(tensor)
        self.is_degraded = False
        return output


class EdgeTpus:
    """Implements ``ports.Accelerators``: one child for each device that a model is placed on.

    Attributes:
        on_change: Called, in any thread, when one came or went.
    """

    def __init__(self, care: Care) -> None:
        self._care = care
        self._lock = threading.Lock()
        self._tpus: dict[str | None, EdgeTpu] = {}
        self._named: set[str] = set()
        self.on_change: Callable[[], None] = lambda: None

    def fault(self, path: str | None) -> str | None:
        """See ``ports.Accelerators``."""
        found = find_devices(self._care.sysfs)
        wanted = [device for device in found if path in {None, device.path}]
        if not wanted:
            others = ", ".join(device.path for device in found) or "none"
            return f"{path or 'an Edge TPU'} is not there; found: {others}"
        return None if any(device.fault is None for device in wanted) else wanted[0].fault

    def place(
        self, content: bytes, twin: Model, check: Callable[[Model], None], path: str | None
    ) -> TwinnedModel:
        """See ``ports.Accelerators``."""
        with self._lock:
            tpu = self._keeper(self._shared() if path is None else path)
        return TwinnedModel(tpu, tpu.place(content, (twin.inputs[0], twin.outputs[0]), check), twin)

    @property
    def states(self) -> list[AcceleratorState]:
        """See ``ports.Accelerators``."""
        return [tpu.state for tpu in list(self._tpus.values())]

    def close(self) -> None:
        """See ``ports.Accelerators``."""
        for tpu in list(self._tpus.values()):
            tpu.close()

    def _shared(self) -> str | None:
        """Return the path that a model without one shares; None: there is one that none is named for."""
        usable = [device.path for device in find_devices(self._care.sysfs) if device.fault is None]
        if self._named.issuperset(usable):
            return next((path for path in (*usable, *self._tpus) if path is not None), None)
        return None

    def _keeper(self, path: str | None) -> EdgeTpu:
        if path in self._tpus:
            return self._tpus[path]
        if path is not None:
            self._named.add(path)  # from now on the one that is free does not take it
            if (free := self._tpus.get(None)) is not None and free.stay(path):
                self._tpus[path] = self._tpus.pop(None)
                return free
        tpu = self._tpus[path] = EdgeTpu(path, self._care, self._named, self._tell)
        return tpu

    def _tell(self) -> None:
        self.on_change()
