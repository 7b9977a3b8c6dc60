"""Requests over a channel of a mux. Knows how an `Rpc` rides on one, not what is asked."""

from __future__ import annotations

from typing import Final

from protomux import Channel, LimitExceeded, Protomux, StreamClosed
from protomux.encoding import raw
from protomux_wakeup.host.rpc import Limits, Rpc

__all__ = ["APP", "CALLS", "GOING", "HEARTBEAT", "LEADER_SILENT", "MOVED", "SYSTEM", "open_rpc"]

APP: Final = "protomux-wakeup/host/app"
"""The protocol of an application's calls, on the app port."""

SYSTEM: Final = "protomux-wakeup/host/system"
"""The protocol of heartbeats, on the system port."""

HEARTBEAT: Final = "heartbeat"
"""A client asks it of the worker, on the system port."""

LEADER_SILENT: Final = "leader-silent"
"""The worker says it to its clients, and ends: its leader does not answer."""

CALLS: Final = 1024
"""Calls that a client has in flight at once; more wait for their turn."""

GOING: Final = "protomux-wakeup/going"
"""The worker asks it of its clients before it goes. Who answers sends no more calls; as the answer
comes after the calls that were sent, none is lost on the way."""

HEAD: Final = 128
"""Bytes of a frame that are kept free: more than the numbers before a message take."""

MOVED: Final = "ERR_PROTOMUX_WAKEUP_MOVED"
"""Code of the error of a call that a worker does not begin, since it is about to go."""


def open_rpc(mux: Protomux, protocol: str) -> Rpc:
    """Return the `Rpc` of the channel `protocol`, which is opened on `mux`; it ends with that."""

    def received(text: bytes, _channel: Channel) -> None:
        if rpc.in_flight > 2 * CALLS:
            raise LimitExceeded(f"expected at most {CALLS} calls at once")
        rpc.received(text)  # what it raises ends the stream, as any hook's error does

    def closed(*_: object) -> None:
        rpc.destroy(StreamClosed(f"the channel {protocol} has closed"))

    channel = mux.create_channel(protocol, messages=((raw, received),), on_close=closed)
    assert channel is not None  # nobody else opens it on a mux of our own
    rpc = Rpc(channel.messages[0].send, limits=Limits(line_size=mux.limits.frame_size - HEAD))
    channel.open()
    return rpc
