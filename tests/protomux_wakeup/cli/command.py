"""The command as a process of its own, as a script would run it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from .recorder import LIMIT

ROOT = Path(__file__).parents[3]

Event = dict[str, Any]


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return ours without what the command reads, and with `changes`."""
    ours = {name: value for name, value in os.environ.items() if "PROTOMUX" not in name}
    return {**ours, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **(changes or {})}


class Command:
    """`python -m protomux_wakeup`, running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> asyncio.StreamReader:
        assert self._process.stderr is not None
        return self._process.stderr

    async def line(self) -> str:
        """Return the next line of stdout, "" at its end."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LIMIT):
            return (await self._process.stdout.readline()).decode()

    async def until(self, event: str) -> Event:
        """Return the next JSON line of this event."""
        while line := await self.line():
            found: Event = json.loads(line)
            if found["event"] == event:
                return found
        raise AssertionError(f"no {event!r}, stderr: {(await self.rest())[1]}")

    def write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def rest(self) -> tuple[str, str]:
        """Return what is left of stdout and stderr when it has ended."""
        async with asyncio.timeout(LIMIT):
            out, err = await self._process.communicate()
        return (out or b"").decode(), err.decode()

    async def ends(self, code: int) -> tuple[str, str]:
        """Wait for its end with this exit code, without a traceback; return what is left."""
        out, err = await self.rest()
        assert "Traceback" not in err, err
        assert self._process.returncode == code, err
        return out, err

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


@asynccontextmanager
async def started(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] | None = asyncio.subprocess.DEVNULL,
    stdout: int = asyncio.subprocess.PIPE,
    through: Sequence[str] = (),
) -> AsyncIterator[Command]:
    """Start the command, `through` another that becomes it.

    It is killed when the context ends, unless it has ended.
    """
    process = await asyncio.create_subprocess_exec(
        *through,
        sys.executable,
        "-m",
        "protomux_wakeup",
        *arguments,
        env=environment(env),
        stdin=stdin,
        stdout=stdout,
        stderr=asyncio.subprocess.PIPE,
    )
    async with Command(process) as command:
        yield command
