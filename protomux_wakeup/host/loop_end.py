"""Closes with an event loop what a program left open. Knows no socket.

A program may return from its main coroutine while it has connections that idle: they hold no task,
so nothing keeps it alive, and nothing has to be told on stderr about what it did not close. A loop
closes its async generators when it ends (`loop.shutdown_asyncgens`, which `asyncio.run` calls);
one of those stands for all that is open on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final, Protocol, TypeAlias
from weakref import WeakKeyDictionary

__all__ = ["Closing", "close_at_loop_end", "forget"]


class Closing(Protocol):
    """What can be closed."""

    def abort(self) -> None:
        """Close at once."""
        ...

    async def wait_closed(self) -> None:
        """Wait until it is."""
        ...


_Open: TypeAlias = dict[Closing, None]

_loops: Final[
    WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Open, AsyncGenerator[None, None]]]
] = WeakKeyDictionary()


def close_at_loop_end(one: Closing) -> None:
    """Abort `one` when the running loop ends, unless it is forgotten before."""
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        for other in [each for each in _loops if each.is_closed()]:
            del _loops[other]  # it closed without a word
        found: _Open = {}
        generator = _until_the_end(found)
        with suppress(StopIteration):  # it has come to its yield
            generator.asend(None).send(None)
        _loops[loop] = found, generator
    _loops[loop][0][one] = None


def forget(one: Closing) -> None:
    """Leave `one` alone: it has closed."""
    for found, _ in _loops.values():
        found.pop(one, None)


async def _until_the_end(found: _Open) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        _loops.pop(asyncio.get_running_loop(), None)  # should it run again, with another
        for one in list(found):
            one.abort()
        for one in list(found):
            await one.wait_closed()
