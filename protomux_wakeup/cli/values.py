"""How keys, logs and addresses are written on a command line. Knows text, no socket.

Every parser raises ValueError with a message that names the value and what was expected.
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple, TypeAlias

from protomux_wakeup import Writer

__all__ = [
    "MAX_LENGTH",
    "Address",
    "TcpAddress",
    "UdpAddress",
    "UnixAddress",
    "count_of",
    "format_writer",
    "hex_of",
    "parse_address",
    "parse_key",
    "parse_seconds",
    "parse_writer",
    "short",
    "shown",
]

MAX_LENGTH: Final = 2**53 - 1
"""Largest length of a log: the largest integer that the originals read."""

_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")
_DECIMAL: Final = re.compile(r"[0-9]{1,16}")
_SHOWN: Final = 80  # characters of a wrong value that an error repeats
_SHORT: Final = 12  # hex digits that tell the peers and topics of one person apart


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


def short(key: bytes | None) -> str:
    """Return enough of a key to know it again."""
    return "?" if key is None else key.hex()[:_SHORT] + "…"


def count_of(number: int, thing: str) -> str:
    """Return "1 log", "2 logs", for the `thing` "log"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def hex_of(key: bytes | None) -> str | None:
    """Return `key` in hex digits, None for no key."""
    return None if key is None else key.hex()


def parse_key(text: str) -> bytes:
    """Return the 32 bytes of 64 hex digits."""
    if _KEY.fullmatch(text) is None:
        raise ValueError(f"expected 64 hex digits, got {shown(text)}")
    return bytes.fromhex(text)


def parse_writer(text: str) -> Writer:
    """Return the log and its length that KEY:LENGTH says."""
    key, colon, length = text.partition(":")
    if (
        not colon
        or _KEY.fullmatch(key) is None
        or _DECIMAL.fullmatch(length) is None
        or int(length) > MAX_LENGTH
    ):
        raise ValueError(
            f"expected KEY:LENGTH, 64 hex digits and a number from 0 to {MAX_LENGTH}, "
            f"got {shown(text)}"
        )
    return Writer(bytes.fromhex(key), int(length))


def format_writer(writer: Writer) -> str:
    """Return KEY:LENGTH."""
    return f"{writer.key.hex()}:{writer.length}"


def parse_address(text: str) -> Address:
    """Return where HOST:PORT, [IPV6]:PORT, unix:PATH or udp://SERVER:PORT/ID/VISITOR:PORT/ID is."""
    if text.startswith("unix:") and len(text) > len("unix:"):
        return UnixAddress(text.removeprefix("unix:"))
    if text.startswith("udp:"):
        return _parse_udp_address(text)
    return _parse_tcp_address(text)


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


def _parse_tcp_address(text: str) -> TcpAddress:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(
            f"expected HOST:PORT, with an IPv6 address in brackets as in [::1]:4000, "
            f"got {shown(text)}"
        )
    if not host or _DECIMAL.fullmatch(port) is None or not 1 <= int(port) <= 65535:
        raise ValueError(
            f"expected HOST:PORT with a port from 1 to 65535, or unix:PATH, got {shown(text)}"
        )
    return TcpAddress(host, int(port))


def parse_seconds(text: str) -> float:
    """Return a number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected a number of seconds above 0, got {shown(text)}")
    return seconds
