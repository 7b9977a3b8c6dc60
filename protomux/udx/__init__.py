"""UDX: streams of bytes over UDP, as the originals have them.

    socket                                  one UDP socket with many streams, in the event loop
    transport                               a stream as an asyncio.Transport
    stream                                  what each side of a stream does
    sending  reassembly                     what goes out, and what comes
    congestion  recovery  mtu  pacer        how much, when, and how large
    ranges  windowed  packet                numbers, and the bytes on the wire
    datagrams                               many datagrams with one system call

`stream` and what stands below it knows no socket and no clock: packets and times are handed in.
"""

from __future__ import annotations

from protomux.udx.datagrams import Address
from protomux.udx.socket import OnDatagram, Socket, Tap, create_socket
from protomux.udx.transport import UdxTransport

__all__ = ["Address", "OnDatagram", "Socket", "Tap", "UdxTransport", "create_socket"]
