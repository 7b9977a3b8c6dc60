"""What carries a mux: framed streams, in memory, over TCP, Unix sockets and UDX."""

from __future__ import annotations

from protomux.streams.admission import Firewall
from protomux.streams.base import FramedStream, FrameReceiver
from protomux.streams.memory import MemoryStream, memory_pair
from protomux.streams.net import (
    OnStream,
    Server,
    open_connection,
    open_udx_connection,
    open_unix_connection,
    start_server,
    start_udx_server,
    start_unix_server,
)
from protomux.streams.secret import SecretStream, SecretStreamOptions

__all__ = [
    "Firewall",
    "FrameReceiver",
    "FramedStream",
    "MemoryStream",
    "OnStream",
    "SecretStream",
    "SecretStreamOptions",
    "Server",
    "memory_pair",
    "open_connection",
    "open_udx_connection",
    "open_unix_connection",
    "start_server",
    "start_udx_server",
    "start_unix_server",
]
