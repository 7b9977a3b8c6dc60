"""What stdin says about logs, one JSON object a line. Knows files and lines, no peer."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Iterator
from typing import Final, NamedTuple

from protomux_wakeup import Writer
from protomux_wakeup.address import shown
from protomux_wakeup.cli.values import MAX_LENGTH, parse_key

__all__ = ["BadLine", "Lines", "parse_line", "read_writers"]

MAX_LINE: Final = 16 * 1024
"""Bytes of a line. One has some hundred; the rest is room for fields that are skipped."""

_CHUNK: Final = 64 * 1024


class BadLine(NamedTuple):
    """A line that says nothing about a log.

    Attributes:
        number: counted from 1.
        problem: what was expected, and what came.
    """

    number: int
    problem: str

    def __str__(self) -> str:
        return f"stdin, line {self.number}: {self.problem}"


class Lines:
    """Cuts bytes into lines, however they come; an overlong line becomes None.

    Holds at most `MAX_LINE` bytes between two calls.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._is_overlong = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Yield the lines that end in `data`."""
        *ended, rest = data.split(b"\n")
        for line in ended:
            yield self._take(line)
        self._keep(rest)

    def end(self) -> Iterator[bytes | None]:
        """Yield what came after the last line end, if anything."""
        if self._rest or self._is_overlong:
            yield self._take(b"")

    def _keep(self, data: bytes) -> None:
        self._rest += data
        if len(self._rest) > MAX_LINE:
            self._is_overlong = True
        if self._is_overlong:
            self._rest = b""

    def _take(self, data: bytes) -> bytes | None:
        self._keep(data)
        line = None if self._is_overlong else self._rest
        self._rest, self._is_overlong = b"", False
        return line


def parse_line(line: bytes) -> Writer:
    """Return the log of {"key": 64 hex digits, "length": number}; further fields are skipped.

    Raises ValueError with what was expected, and what it got.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(
            f'expected {{"key": HEX, "length": NUMBER}}, got {shown(line.decode(errors="replace"))}'
        ) from None
    if not isinstance(value, dict) or not {"key", "length"} <= value.keys():
        raise ValueError(f'expected an object with "key" and "length", got {shown(str(value))}')
    key, length = value["key"], value["length"]
    if not isinstance(key, str):
        raise ValueError(f'expected "key" to be 64 hex digits, got {shown(str(key))}')
    # type() because to Python True is an int.
    if type(length) is not int or not 0 <= length <= MAX_LENGTH:
        raise ValueError(
            f'expected "length" to be a number from 0 to {MAX_LENGTH}, got {shown(str(length))}'
        )
    try:
        return Writer(parse_key(key), length)
    except ValueError as error:
        raise ValueError(f'"key": {error}') from None


async def read_writers(descriptor: int) -> AsyncIterator[list[Writer | BadLine]]:
    """Yield what the file `descriptor` says, as much at a time as was there, until it ends.

    Empty lines are skipped. Raises OSError where it cannot be read.
    """
    lines = Lines()
    number = 0

    def parsed(found: Iterator[bytes | None]) -> Iterator[Writer | BadLine]:
        nonlocal number
        for line in found:
            number += 1
            try:
                if line is None:
                    raise ValueError(f"expected a line of at most {MAX_LINE} bytes, got more")
                if line.strip():
                    yield parse_line(line)
            except ValueError as error:
                yield BadLine(number, str(error))

    async for chunk in _chunks(descriptor):
        yield list(parsed(lines.feed(chunk)))
    yield list(parsed(lines.end()))


async def _chunks(descriptor: int) -> AsyncIterator[bytes]:
    """Yield bytes as they come, from whatever kind of file it is.

    The descriptor stays in blocking mode: its file is often shared with stdout and with the
    shell, where writes would fail. A read that was told of bytes does not block.
    """
    while True:
        if await _readable(descriptor):
            chunk = os.read(descriptor, _CHUNK)
        else:
            chunk = await asyncio.to_thread(os.read, descriptor, _CHUNK)
        if not chunk:
            return
        yield chunk


async def _readable(descriptor: int) -> bool:
    """Wait until there is something to read; False for a file that cannot be waited for.

    Regular files are of that kind, and devices such as /dev/null. They are always ready, so a
    thread that reads one always ends.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return False
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:
        return False
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    return True
