"""Streams to an address that are kept up, and listening at one. Knows no topic and no client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Final, Self, Unpack

from protomux import StreamClosed
from protomux.streams import SecretStream, SecretStreamOptions
from protomux_wakeup.address import Address
from protomux_wakeup.endpoint import EndpointError, close_streams, connect, listening, own_addresses

__all__ = ["LONGEST_WAIT", "Link", "ListeningPlace"]

FIRST_WAIT: Final = 0.1
"""Seconds until the second attempt; each further one waits twice as long."""
LONGEST_WAIT: Final = 30.0
"""Seconds between two attempts at most. After a stream that stood for so long, the waits begin
anew; one that is lost sooner may be refused by a peer that lets us in first."""


class Link:
    """A stream to an address, made anew when it is lost, until `close()`.

    Attributes:
        address: where to.
        stream: the stream; None while there is none.
        error: why the last attempt, or the last stream, came to nothing.
    """

    def __init__(
        self,
        address: Address,
        on_stream: Callable[[SecretStream], object],
        **options: Unpack[SecretStreamOptions],
    ) -> None:
        """Begin to connect; `on_stream` is called with every stream that opens."""
        self.address: Final = address
        self.stream: SecretStream | None = None
        self.error: Exception | None = None
        self._on_stream = on_stream
        self._options: Final = options
        self._waiting: set[asyncio.Future[None]] = set()
        self._is_wanted = asyncio.Event()
        self._task = asyncio.create_task(self._keep_up())

    async def wait_open(self) -> None:
        """Wait until there is a stream; if there is none, that is tried at once.

        Raises EndpointError if the next attempt fails, StreamClosed if the link is closed.
        """
        if self.stream is not None:
            return
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(opened)
        self._is_wanted.set()
        try:
            await opened
        finally:
            self._waiting.discard(opened)

    async def close(self) -> None:
        """Try no more, and close the stream: in order, if the peer does its part in time."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._tell(StreamClosed(f"the link to {self.address} was given up"))
        if self.stream is not None:
            await close_streams([self.stream])
            self.stream = None

    async def _keep_up(self) -> None:
        loop = asyncio.get_running_loop()
        wait = FIRST_WAIT
        while True:
            try:
                stream = await connect(self.address, **self._options)
            except EndpointError as error:
                self.error = error
                self._tell(error)
            else:
                opened_at = loop.time()
                self.stream = stream
                self._on_stream(stream)
                self._tell(None)
                await stream.wait_closed()
                self.stream = None
                self.error = stream.error
                if loop.time() - opened_at > LONGEST_WAIT:
                    wait = FIRST_WAIT
            # Not all at once, when a peer comes back that many have lost.
            await self._pause(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, LONGEST_WAIT)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless somebody asks for the stream meanwhile."""
        if not self._waiting:
            self._is_wanted.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._is_wanted.wait()
            except TimeoutError:
                pass

    def _tell(self, error: Exception | None) -> None:
        # Those who wait from here on wait for the next attempt; a connect that fails at once would
        # otherwise be followed by the next one, without a pause.
        waiting, self._waiting = self._waiting, set()
        for opened in waiting:
            if opened.done():
                continue
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)


class ListeningPlace:
    """An address where peers are let in, until `close()`; their streams live on.

    Attributes:
        addresses: where it listens.
    """

    def __init__(self, addresses: list[Address], context: AsyncExitStack) -> None:
        """For `open`."""
        self.addresses: Final = addresses
        self._context: Final = context

    @classmethod
    async def open(
        cls,
        address: Address,
        on_stream: Callable[[SecretStream], object],
        **options: Unpack[SecretStreamOptions],
    ) -> Self:
        """Listen at `address`; `on_stream` is called with every stream that opens.

        Raises EndpointError where it cannot.
        """
        async with AsyncExitStack() as context:
            server = await context.enter_async_context(listening(on_stream, address, **options))
            return cls(own_addresses(server, address), context.pop_all())

    async def close(self) -> None:
        """Listen no more."""
        await self._context.aclose()
