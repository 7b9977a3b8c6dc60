"""Keys that are always the same, so that what was recorded under them is understood again.

Knows who has which keys, and how to have nothing chosen at random. The seeds are those of
`fuzz/record/secret.mjs`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple
from unittest.mock import patch

from protomux.crypto import KeyPair
from tests.golden.streams import fixed_header

__all__ = ["HEADER", "INITIATOR", "RESPONDER", "Keys", "fixed"]


class Keys(NamedTuple):
    """The key pairs of one side."""

    static: KeyPair
    ephemeral: KeyPair


INITIATOR: Final = Keys(KeyPair.generate(b"\x01" * 32), KeyPair.generate(b"\x02" * 32))
RESPONDER: Final = Keys(KeyPair.generate(b"\x03" * 32), KeyPair.generate(b"\x04" * 32))

HEADER: Final = b"\x11" * 24
"""Where the secretstreams of both sides begin; their keys differ."""


@contextmanager
def fixed(keys: Keys) -> Iterator[None]:
    """Let handshakes take their ephemeral key from `keys`, and secretstreams begin at `HEADER`."""
    with patch.object(KeyPair, "generate", new=lambda: keys.ephemeral), fixed_header(HEADER):
        yield
