"""Server-sent events: what happens, to who listens, until one of the two ends. Knows no backend.

The format is that of the HTML standard, 9.2. Comments tell who listens that there is no news, and
tell us that nobody listens any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, NamedTuple, TypeVar

from aiohttp import hdrs, web

from protomux.errors import ProtomuxError
from protomux_wakeup.host.backends.answers import cut

__all__ = ["Event", "Streams"]

_log = logging.getLogger("protomux_wakeup.host")

T = TypeVar("T")

_ALIVE: Final = b":\n\n"


class Event(NamedTuple):
    """One event: `id` is where to go on from, `data` JSON in one line."""

    id: str
    data: bytes


class Streams:
    """All streams of a listener.

    Times are in seconds: `keepalive` between two comments, `stall` until who does not read is cut.
    """

    def __init__(self, *, keepalive: float, stall: float) -> None:
        self._keepalive = keepalive
        self._stall = stall
        self._open: set[asyncio.Task[object]] = set()

    def close(self) -> None:
        """Cut all streams: who listened asks whoever is here then."""
        for task in self._open:
            task.cancel()

    async def send(
        self, request: web.BaseRequest, news: AsyncIterator[T], event: Callable[[T], Event]
    ) -> web.StreamResponse:
        """Answer `request` with the `event` of each of `news`, until they end."""
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        response.headers[hdrs.CACHE_CONTROL] = "no-store"
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            async with aclosing(self._each(news)) as found:
                async for one in found:
                    data = _ALIVE if one is None else _frame(event(one))
                    async with asyncio.timeout(self._stall):
                        await response.write(data)
        except TimeoutError:
            cut(request)
            raise ConnectionResetError("who listened does not read") from None
        except ProtomuxError as error:
            _log.debug("a stream of events ends: %s", error)
        finally:
            self._open.discard(task)
        return response

    async def _each(self, news: AsyncIterator[T]) -> AsyncGenerator[T | None]:
        """Yield each of `news`, and None while there are none."""
        loop = asyncio.get_running_loop()
        following = loop.create_task(_next(news))
        try:
            while True:
                await asyncio.wait((following,), timeout=self._keepalive)
                if not following.done():
                    yield None
                    continue
                one = following.result()
                if one is None:
                    return
                yield one
                following = loop.create_task(_next(news))
        finally:
            following.cancel()
            await asyncio.wait((following,))
            if isinstance(news, AsyncGenerator):
                await news.aclose()


async def _next(news: AsyncIterator[T]) -> T | None:
    return await anext(news, None)


def _frame(event: Event) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (event.id.encode(), event.data)
