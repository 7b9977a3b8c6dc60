"""The messages of the wakeup protocol, declared with Construct. Knows no channel.

Flags that are unknown are ignored, as are bytes behind a message, which these formats leave unread.
"""

from __future__ import annotations

from typing import Final

from construct import Computed, If, Struct, this

from protomux.dissect.compact import array, fixed32, uint
from protomux.dissect.tree import Format, field

__all__ = ["MESSAGES", "PROTOCOL", "announce", "handshake", "info", "lookup"]

PROTOCOL: Final = "wakeup"
"""Name of the protocol."""

_ACTIVE: Final = 1
_HAS_HASH: Final = 1

_active: Final = field("active", Computed(lambda this: this.flags & _ACTIVE == _ACTIVE))

handshake: Final[Format] = Struct(
    field("version", uint), field("capability", fixed32), field("flags", uint), _active
)
"""In the open: version, proof of the capability, flags."""

lookup: Final[Format] = Struct(
    field("flags", uint), "hash" / If(this.flags & _HAS_HASH, field("hash", fixed32))
)
"""Type 0: flags, and the hash that they tell of."""

announce: Final[Format] = array(Struct(field("key", fixed32), field("length", uint)), "writer")
"""Type 1: an array of keys and lengths."""

info: Final[Format] = Struct(field("flags", uint), _active)
"""Type 2: flags."""

MESSAGES: Final = ("lookup", lookup), ("announce", announce), ("info", info)
"""Name and format of the messages, by type."""
