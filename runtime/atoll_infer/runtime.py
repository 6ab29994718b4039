"""The inference runtimes: which of them works here, and a model file loaded into one.

A runtime counts as usable when it runs a tiny model; that its import succeeds proves nothing
(tflite-runtime under numpy 2 imports and then cannot build an interpreter). A damaged model file can
crash the interpreter, so an unknown one is first loaded in a child process.
"""

from __future__ import annotations

import base64
import importlib
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import BundleRejectedError, PeerError, Reason, RuntimeUnavailableError
from atoll_contract.manifest import Dtype, TensorSpec

_CANDIDATES: Final = {
    "tflite-runtime": "tflite_runtime.interpreter",
    "ai-edge-litert": "ai_edge_litert.interpreter",
}
"""Modules by package. In this order: tflite-runtime takes less memory; both in one process are loaded so."""

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


class Model(Protocol):
    """A model file ready to run, wherever: one input and one output tensor. One owner at a time."""

    @property
    def backend(self) -> str:
        """What runs it, for people: ``tflite-runtime 2.14.0 CPU``."""

    @property
    def inputs(self) -> list[TensorSpec]:
        """Input tensors as the file declares them."""

    @property
    def outputs(self) -> list[TensorSpec]:
        """Output tensors as the file declares them."""

    @property
    def is_degraded(self) -> bool:
        """Whether the latest output came from less than what should run it."""

    @property
    def is_remote(self) -> bool:
        """Whether another process runs it, so that an answer may have to be waited for."""

    @property
    def degradation(self) -> str | None:
        """Why it now runs on less than what should run it, for people; None: it does not."""

    def invoke(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """Return the output tensor for ``tensor``, whose shape and dtype are those of the input.

        Raises:
            ModelFailedError: It gives up on these numbers.
        """


class TfliteModel:
    """A model file in an interpreter of this process.

    Attributes:
        backend: See :class:`Model`.
        inputs: See :class:`Model`.
        outputs: See :class:`Model`.
        is_degraded: See :class:`Model`: never.
        is_remote: See :class:`Model`: it is not.
        degradation: See :class:`Model`: there is none.
    """

    is_degraded: Final = False
    is_remote: Final = False
    degradation: Final = None

    def __init__(self, interpreter: Any, backend: str) -> None:
        self._interpreter = interpreter
        self.backend = backend
        self.inputs = [_spec(detail) for detail in interpreter.get_input_details()]
        self.outputs = [_spec(detail) for detail in interpreter.get_output_details()]
        self._input = interpreter.get_input_details()[0]["index"]
        self._output = interpreter.get_output_details()[0]["index"]

    def invoke(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """See :class:`Model`."""
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
        load_delegate: Its way to open an accelerator's library.
    """

    name: str
    interpreter: Callable[..., Any]
    load_delegate: Callable[..., Any] | None = None

    @property
    def package(self) -> str:
        """Its package."""
        return self.name.split(" ", maxsplit=1)[0]

    def load(
        self, model: bytes, *, batch: int = 1, threads: int = 1, delegate: Any = None, on: str = "CPU"
    ) -> TfliteModel:
        """Return ``model`` ready to invoke on ``batch`` inputs at once.

        Args:
            model: The model file.
            batch: How many inputs make one tensor.
            threads: How many threads work on one answer.
            delegate: What :attr:`load_delegate` returned, if that is to run it.
            on: What runs it, for people.

        Raises:
            BundleRejectedError: The runtime cannot read or prepare it, not for such a batch at least;
                the reason says whether it needs an Edge TPU.
        """
        delegates = {} if delegate is None else {"experimental_delegates": [delegate]}
        try:
            interpreter = self.interpreter(model_content=model, num_threads=threads, **delegates)
            if batch > 1:
                declared = interpreter.get_input_details()[0]
                interpreter.resize_tensor_input(declared["index"], [batch, *declared["shape"][1:]])
            interpreter.allocate_tensors()
            backend = f"{self.name} {on}" + (f", {threads} threads" if threads > 1 else "")
            return TfliteModel(interpreter, backend)
        # A file that is cut short may name tensors that are not in it, or ask for more memory than there is.
        except (ValueError, RuntimeError, TypeError, LookupError, MemoryError) as error:
            text = _one_line(error) or type(error).__name__
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


@dataclass(frozen=True, slots=True)
class Looked:
    """A runtime that was looked for.

    Attributes:
        package: Its package.
        runtime: The runtime, if it works here.
        why: For people: that it works, or why not and what to install.
    """

    package: str
    runtime: Runtime | None
    why: str


def look_for_runtimes() -> Iterator[Looked]:
    """Try all runtimes, one after the other, the one preferred without further knowledge first.

    Each that works stays in memory.
    """
    for package in _CANDIDATES:
        try:
            runtime = load_runtime(package)
        except RuntimeUnavailableError as error:
            yield Looked(package, None, error.detail)
        else:
            yield Looked(package, runtime, f"{runtime.name} runs a test model")


def choose_runtime() -> RuntimeChoice:
    """Return the first runtime that works on this device.

    Raises:
        RuntimeUnavailableError: None does; says what was tried and what to install.
    """
    failures: list[str] = []
    for looked in look_for_runtimes():
        if looked.runtime is not None:
            return RuntimeChoice(looked.runtime, "; ".join([looked.why, *failures]))
        failures.append(looked.why)
    raise RuntimeUnavailableError(
        f"no inference runtime works: {'; '.join(failures)}. "
        "Install tflite-runtime with numpy<2 (Python 3.11) or ai-edge-litert."
    )


def installed_runtimes() -> tuple[str, ...]:
    """Return package and version of each runtime that is installed, working or not, without loading it."""
    return tuple(f"{package} {found}" for package in _CANDIDATES if (found := _version(package)) is not None)


def load_runtime(package: str) -> Runtime:
    """Return the runtime in ``package`` after it has run a test model.

    Raises:
        RuntimeUnavailableError: It does not work here; says why and what to install.
    """
    installed = _version(package)
    if installed is None:
        raise RuntimeUnavailableError(f"{package} is not installed")
    try:
        module = importlib.import_module(_CANDIDATES[package])
        runtime = Runtime(f"{package} {installed}", module.Interpreter, module.load_delegate)
        model = runtime.load(_TINY_MODEL)
        output = model.invoke(np.array([[21.0]], np.float32))
    except (ImportError, SystemError, AttributeError, OSError) as error:
        # numpy 2 under tflite-runtime ends here: SystemError from the first interpreter.
        if package == "tflite-runtime" and int(re.split(r"\D", np.__version__)[0]) > 1:
            detail = f"was built for numpy 1, and numpy {np.__version__} is installed: pip install 'numpy<2'"
            raise RuntimeUnavailableError(f"{package} {installed} {detail}") from error
        detail = f"is installed but broken ({_one_line(error)}): pip install --force-reinstall {package}"
        raise RuntimeUnavailableError(f"{package} {installed} {detail}") from error
    except BundleRejectedError as error:
        raise RuntimeUnavailableError(f"{package} cannot run a test model: {error.detail}") from error
    if output.shape != (1, 1) or float(output[0, 0]) != 42.0:  # noqa: PLR2004 - twice 21
        raise RuntimeUnavailableError(f"{package} computes a wrong result")
    return runtime


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
