"""The inference runtimes: which of them works here, and a model file loaded into one.

A runtime counts as usable when it runs a tiny model; that its import succeeds proves nothing
(tflite-runtime under numpy 2 imports and then cannot build an interpreter). A damaged model file can
crash the interpreter, so an unknown one is first loaded in a child process.
"""

from __future__ import annotations

import base64
import importlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import BundleRejectedError, PeerError, Reason, RuntimeUnavailableError
from atoll_contract.manifest import Dtype, TensorSpec

_CANDIDATES: Final = (
    ("tflite-runtime", "tflite_runtime.interpreter"),
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
)
# A model that doubles one float32: what a runtime must be able to run.
_TINY_MODEL: Final = zlib.decompress(
    base64.b64decode(
        "eNptUz1PwlAUvUBFog0qVuPgwOBoKn4txkGCGE38IECcNBVDNU2gGGiNJvwEB+Pk4A9gcHRk9Bc4Gkfjz7Ce+3qLhvjgpK/3"
        "vXPfuee+zhNRdWd/1aAszdMcGTRJOmIp0jAnxIjugE/gOUbUB7IJIvwJU+zmMaZYzBnDmy68TWAC6Njta8e9tOr2Rc1veIqn"
        "AU9BEMRlngJavnfle1aOJDfHv76DQJP3G4D3r8naB/gjMp8GCkeHx8VyZe/o0DooVvPb+WoeeUNdKdkX7W06rtX2Xc9p2ta1"
        "3e44LZeSiL8CfaAHPAKecNwg1HE2qJk1pwe5ObagokkVSwqPlB+Rr5ry5rz7UkppldOE1KMpFtGKubJsovp3OYtzLpvrZo5+"
        "B2fW/jlHztrqwa9ngH0/2N8rZwstF/V5dt1UHhpqW3qgiHOkJc49O5Ea65KzWXPcqB8R11DadBoXrvgxo8t8EfpjUltcdMcE"
        "cXny4PrvgV056wE8Xp6UPLyeBbqIT+FZqrU9x0On7Hqh1mhs5P7kY7wN8eOiuS/3pOk3lm4HTs4qD0hcCMcooqFcQ7gx6aum"
        "fuHdGbrP1g2U/NURfRe68ijsGnuTCXNnfgDdum+/"
    )
)


class ModelFailedError(PeerError):
    """A model that was loaded fails on certain inputs."""

    default_reason = Reason.MODEL_FAILED


class TfliteModel:
    """A model file in an interpreter, one input and one output tensor. One owner at a time.

    Attributes:
        backend: What runs it, for people: ``tflite-runtime 2.14.0 CPU``.
        inputs: Input tensors as the file declares them.
        outputs: Output tensors as the file declares them.
    """

    def __init__(self, interpreter: Any, backend: str) -> None:
        self._interpreter = interpreter
        self.backend = backend
        self.inputs = [_spec(detail) for detail in interpreter.get_input_details()]
        self.outputs = [_spec(detail) for detail in interpreter.get_output_details()]
        self._input = interpreter.get_input_details()[0]["index"]
        self._output = interpreter.get_output_details()[0]["index"]

    def invoke(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Return the output tensor for ``tensor``, whose shape and dtype are those of the input.

        Raises:
            ModelFailedError: The runtime gives up on these numbers.
        """
        self._interpreter.set_tensor(self._input, tensor)
        try:
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise ModelFailedError(f"{self.backend}: {_one_line(error)}") from error
        output: NDArray[Any] = self._interpreter.get_tensor(self._output)
        return output


@dataclass(frozen=True, slots=True)
class Runtime:
    """An inference runtime that works on this device.

    Attributes:
        name: Package and version.
        interpreter: Its interpreter class.
    """

    name: str
    interpreter: Callable[..., Any]

    def load(self, model: bytes, *, batch: int = 1) -> TfliteModel:
        """Return ``model`` ready to invoke on ``batch`` inputs at once.

        Raises:
            BundleRejectedError: The runtime cannot read or prepare it, not for such a batch at least;
                the reason says whether it needs an Edge TPU.
        """
        try:
            interpreter = self.interpreter(model_content=model, num_threads=1)
            if batch > 1:
                declared = interpreter.get_input_details()[0]
                interpreter.resize_tensor_input(declared["index"], [batch, *declared["shape"][1:]])
            interpreter.allocate_tensors()
            return TfliteModel(interpreter, f"{self.name} CPU")
        except (ValueError, RuntimeError, TypeError) as error:
            text = _one_line(error)
            if "edgetpu-custom-op" in text:
                message = "the model file is compiled for the Edge TPU; the CPU needs the uncompiled one"
                raise BundleRejectedError(message, Reason.MODEL_NEEDS_EDGETPU) from error
            message = f"{self.name} cannot load the model file: {text}"
            raise BundleRejectedError(message, Reason.MODEL_UNREADABLE) from error


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """The runtime in use, and why.

    Attributes:
        runtime: The runtime.
        why: For people.
    """

    runtime: Runtime
    why: str


def choose_runtime() -> RuntimeChoice:
    """Return the first runtime that works on this device.

    Raises:
        RuntimeUnavailableError: None does; says what was tried and what to install.
    """
    failures = []
    for package, module in _CANDIDATES:
        try:
            runtime = _probe(package, module)
        except RuntimeUnavailableError as error:
            failures.append(error.detail)
        else:
            why = "; ".join([f"{runtime.name} runs a test model", *failures])
            return RuntimeChoice(runtime, why)
    raise RuntimeUnavailableError(
        f"no inference runtime works: {'; '.join(failures)}. "
        "Install tflite-runtime with numpy<2 (Python 3.11) or ai-edge-litert."
    )


def _probe(package: str, module: str) -> Runtime:
    try:
        interpreter = importlib.import_module(module).Interpreter
        runtime = Runtime(f"{package} {version(package)}", interpreter)
        model = runtime.load(_TINY_MODEL)
        output = model.invoke(np.array([[21.0]], np.float32))
    except (ModuleNotFoundError, PackageNotFoundError) as error:
        raise RuntimeUnavailableError(f"{package} is not installed") from error
    except (ImportError, SystemError, AttributeError, OSError) as error:
        # numpy 2 under tflite-runtime ends here: SystemError from the first interpreter.
        raise RuntimeUnavailableError(f"{package} is installed but broken: {error}") from error
    except BundleRejectedError as error:
        raise RuntimeUnavailableError(f"{package} cannot run a test model: {error.detail}") from error
    if output.shape != (1, 1) or float(output[0, 0]) != 42.0:  # noqa: PLR2004 - twice 21
        raise RuntimeUnavailableError(f"{package} computes a wrong result")
    return runtime


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]  # the runtime speaks in several


def _spec(detail: dict[str, Any]) -> TensorSpec:
    try:
        dtype = Dtype(np.dtype(detail["dtype"]).name)
    except ValueError as error:
        found = np.dtype(detail["dtype"]).name
        message = f"tensor {detail['name']!r} is {found}: float32, int8 or uint8 can be run"
        raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS) from error
    scale, zero_point = detail["quantization"]
    shape = [int(size) for size in detail["shape"]]
    if not shape or min(shape) < 1:
        message = f"tensor {detail['name']!r} has shape {shape}: a fixed shape with batch 1 can be run"
        raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)
    return TensorSpec(
        name=str(detail["name"]), shape=shape, dtype=dtype, scale=float(scale), zero_point=int(zero_point)
    )
