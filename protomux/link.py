"""One channel's link to its mux: its number, its place, whom it is paired with. Knows one channel.

The `Board` knows all of them, and gives numbers out.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from protomux.channel import Channel
from protomux.errors import StreamClosed
from protomux.held import HELD_OVERHEAD
from protomux.limits import Limits
from protomux.outbox import FrameWriter
from protomux.pairing import RemoteChannel, Rendezvous

__all__ = ["Announced", "Board", "OwnLink"]


class Board(Protocol):
    """What a link needs of its mux."""

    limits: Limits
    loop: asyncio.AbstractEventLoop
    writer: FrameWriter

    @property
    def is_lost(self) -> bool:
        """The stream is gone."""
        ...

    def open_own(self, link: OwnLink, handshake: bytes) -> None:
        """Give the channel of `link` a number, and send its open."""
        ...

    def close_own(self, link: OwnLink) -> None:
        """Send the close of `link`, and forget it."""
        ...

    def count_hooks(self, change: int) -> None:
        """So many async hooks more run now, or fewer."""
        ...

    def fail(self, error: Exception) -> None:
        """Destroy the stream."""
        ...


class Announced:
    """An open of ours under the first of several names, and what was sent after it."""

    __slots__ = ("answered_as", "bodies", "handshake", "protocol", "size")

    def __init__(self, protocol: str, handshake: bytes) -> None:
        self.protocol = protocol
        self.answered_as: str | None = None  # the name under which the peer opened its side
        self.handshake = handshake
        self.bodies: list[bytes] = []
        self.size = 0

    def keep(self, body: bytes, limits: Limits) -> bool:
        """Keep `body` to send it again; False if that is more than the peer would hold."""
        self.bodies.append(body)
        self.size += len(body) + HELD_OVERHEAD
        return self.size <= limits.held_size


class OwnLink:
    """The `Link` of one channel: its number, its place, and whom it is paired with."""

    __slots__ = (
        "announced",
        "board",
        "channel",
        "has_reservation",
        "number",
        "place",
        "remote",
        "remote_number",
        "writer",
    )

    def __init__(self, board: Board) -> None:
        self.board = board
        self.writer = board.writer
        self.channel: Channel
        self.place: Rendezvous[OwnLink]  # once it is opened, or has a reservation there
        self.number = 0
        self.remote: RemoteChannel[OwnLink] | None = None
        """The peer's side from the pairing until we are open: what it sends is held there."""
        self.remote_number = 0
        """The peer's number from then on."""
        self.has_reservation = False
        self.announced: Announced | None = None
        """Our open, while the peer may not know the name that it carries."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where async hooks run."""
        return self.board.loop

    def check_open(self, handshake: bytes) -> None:
        """Raise StreamClosed or LimitExceeded where `open` cannot be done."""
        if self.board.is_lost:
            raise StreamClosed("expected a stream to open a channel on, it is gone")
        channel = self.channel
        names = 4 * len(channel.protocol) + len(channel.id or b"")
        self.writer.check_size(len(handshake) + names)

    def open(self, handshake: bytes) -> None:
        """Give the channel a number and send its open."""
        self.board.open_own(self, handshake)

    def send(self, body: bytes) -> bool:
        """Send a message's type and payload."""
        is_drained = self.writer.send(self.number, body)
        if self.announced is not None and not self.announced.keep(body, self.board.limits):
            self.announced = None
        return is_drained

    def close(self) -> None:
        """Send the close, and forget the channel."""
        self.board.close_own(self)

    def cork(self) -> None:
        """Hold back what the mux sends."""
        self.writer.cork()

    def uncork(self) -> None:
        """Undo one `cork`."""
        self.writer.uncork()

    def hook_started(self) -> None:
        """An async hook runs."""
        self.board.count_hooks(1)

    def hook_ended(self) -> None:
        """An async hook has ended."""
        self.board.count_hooks(-1)

    def fail(self, error: Exception) -> None:
        """Destroy the stream with `error`."""
        self.board.fail(error)
