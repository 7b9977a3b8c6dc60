"""The bounds that a mux and its stream keep. Knows what each is for, not who enforces it."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of each thing one stream may hold, and for how long.

    Each field says what happens at the bound. *Destroyed* means that the stream ends with
    `LimitExceeded`, and all of its channels with it. `math.inf` in a field of seconds turns it off.

    Attributes:
        frame_size: bytes in a frame. A larger message raises `LimitExceeded` in the sender; a
            larger frame of the peer destroys the stream, at its length field where the stream has
            one, before its bytes are waited for. Default 16,777,198: the 2^24-1 bytes that a
            secret stream's length field can say, less the 17 bytes that its cipher adds. A server
            for strangers may want less: each of them can make it keep one frame.
        batch_size: a batch that we make is cut at this many bytes, and the next one begun.
            Default 8 MiB, as in the original. 0 makes every message a frame of its own: an original
            that receives a batch sends nothing until all async handlers of that batch have ended,
            so a JavaScript handler that waits for an answer on the same stream would wait for ever.
        batch_messages: messages in a batch. Ours are cut there; one of the peer's that has more
            destroys the stream. Default 1,048,576, eight for each channel that may be open. Below
            it the event loop gets a turn after every 256, or 5 ms, so length alone keeps nobody
            waiting.
        held_size: bytes of messages (each counted as its size + 512) that are held for channels
            which are not open here yet; above it no new frame is taken until they are open or
            rejected. Default 32 KiB, as in the original.
        held_most: bytes, counted in the same way, at which the batch in hand stops as well. Default
            64 MiB. Not less, because the open that they wait for may stand behind them.
        unsent_size: bytes of one loop tick's messages that wait for the end of the tick before
            `drained` says False. Default 64 KiB, the high-water mark of asyncio's transports.
        unsent_most: bytes written while the stream says that it does not keep up. With more, the
            peer counts as dead: destroyed. It bounds what a peer that never reads can make us
            answer, and an application that does not heed `drained`. Default 64 MiB, four of the
            largest frames.
        channels: channels that the peer may have open at once; an open beyond it is rejected,
            unless it answers one of ours.
            Default 131,072, four times the largest node that we measure with (30,000 topics).
        waiting_opens: opens of the peer that may wait to be paired at once; one beyond it is
            rejected. Default 65,536: a peer's burst of topics arrives before the first pair
            callback has run.
        waiting_size: bytes of those opens, with their names, ids and handshakes; an open beyond
            it is rejected. Default 8 MiB, which is room for 65,536 opens of wakeup.
        waiting_time: seconds that an open may wait to be paired; then it is rejected, and an async
            pair callback that runs for it is cancelled. Default 30: longer than it takes to open a
            store, shorter than a user waits.
        pair_callbacks: async pair callbacks that run at once; more have to wait for their turn,
            while their `waiting_time` runs. Default 4,096: a running task is most of what an open
            costs that waits, some 4 KB.
        hooks: other async hooks of the stream's channels that run at once; with more, nothing is
            read until some have ended. Default 4,096, for the same reason.
        paused_time: seconds that the peer may be paused in one stretch, for it says more than a
            protocol on the stream lets it (see `Protomux.pause_reading`); then it is destroyed. A
            stretch ends when a second goes by without a pause. Default 60.
        name_size: bytes in a protocol name, and in a channel's id, that the peer opens; a longer
            one destroys the stream. Default 1,024; the names in use have below 40, the ids 32.
        handshake_time: seconds from the connection to the peer's verified header, after which an
            encrypted stream that is not open ends with `HandshakeError`. Default 10, some ten
            round trips over the slowest links.
        handshakes: handshakes in flight at one server; one more ends the oldest of them with
            `LimitExceeded`. The oldest, because an honest peer is through within some round trips,
            and one that came to block the place is not. Default 1,024.
    """

    frame_size: int = 2**24 - 1 - 17
    batch_size: int = 8 * 1024 * 1024
    batch_messages: int = 1_048_576
    held_size: int = 32 * 1024
    held_most: int = 64 * 1024 * 1024
    unsent_size: int = 64 * 1024
    unsent_most: int = 64 * 1024 * 1024
    channels: int = 131_072
    waiting_opens: int = 65_536
    waiting_size: int = 8 * 1024 * 1024
    waiting_time: float = 30.0
    pair_callbacks: int = 4096
    hooks: int = 4096
    paused_time: float = 60.0
    name_size: int = 1024
    handshake_time: float = 10.0
    handshakes: int = 1024

    def __post_init__(self) -> None:
        """Raise TypeError for what is no number, ValueError for one below 0 or NaN."""
        for field in fields(Limits):
            value = getattr(self, field.name)
            if not isinstance(value, int | float):
                raise TypeError(f"expected a number for {field.name}, got {value!r}")
            if not value >= 0:
                raise ValueError(f"expected {field.name} of 0 or more, got {value!r}")
