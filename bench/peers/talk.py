"""What a program has of the runner: its options, barriers, the clock. Knows no protocol.

Lines are JSON. In come {"sync": NAME}, when both sides are at that barrier; out go {"port"},
{"sync"}, {"error"} and at the end {"result"}. When stdin ends, so does the process.

The clock is the monotonic one of the system, which both processes share.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from time import monotonic_ns, process_time
from typing import Any, Final, NoReturn, TypeAlias

__all__ = ["Arrivals", "Role", "Talk", "fail", "say"]

STALL: Final = 5.0
"""Seconds in which nothing arrives, after which something was lost."""


def say(line: dict[str, Any]) -> None:
    """Send one line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def fail(problem: str) -> NoReturn:
    """Tell what is wrong and end the process; also from inside a hook."""
    say({"error": problem})
    os._exit(1)


class Talk:
    """One side of a work.

    Attributes:
        size: the numbers of the work.
        port: where the client connects; None at the listener.
        spans: when each measured part began and ended here, in nanoseconds, or None where that is
            for the other side to say.
        cpu: seconds of CPU in the measured parts.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.size: Final[dict[str, int]] = options["size"]
        self.port: Final[int | None] = options["port"]
        self.spans: list[tuple[int | None, int | None]] = []
        self.cpu = 0.0
        self._began: int | None = None
        self._cpu_before = 0.0
        self._lines = asyncio.StreamReader()

    @property
    def is_client(self) -> bool:
        return self.port is not None

    async def start(self) -> None:
        """Listen to the runner."""
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: _Protocol(self._lines), sys.stdin)

    async def sync(self, name: str, *, tidy: bool = False) -> None:
        """Wait until both sides are here.

        `tidy`: collect garbage first. What is measured next need not pay for a pass over all that
        the warm-up left. V8 has no such passes, and to force one there throws compiled code away:
        the originals would open topics at a third of their speed.
        """
        if tidy:
            gc.collect()
        say({"sync": name})
        line = json.loads(await self._lines.readline())
        if line != {"sync": name}:
            fail(f"expected the barrier {name}, got {line}")

    def begin(self) -> None:
        """The measured part begins here."""
        self._cpu_before = process_time()
        self._began = monotonic_ns()

    def end(self, *, began: bool = False, ended: int | None = None) -> None:
        """All of the measured part is over.

        `began`: our begin counts. `ended`: when the last thing arrived here.
        """
        self.cpu += process_time() - self._cpu_before
        self.spans.append((self._began if began else None, ended))

    def finish(self, count: int, check: int, figures: dict[str, float] | None = None) -> None:
        """Tell what was done: how much, its checksum, and figures where they are no rate."""
        result = {"count": count, "check": check, "spans": self.spans, "cpu": self.cpu}
        say({"result": result if figures is None else {**result, "figures": figures}})


class _Protocol(asyncio.StreamReaderProtocol):
    """Ends the process when the runner is gone."""

    def eof_received(self) -> NoReturn:
        os._exit(0)


class Arrivals:
    """What arrives here: whoever counts it calls `finish` at the last."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0
        self.expected = 0
        self.ended = 0
        self._done = asyncio.Event()

    def expect(self, count: int) -> None:
        """Count from zero up to `count`."""
        self.count = self.total = 0
        self.expected = count
        self._done.clear()

    def finish(self) -> None:
        """The last has arrived, now."""
        self.ended = monotonic_ns()
        self._done.set()

    async def wait(self) -> None:
        """Wait for the last."""
        while not self._done.is_set():
            before = self.count
            try:
                async with asyncio.timeout(STALL):
                    await self._done.wait()
            except TimeoutError:
                if self.count == before:
                    fail(f"expected {self.expected} to arrive, got {before} and no more")


Role: TypeAlias = Callable[[Talk], Awaitable[None]]
