"""A process that speaks JSON lines on its stdin and stdout. Knows no bench.

It leads a process group of its own, so a Ctrl-C of the terminal reaches only us, and we end it. It
is asked to end itself when its stdin does, which also happens when we are killed.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from bench.workload import Failed

__all__ = ["LIMIT", "ROOT", "Program"]

ROOT: Final = Path(__file__).parents[1]
LIMIT: Final = 120.0
"""Seconds that a program may take to say its next line."""
_END_LIMIT: Final = 2.0
"""Seconds that a program has to end itself."""


class Program:
    """One such process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process

    @classmethod
    @asynccontextmanager
    async def started(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> AsyncIterator[Self]:
        """Start `command` in the root of the repository; it is ended on the way out."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
                limit=2**24,
            )
        except FileNotFoundError as error:
            raise Failed(f"{name}: expected {command[0]} on the PATH") from error
        program = cls(name, process)
        try:
            yield program
        finally:
            await program._end()

    def say(self, line: Mapping[str, Any]) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        """Return its next line; raise Failed where there is none, or it tells of an error."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(LIMIT):
                text = await self._process.stdout.readline()
        except TimeoutError:
            raise Failed(f"{self.name} said nothing for {LIMIT:.0f} s") from None
        if not text:
            raise Failed(f"{self.name} ended early, with {await self._process.wait()}")
        line: dict[str, Any] = json.loads(text)
        if "error" in line:
            raise Failed(f"{self.name}: {line['error']}")
        return line

    async def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_LIMIT):
                await self._process.wait()
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self._process.wait()
            if not isinstance(error, TimeoutError):
                raise
