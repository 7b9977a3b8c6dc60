"""Which headers the proxy passes on, and what it adds. Knows no socket.

To the backend go all but those that are for the next hop alone (RFC 9110, 7.6.1), those that we
set, and those that some gateways (CGI, WSGI) would take for one of them: "X_Verified_Secret" and
"x.verified.secret" are HTTP_X_VERIFIED_SECRET there. Of what comes back, what would act on other
backends is left out, since a browser sees all of them as one origin; cookies stay below the token.

A backend is told, as by Plane: X-Verified-Username, X-Verified-User-Data (JSON),
X-Verified-Backend, X-Verified-Secret, X-Verified-Path (which has the token). Host is what the
client has sent, so that a backend may compare it with Origin. X-Forwarded-For, -Host, -Proto and
-Prefix tell of our client alone; what that says of others is dropped, since nobody has proven it.
Referer is dropped, since it tells the token of another backend that a link has led from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import ClientResponse, hdrs, web
from multidict import CIMultiDict

from protomux_wakeup.host.backends.tokens import Route
from protomux_wakeup.host.backends.wellformed import is_value, words

__all__ = ["passed_back", "passed_on", "verified"]

_HOP: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OURS: Final = frozenset(
    {
        "client-ip",
        "content-length",
        "expect",
        "forwarded",
        "front-end-https",
        "host",
        "proxy",
        "referer",
        "remote-user",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-original-url",
        "x-real-ip",
        "x-remote-user",
        "x-rewrite-url",
    }
)
"""What we say, and what other proxies would say to those behind them. "Proxy" becomes HTTP_PROXY in
a gateway, by which a program would send its own requests elsewhere. "Referer" has the token of the
page that a browser comes from."""

_OURS_BEGIN: Final = ("proxy-", "x-forwarded-", "x-verified-")
_OF_THE_ORIGIN: Final = frozenset(
    {
        "accept-ch",
        "alt-svc",
        "clear-site-data",
        "nel",
        "origin-agent-cluster",
        "public-key-pins",
        "public-key-pins-report-only",
        "report-to",
        "reporting-endpoints",
        "service-worker-allowed",
        "set-login",
        "strict-transport-security",
    }
)
"""What a browser would do for all paths of our origin."""

_ELSE: Final = re.compile(r"[^0-9a-z]")
_SCOPE: Final = re.compile(r"[ \t]*(domain|path)[ \t]*(=|$)", re.IGNORECASE)


def verified(user: str | None, auth: dict[str, Any] | None) -> dict[str, str]:
    """Return the headers that tell a backend who asks.

    Raises ValueError for a `user` that would not arrive as it is: with control characters, or
    blanks around it.
    """
    headers = {}
    if user is not None:
        if not is_value(user):
            raise ValueError("expected a user without control characters and without blanks around")
        headers["X-Verified-Username"] = user
    if auth is not None:
        headers["X-Verified-User-Data"] = json.dumps(auth, separators=(",", ":"))
    return headers


def passed_on(request: web.BaseRequest, route: Route, path: str, prefix: str) -> CIMultiDict[str]:
    """Return what the backend of `route` is to have of the headers of `request`.

    `path` is what the client has asked for, without the query, and `prefix` what of it is not for
    the backend. Raises what `verified` does.
    """
    dropped = _HOP | _OURS | {_plain(name) for name in words(request.headers, hdrs.CONNECTION)}
    headers: CIMultiDict[str] = CIMultiDict()
    host = request.headers[hdrs.HOST]
    headers[hdrs.HOST] = host
    for name, value in request.headers.items():
        plain = _plain(name)
        if plain not in dropped and not plain.startswith(_OURS_BEGIN):
            headers.add(name, value)
    if hdrs.CONTENT_LENGTH in request.headers:
        headers[hdrs.CONTENT_LENGTH] = request.headers[hdrs.CONTENT_LENGTH]
    headers[hdrs.X_FORWARDED_FOR] = request.remote or ""
    headers[hdrs.X_FORWARDED_HOST] = host
    headers[hdrs.X_FORWARDED_PROTO] = "http"
    headers["X-Forwarded-Prefix"] = prefix
    headers.update(verified(route.user, route.auth))
    headers["X-Verified-Backend"] = route.backend_id
    headers["X-Verified-Secret"] = route.secret_token
    headers["X-Verified-Path"] = path
    return headers


def passed_back(answer: ClientResponse, prefix: str) -> CIMultiDict[str]:
    """Return what the client is to have of the headers of `answer`."""
    dropped = _HOP | _OF_THE_ORIGIN | words(answer.headers, hdrs.CONNECTION)
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in answer.headers.items():
        plain = name.lower()
        if plain == "set-cookie":
            headers.add(name, "; ".join(_below(prefix, value)))
        elif plain not in dropped or plain == "content-length":
            headers.add(name, value)
    headers.setdefault(hdrs.SERVER, "protomux-wakeup")
    return headers


def _plain(name: str) -> str:
    """Return what `name` is where letters and digits are all that counts."""
    return _ELSE.sub("-", name.lower())


def _below(prefix: str, cookie: str) -> Iterator[str]:
    """Yield the parts of `cookie`, sent from now on to what is below `prefix` and nowhere else."""
    path = "/"
    for number, part in enumerate(cookie.split(";")):
        scope = _SCOPE.match(part) if number else None
        if scope is None:
            yield part.strip(" \t")
        elif scope[1].lower() == "path":
            path = part[scope.end() :].strip(" \t")
    yield f"Path={prefix}{path if path.startswith('/') else '/'}"
