"""Two sides that have met over a relay on loopback TCP, with a mux and a `Wakeup` each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from protomux import Channel, Protomux
from protomux.encoding import raw
from protomux.streams import SecretStream, open_connection, start_server
from protomux_wakeup import Wakeup
from tests.life.relay import Relay
from tests.ticking import until

CAPABILITY = b"\x07" * 32


class Side:
    """One end of the meeting."""

    def __init__(self, stream: SecretStream) -> None:
        self.stream = stream
        self.wakeup = Wakeup()
        self.wakeup.add_stream(stream)
        self.mux = Protomux.of(stream)
        self.session = self.wakeup.session(CAPABILITY)

    def channel(self, protocol: str) -> Channel:
        """Make a channel with one message type."""
        channel = self.mux.create_channel(protocol, messages=[raw])
        assert channel is not None
        return channel


class Meeting:
    """Both ends, and what is between them."""

    def __init__(self, near: Side, far: Side, relay: Relay) -> None:
        self.near = near
        self.far = far
        self.relay = relay


@asynccontextmanager
async def meeting() -> AsyncIterator[Meeting]:
    """Let two sides meet and prove; whatever is left of them at the end is aborted."""
    accepted: asyncio.Future[SecretStream] = asyncio.get_running_loop().create_future()
    async with await start_server(accepted.set_result, "127.0.0.1") as server:
        relay = Relay(server.sockets[0].getsockname()[1])
        near = Side(await open_connection("127.0.0.1", relay.port))
        far = Side(await accepted)
    await until(lambda: near.session.peers and far.session.peers)
    try:
        yield Meeting(near, far, relay)
    finally:
        for side in (near, far):
            side.wakeup.destroy()
            side.stream.abort()
            await side.stream.wait_closed()
        relay.close()


LOSSES: Final[dict[str, Callable[[Meeting], object]]] = {
    "the peer ends": lambda meeting: meeting.far.stream.close(),
    "the peer aborts": lambda meeting: meeting.far.stream.abort(),
    "cut by FIN": lambda meeting: meeting.relay.cut(reset=False),
    "cut by RST": lambda meeting: meeting.relay.cut(reset=True),
    "closed here": lambda meeting: meeting.near.stream.close(),
    "aborted here": lambda meeting: meeting.near.stream.abort(),
    "destroyed here": lambda meeting: meeting.near.mux.destroy(OSError("no space")),
}
"""Ways in which the near side loses its stream."""

ORDERLY: Final = ("the peer ends", "closed here")
"""Those in which both sides take what is on the way first."""
