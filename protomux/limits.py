"""The bounds that a mux keeps. Knows what each bound is for, not who enforces it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of each thing one stream may hold.

    Attributes:
        frame_size: largest frame in bytes that is sent; a larger message raises
            `LimitExceeded` in the sender. Default 16,777,198: the 2^24-1 bytes that a secret
            stream's length field can say, less the 17 bytes that its cipher adds.
        batch_size: a batch of this many bytes or more is cut, and the next one begun. Default
            8 MiB, as in the original. 0 makes every message a frame of its own: an original that
            receives a batch sends nothing until all async handlers of that batch have ended, so a
            JavaScript handler that waits for an answer on the same stream would wait for ever.
        held_size: bytes of messages (each counted as its size + 512) that are held for channels
            which are not open here yet, before reading pauses. Default 32 KiB, as in the original.
        held_most: bytes, counted in the same way, that may be held in all: pausing does not stop
            the frame in hand. Beyond it the stream is destroyed. Default 64 MiB.
        unsent_size: bytes of one loop tick's messages that wait for the end of the tick before
            `drained` says False. Default 64 KiB, the high-water mark of asyncio's transports.
        channels: channels that the peer may have open at once; an open beyond it is rejected.
            Default 131,072, four times the largest node that we measure with (30,000 topics).
        waiting_opens: opens of the peer that may wait to be paired at once; one beyond it is
            rejected. Default 65,536: a peer's burst of topics arrives before the first pair
            callback has run.
        waiting_size: bytes of the handshakes that came with those opens; an open beyond it is
            rejected. Default 4 MiB, which is room for 65,536 handshakes of wakeup.
        name_size: bytes in a protocol name, and in a channel's id, that the peer opens; a longer
            one destroys the stream. Default 1,024; the names in use have below 40, the ids 32.
    """

    frame_size: int = 2**24 - 1 - 17
    batch_size: int = 8 * 1024 * 1024
    held_size: int = 32 * 1024
    held_most: int = 64 * 1024 * 1024
    unsent_size: int = 64 * 1024
    channels: int = 131_072
    waiting_opens: int = 65_536
    waiting_size: int = 4 * 1024 * 1024
    name_size: int = 1024
