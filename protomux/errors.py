"""The errors of this library. Knows nothing else of it.

Whatever a peer sends, an application sees a `ProtomuxError` or nothing. Misuse by the
application itself (a wrong argument, a call in the wrong state) raises the usual
`TypeError`, `ValueError` or `RuntimeError` instead.
"""

from __future__ import annotations

__all__ = [
    "EncodingError",
    "HandshakeError",
    "LimitExceeded",
    "ProtocolError",
    "ProtomuxError",
    "StreamClosed",
]


class ProtomuxError(Exception):
    """Base of every error that a peer or a stream can cause."""


class EncodingError(ProtomuxError, ValueError):
    """A value does not fit its encoding, or bytes do not decode to one."""


class ProtocolError(ProtomuxError):
    """The peer sent something that the protocol does not allow in this state."""


class HandshakeError(ProtomuxError):
    """The encrypted stream could not be set up: bad message, wrong key, refused, too late."""


class LimitExceeded(ProtomuxError):
    """A bound of `protomux.Limits` was passed."""


class StreamClosed(ProtomuxError):
    """The stream is gone, or goes while something still waits on it."""
