"""Processes that join a host, as a test sees them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["QUICK", "WORKERS", "Member", "gone", "is_running", "members", "until_empty"]

WORKERS: Final = "tests.protomux_wakeup.host.workers"
QUICK: Final = {"heartbeat": 0.5, "missed": 6, "repeat": 0.2, "draining": 1.0, "spindown": 0.5}
"""Limits for tests, in which somebody hangs."""
GUARD: Final = 60.0
"""Seconds after which a test hangs."""


class Member:
    """One process, `python -m ...member`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self._results: dict[int, asyncio.Future[Any]] = {}
        self._events: defaultdict[str, asyncio.Queue[dict[str, Any]]] = defaultdict(asyncio.Queue)
        self._reading = asyncio.create_task(self._read())
        self.last: dict[str, dict[str, Any]] = {}
        self.on_event: Callable[[dict[str, Any]], object] = lambda _line: None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for text in self._process.stdout:
            line = json.loads(text)
            if "event" in line:
                self.last[line["event"]] = line
                self.on_event(line)
                self._events[line["event"]].put_nowait(line)
            else:
                self._results.pop(line["id"]).set_result(line)
        for result in self._results.values():
            result.set_exception(ConnectionError("the member has ended"))
            result.exception()

    async def event(self, name: str) -> dict[str, Any]:
        """Wait for the next event of that name."""
        async with asyncio.timeout(GUARD):
            return await self._events[name].get()

    def ask(self, name: str, *arguments: Any) -> asyncio.Future[dict[str, Any]]:
        """Give a command; the future gets the line that answers."""
        id = next(self._ids)
        answer = self._results[id] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([id, name, *arguments]).encode() + b"\n")
        return answer

    async def result(self, name: str, *arguments: Any) -> Any:
        """Give a command and return its result."""
        async with asyncio.timeout(GUARD):
            line = await self.ask(name, *arguments)
        assert "error" not in line, line
        return line["result"]

    def signal(self, number: signal.Signals) -> None:
        if self.is_alive:
            self._process.send_signal(number)

    async def ended(self) -> int:
        async with asyncio.timeout(GUARD):
            await self._reading
            return await self._process.wait()

    async def leave(self) -> int:
        """Let it leave in order; return its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return await self.ended()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()


@asynccontextmanager
async def members(
    place: Path,
    number: int,
    *,
    worker: str = "main",
    options: Mapping[str, Any] | None = None,
    limits: Mapping[str, float] = QUICK,
) -> AsyncIterator[list[Member]]:
    """So many members of one host, which have joined; those that are left then leave in order.

    They can be replaced in the list.
    """
    found: list[Member] = []
    try:
        starting = (
            start(place, worker=worker, options=options, limits=limits) for _ in range(number)
        )
        found.extend(await asyncio.gather(*starting))
        for member in found:
            await member.event("joined")
        yield found
        for member in found:
            assert await member.leave() == 0
    finally:
        for member in found:
            await member.kill()


async def start(
    place: Path,
    *,
    worker: str = "main",
    options: Mapping[str, Any] | None = None,
    limits: Mapping[str, float] = QUICK,
) -> Member:
    """Start one more."""
    return Member(
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.protomux_wakeup.host.member",
            str(place),
            f"{WORKERS}:{worker}",
            json.dumps(options or {}),
            json.dumps(limits),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
    )


def is_running(pid: int) -> bool:
    """Tell whether there is a process `pid` that has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def gone(pid: int) -> None:
    """Wait until the process `pid`, which need not be a child, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(handle, ended.set)
    try:
        async with asyncio.timeout(GUARD):
            await ended.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


async def until_empty(place: Path) -> None:
    """Wait until nothing of a host is left in `place`."""
    try:
        async with asyncio.timeout(GUARD):
            while os.listdir(place):  # noqa: ASYNC110 - a directory tells nobody that it is empty
                await asyncio.sleep(0.02)
    except TimeoutError:
        left = [os.path.join(*each[:1], name) for each in os.walk(place) for name in each[2]]
        raise AssertionError(f"left: {left}") from None
