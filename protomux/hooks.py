"""Runs what an application's hook started, when the hook was `async def`. Knows no channel.

A hook is called by whoever owns it; only its result comes here. Tasks are held strongly until
they end, as asyncio asks of those who start them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeGuard

__all__ = ["Settled", "is_pending", "settle"]

Settled: TypeAlias = Callable[[object, BaseException | None], None]
"""settled(result, None), or settled(None, error): an Exception of the hook's, or
asyncio.CancelledError where somebody wanted it to end."""

_running: Final[set[asyncio.Future[Any]]] = set()


def is_pending(result: object) -> TypeGuard[Awaitable[Any]]:
    """Tell whether a hook's `result` is still to be awaited."""
    return result is not None and isinstance(result, Awaitable)


def settle(
    result: object, loop: asyncio.AbstractEventLoop, settled: Settled
) -> asyncio.Future[Any] | None:
    """Await `result` on `loop` and call `settled` when it ends; at once if it is a plain value.

    Returns what can be cancelled, None for a plain value.
    """
    if not isinstance(result, Awaitable):
        settled(result, None)
        return None

    def done(task: asyncio.Future[Any]) -> None:
        _running.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        settled(None if error is not None else task.result(), error)

    task = asyncio.ensure_future(result, loop=loop)
    _running.add(task)
    task.add_done_callback(done)
    return task
