"""What HTTP says when it does not do what it was asked: JSON, as Plane's ApiError. Knows no route.

What is refused before somebody has shown a secret is refused in the same bytes each time.
"""

from __future__ import annotations

import socket as sockets
import struct
from typing import Final

from aiohttp import hdrs, web

from protomux_wakeup.host.backends.types import encode

__all__ = ["NOT_FOUND", "OTHER", "cut", "failure"]

_AT_ONCE: Final = struct.pack("ii", 1, 0)

NOT_FOUND: Final = "NotFound"
OTHER: Final = "Other"


def failure(status: int, kind: str, message: str, *, id: str = "") -> web.Response:
    """Return {id, kind, message}: `id` is what the log has of it, `kind` a word of Plane's."""
    response = web.Response(
        status=status,
        body=encode({"id": id, "kind": kind, "message": message}),
        content_type="application/json",
    )
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    response.headers[hdrs.SERVER] = "protomux-wakeup"
    if status in (400, 405, 408, 413, 417, 431):
        response.force_close()  # where the request ends is not certain, or not waited for
    return response


def cut(request: web.BaseRequest) -> None:
    """End the connection of `request` by a reset, which nobody takes for the end of an answer."""
    transport = request.transport
    if transport is not None:
        socket = transport.get_extra_info("socket")
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, _AT_ONCE)
        transport.abort()
