"""Short-lived child processes: one JSON request in, JSON lines out, a deadline over all of it.

Work that needs much memory, or that a damaged file can crash, is done in a child, so that the daemon
stays small and alive.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from atoll_agent.adapters.child_environment import child_environment
from atoll_agent.ports import ChildCrashedError, ChildTimeoutError, Line

_MAX_LINE: Final = 8 * 1024 * 1024
_GRACE_S: Final = 2.0
_CRASH_SIGNALS: Final = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
)


@asynccontextmanager
async def child(
    module: str, request: Mapping[str, Any], timeout_s: float
) -> AsyncIterator[AsyncIterator[Line]]:
    """Run ``python -m module`` on ``request`` and yield its lines; it is dead afterwards.

    Raises (from the iterator):
        ChildCrashedError: It ended with another status than 0.
        ChildTimeoutError: It took longer than ``timeout_s`` in all.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_MAX_LINE,
            env=child_environment(),
            # A signal for the agent's group (Ctrl-C) is the agent's business alone.
            start_new_session=True,
        )
    except OSError as error:
        raise ChildCrashedError(f"{module} cannot be started: {error}", is_own_doing=False) from error
    try:
        yield _lines(process, module, request, timeout_s)
    finally:
        await _end(process)


async def _lines(
    process: asyncio.subprocess.Process, module: str, request: Mapping[str, Any], timeout_s: float
) -> AsyncIterator[Line]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the child has no pipes")
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        async with asyncio.timeout_at(deadline):
            process.stdin.write(json.dumps(request).encode() + b"\n")
            await process.stdin.drain()
            process.stdin.close()
        while True:
            async with asyncio.timeout_at(deadline):
                text = await process.stdout.readline()
            if not text:
                break
            yield _line(module, text)
        async with asyncio.timeout_at(deadline):
            status = await process.wait()
    except TimeoutError as error:
        message = f"{module} took longer than {timeout_s:g} s and was ended"
        raise ChildTimeoutError(message, is_own_doing=False) from error  # the device may be busy
    except (BrokenPipeError, ConnectionResetError):
        status = await process.wait()
    except ValueError as error:  # a line beyond the limit
        raise ChildCrashedError(f"{module} said something unreadable", is_own_doing=False) from error
    if -status == signal.SIGXCPU:
        raise ChildTimeoutError(f"{module} used up its processor time and was ended", is_own_doing=True)
    if status != 0:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        # Told to end from outside (SIGKILL when memory runs out, SIGTERM at a shutdown): not its own doing;
        # nor is a status, of a program that is being replaced, say, or has a bug.
        is_own_doing = -status in _CRASH_SIGNALS
        raise ChildCrashedError(f"{module} ended with {how}", is_own_doing=is_own_doing)


def _line(module: str, text: bytes) -> Line:
    try:
        facts = json.loads(text)
        return Line(facts.pop("event"), facts)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        message = f"{module} said {text[:80]!r}"
        raise ChildCrashedError(message, is_own_doing=False) from error


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        return  # in uninterruptible sleep; the kernel reaps it for init
