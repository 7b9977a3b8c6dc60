"""Which HTTP messages are taken at all: those that all parsers understand alike.

The parser of aiohttp has refused most others before (as of 3.14): those with a bare line feed, a
folded header, blanks around a name, two lengths. What it lets through is refused here. Knows no
route.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final

from aiohttp import ClientResponse, hdrs, web
from aiohttp.http import HttpVersion10, HttpVersion11
from multidict import CIMultiDictProxy

from protomux.errors import ProtomuxError

__all__ = [
    "BadAnswer",
    "Refused",
    "check_answer",
    "check_request",
    "check_upgrade",
    "check_upgraded",
    "is_value",
    "wants_websocket",
    "words",
]

_TARGET: Final = re.compile(r"/[!\"$-\[\]-~]*")
"""What RFC 9112, 3.2.1 has, and what browsers send besides. Not "#", which ends it for some, and
not the backslash, which is a slash for some."""

_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_LENGTH: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What no value of a header may have. Bytes that are no UTF-8 come as surrogates."""

_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_GUID: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""


class Refused(ProtomuxError):
    """A request is not taken.

    Attributes:
        status: of the answer.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status: Final = status


class BadAnswer(ProtomuxError):
    """A backend has answered what is not passed on."""


def check_request(request: web.BaseRequest) -> None:
    """Raise Refused unless all parsers agree where `request` ends, and what it asks of whom."""
    if request.version not in (HttpVersion10, HttpVersion11):
        raise Refused("expected HTTP/1.1")
    if request.method in (hdrs.METH_CONNECT, hdrs.METH_TRACE):
        # TRACE would tell the client what is for the backend alone.
        raise Refused("expected another method than CONNECT and TRACE", 405)
    if _TARGET.fullmatch(request.raw_path) is None:
        raise Refused("expected a path of visible ASCII, without # and \\")
    headers = request.headers
    hosts = headers.getall(hdrs.HOST, [])
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        raise Refused("expected one Host: a name or an address, with or without a port")
    wrong = _what_is_wrong(headers, chunks=request.version == HttpVersion11)
    if wrong is not None:
        raise Refused(wrong)


def check_answer(answer: ClientResponse) -> None:
    """Raise BadAnswer unless `answer` is one that is passed on, with a body or without."""
    if answer.version not in (HttpVersion10, HttpVersion11):
        raise BadAnswer("expected the backend to speak HTTP/1.1")
    if not 200 <= answer.status <= 599:
        raise BadAnswer("expected the backend to answer with a status from 200 to 599")
    wrong = _what_is_wrong(answer.headers, chunks=answer.version == HttpVersion11)
    if wrong is not None:
        raise BadAnswer(f"of the backend: {wrong}")


def _what_is_wrong(headers: CIMultiDictProxy[str], *, chunks: bool) -> str | None:
    for name, value in headers.items():
        if _NAME.fullmatch(name) is None or not is_value(value):
            return "expected headers without control characters, in UTF-8"
    lengths = headers.getall(hdrs.CONTENT_LENGTH, [])
    codings = headers.getall(hdrs.TRANSFER_ENCODING, [])
    if len(lengths) + len(codings) > 1:
        return "expected one Content-Length or Transfer-Encoding"
    if lengths and _LENGTH.fullmatch(lengths[0]) is None:
        return "expected a Content-Length from 0 to 10^18 - 1"
    if codings and (not chunks or codings[0].lower() != "chunked"):
        return "expected no Transfer-Encoding but chunked, in HTTP/1.1"
    return None


def is_value(text: str) -> bool:
    """Tell whether `text` arrives as it is, as the value of a header."""
    return _UNFIT.search(text) is None and text == text.strip(" \t")


def words(headers: CIMultiDictProxy[str], name: str) -> set[str]:
    """Return the words, in lower case, of a header that is a list of them."""
    # No regular expression: what goes back at each blank takes minutes for blanks without end.
    listed = ",".join(headers.getall(name, [])).lower().split(",")
    return {word.strip(" \t") for word in listed} - {""}


# WebSockets, RFC 6455, 4


def wants_websocket(request: web.BaseRequest) -> bool:
    """Tell whether `request` asks for a WebSocket. Other protocols are not for us, nor passed on.

    The parser knows it by the same two headers, and takes what follows for no request.
    """
    upgrades = request.headers.getall(hdrs.UPGRADE, [])
    return (
        len(upgrades) == 1
        and upgrades[0].isascii()  # there are others that become a "k"
        and upgrades[0].lower() == "websocket"
        and "upgrade" in words(request.headers, hdrs.CONNECTION)
    )


def check_upgrade(request: web.BaseRequest) -> None:
    """Raise Refused unless the backend takes `request` as we do: what follows is no request."""
    headers = request.headers
    keys = headers.getall(hdrs.SEC_WEBSOCKET_KEY, [])
    if (
        request.method != hdrs.METH_GET
        or request.version != HttpVersion11
        or request.body_exists
        or headers.getall(hdrs.SEC_WEBSOCKET_VERSION, []) != ["13"]
        or len(keys) != 1
        or _KEY.fullmatch(keys[0]) is None
    ):
        raise Refused("expected a WebSocket to be asked for by GET, in version 13, with a key")


def check_upgraded(request: web.BaseRequest, answer: ClientResponse) -> None:
    """Raise BadAnswer unless `answer` accepts the WebSocket that `request` has asked for."""
    key = request.headers[hdrs.SEC_WEBSOCKET_KEY] + _GUID
    digest = hashlib.sha1(key.encode(), usedforsecurity=False).digest()
    headers = answer.headers
    if (
        answer.version != HttpVersion11
        or headers.get(hdrs.UPGRADE, "").lower() != "websocket"
        or "upgrade" not in words(headers, hdrs.CONNECTION)
        or headers.getall(hdrs.SEC_WEBSOCKET_ACCEPT, []) != [base64.b64encode(digest).decode()]
        or _what_is_wrong(headers, chunks=False) is not None
    ):
        raise BadAnswer("expected the backend to accept the WebSocket, or not to")
