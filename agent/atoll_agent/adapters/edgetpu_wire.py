"""What the agent and the child of an Edge TPU say to each other.

Tensors lie in memory that both share, so a picture is copied once each way. For an inference two tokens of
8 bytes go through pipes: the model and its number there, the number and the outcome back. Measured with
``make bench-edgetpu``: cheaper than tensors through a pipe from 50 kB on, and than a socket always.
Everything else is JSON on a socket, which carries descriptors too; the token of ``CONTROL`` announces it.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import TensorSpec

TOKEN: Final = struct.Struct("<II")
CONTROL: Final = 0xFFFFFFFF
DONE: Final = 0
FAILED: Final = 1
MAX_MESSAGE: Final = 64 * 1024
_ALIGNMENT: Final = 64


class SharedTensors:
    """The input and the output tensor of one model, in memory behind a descriptor.

    Attributes:
        given: The input.
        found: The output.
    """

    def __init__(self, descriptor: int, inputs: TensorSpec, outputs: TensorSpec) -> None:
        start = _aligned(_size_bytes(inputs))
        size_bytes = start + _size_bytes(outputs)
        os.ftruncate(descriptor, size_bytes)
        memory = mmap.mmap(descriptor, size_bytes)
        self.given = _view(memory, inputs, 0)
        self.found = _view(memory, outputs, start)


def shared_memory(name: str) -> FileIO:
    """Return new memory that a descriptor can be passed of."""
    return FileIO(os.memfd_create(name), "wb")


def send(peer: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send ``message`` whole.

    Raises:
        OSError: The peer is gone, or does not take it in time.
    """
    socket.send_fds(peer, [json.dumps(message).encode()[:MAX_MESSAGE]], descriptors)


def receive(peer: socket.socket, descriptors: int = 0) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and the descriptors that came with it.

    Raises:
        OSError: The peer is gone, or says nothing in time.
        ValueError: What it said is no message.
    """
    content, found, _, _ = socket.recv_fds(peer, MAX_MESSAGE, descriptors)
    if not content:
        raise ConnectionResetError("the other side is gone")
    return dict(json.loads(content)), list(found)


def _size_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype.value).itemsize


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _view(memory: mmap.mmap, spec: TensorSpec, offset: int) -> NDArray[Any]:
    view = np.frombuffer(memory, spec.dtype.value, math.prod(spec.shape), offset)
    return view.reshape(spec.shape)
