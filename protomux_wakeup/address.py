"""Where a peer is, and how that is written. Knows text, no socket."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, TypeAlias

__all__ = ["Address", "TcpAddress", "UdpAddress", "UnixAddress", "parse_address", "shown"]

_DECIMAL: Final = re.compile(r"[0-9]{1,16}")
_SHOWN: Final = 80  # characters of a wrong value that an error repeats


class TcpAddress(NamedTuple):
    """A host, by name or number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnixAddress(NamedTuple):
    """The path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class UdpAddress(NamedTuple):
    """Both ends of a UDX stream, each with its number of the stream; the same text for both."""

    server: TcpAddress
    server_id: int
    visitor: TcpAddress
    visitor_id: int

    def __str__(self) -> str:
        return f"udp://{self.server}/{self.server_id}/{self.visitor}/{self.visitor_id}"


Address: TypeAlias = TcpAddress | UnixAddress | UdpAddress


def shown(value: str) -> str:
    """Return `value` as an error repeats it: quoted, on one line, not too long."""
    return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")


def parse_address(text: str, *, least_port: int = 1) -> Address:
    """Return where HOST:PORT, [IPV6]:PORT, unix:PATH or udp://SERVER:PORT/ID/VISITOR:PORT/ID is.

    Raises ValueError for anything else. A `least_port` of 0 is for listening over TCP, where it
    is any free port.
    """
    if text.startswith("unix:") and len(text) > len("unix:"):
        return UnixAddress(text.removeprefix("unix:"))
    if text.startswith("udp:"):
        return _parse_udp_address(text)
    return _parse_tcp_address(text, least_port)


def _parse_udp_address(text: str) -> UdpAddress:
    parts = text.removeprefix("udp://").split("/")
    if len(parts) != 4 or not all(
        _DECIMAL.fullmatch(id) is not None and int(id) < 2**32 for id in parts[1::2]
    ):
        raise ValueError(
            f"expected udp://SERVER:PORT/ID/VISITOR:PORT/ID, each ID a number from 0 to 2^32 - 1, "
            f"got {shown(text)}"
        )
    server, server_id, visitor, visitor_id = parts
    return UdpAddress(
        _parse_tcp_address(server), int(server_id), _parse_tcp_address(visitor), int(visitor_id)
    )


def _parse_tcp_address(text: str, least_port: int = 1) -> TcpAddress:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(
            f"expected HOST:PORT, with an IPv6 address in brackets as in [::1]:4000, "
            f"got {shown(text)}"
        )
    if not host or _DECIMAL.fullmatch(port) is None or not least_port <= int(port) <= 65535:
        raise ValueError(
            f"expected HOST:PORT with a port from {least_port} to 65535, or unix:PATH, "
            f"got {shown(text)}"
        )
    return TcpAddress(host, int(port))
