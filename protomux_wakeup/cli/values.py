"""How keys, logs and times are written on a command line. Knows text alone.

Every parser raises ValueError with a message that names the value and what was expected.
"""

from __future__ import annotations

import math
import re
from typing import Final

from protomux.encoding import MAX_UINT
from protomux_wakeup import Writer
from protomux_wakeup.address import shown

__all__ = [
    "MAX_LENGTH",
    "count_of",
    "format_writer",
    "hex_of",
    "parse_key",
    "parse_seconds",
    "parse_writer",
    "short",
]

MAX_LENGTH: Final = MAX_UINT
"""Largest length of a log: the largest integer that the originals read."""

_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")
_DECIMAL: Final = re.compile(r"[0-9]{1,16}")
_SHORT: Final = 12  # hex digits that tell the peers and topics of one person apart


def short(key: bytes | None) -> str:
    """Return enough of a key to know it again."""
    return "?" if key is None else key.hex()[:_SHORT] + "…"


def count_of(number: int, thing: str) -> str:
    """Return "1 log", "2 logs", for the `thing` "log"; "2 processes"."""
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing}{'es' if thing.endswith('s') else 's'}"


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


def parse_seconds(text: str) -> float:
    """Return a number of seconds above 0."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError(f"expected a number of seconds above 0, got {shown(text)}")
    return seconds
