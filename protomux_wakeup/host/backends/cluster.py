"""Requests to a cluster over HTTP, and to what runs there. Knows no backend and no dialect.

What comes back is bounded in size and in time. No redirect is followed, no cookie kept and nothing
decompressed. Errors name the host, never an address, since that of a backend is a secret, and never
what a cluster says, since that may be our own token.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final

import aiohttp
import msgspec
from yarl import URL

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.engine import EngineError
from protomux_wakeup.host.backends.types import decode
from protomux_wakeup.host.limits import check_above_zero

__all__ = ["Backoff", "Cluster", "ClusterLimits", "Malformed", "Refused", "Unreachable"]

_KINDS: Final = frozenset(
    (
        "FailedToAcquireKey",
        "KeyUnheldNoSpawnConfig",
        "KeyHeldUnhealthy",
        "KeyHeld",
        "NoDroneAvailable",
        "FailedToRemoveKey",
        "DatabaseError",
        "NoClusterProvided",
        "NotFound",
        "InvalidClusterName",
        "Other",
    )
)
"""ApiErrorKind of Plane's protocol.rs."""

_LATER: Final = frozenset((408, 425, 429))
"""What is not to be given up for: Request Timeout, Too Early, Too Many Requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterLimits:
    """How long we wait for a cluster, and how much we take from it.

    Attributes:
        request_time: seconds in which a request has to be answered. Default 30.
        start_time: seconds in which a backend has to be had, however often we have to ask. Default
            60.
        silence: seconds without a byte after which a stream of states counts as broken. Default
            60, four of the signs of life that Plane sends.
        first_wait: seconds until something is tried again; each time twice as many. Default 0.25.
        longest_wait: at most so many. Default 30.
        lost_time: seconds after which a backend counts as lost that nothing was heard of. Default
            300: a cluster may be restarted meanwhile.
        answer_size: bytes of an answer. Default 65,536.
        event_size: bytes of a line, and of an event, in a stream of states. Default 65,536.
        news: logs of which news may wait for one backend; what is more is left for the next one.
            Default 100,000.
        news_at_once: of these in one request. Default 500, some 80 kB: less than common servers
            take without being told to.
    """

    request_time: float = 30.0
    start_time: float = 60.0
    silence: float = 60.0
    first_wait: float = 0.25
    longest_wait: float = 30.0
    lost_time: float = 300.0
    answer_size: int = 65_536
    event_size: int = 65_536
    news: int = 100_000
    news_at_once: int = 500

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not above 0, TypeError for what is no number."""
        check_above_zero(self)


class Unreachable(EngineError):
    """There was no answer, or none in time, or it broke off."""


class Malformed(EngineError):
    """There was an answer that cannot be read."""


class Refused(EngineError):
    """There was an answer, and it was no.

    Attributes:
        status: the code of HTTP.
        retry_after: seconds after which it may be another; 0 where that was not told.
    """

    def __init__(self, status: int, kind: str, retry_after: float) -> None:
        super().__init__(f"the cluster has answered {status}" + (f", {kind}" if kind else ""))
        self.status = status
        self.retry_after = retry_after

    @property
    def is_final(self) -> bool:
        """Asking again would not help."""
        return self.status < 500 and self.status not in _LATER


class Backoff:
    """How long to wait until something is tried again: each time twice as long."""

    def __init__(self, limits: ClusterLimits) -> None:
        self._limits = limits
        self._wait = limits.first_wait

    def reset(self) -> None:
        """It has worked."""
        self._wait = self._limits.first_wait

    def next(self, error: Exception | None = None) -> float:
        """Return the seconds to wait, after `error` at least as long as that says.

        Not all wait equally long, or many would come back at once.
        """
        wait = self._wait * random.uniform(0.5, 1.0)
        self._wait = min(2 * self._wait, self._limits.longest_wait)
        if isinstance(error, Refused):
            return max(wait, min(error.retry_after, self._limits.lost_time))
        return wait


class Cluster:
    """Where requests go. To be made and closed in the same event loop."""

    def __init__(
        self,
        base: str,
        *,
        token: str | None,
        tls: ssl.SSLContext | None,
        limits: ClusterLimits,
    ) -> None:
        """Speak to `base`, by `token`; ValueError as `check_base` and `check_token` raise it."""
        check_token(token)
        self._base: Final = check_base(base, has_token=token is not None)
        self._limits: Final = limits
        self._headers: Final = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._session: Final = aiohttp.ClientSession(
            # Each backend holds a stream, so there is no bound for what is open at once.
            connector=aiohttp.TCPConnector(limit=0, ssl=tls or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            # A stream has no end; what has one is bounded where it is asked for.
            timeout=aiohttp.ClientTimeout(sock_read=limits.silence),
        )

    async def close(self) -> None:
        """Break off what is under way."""
        await self._session.close()

    async def get(self, path: str) -> bytes:
        """Return what is at `path`, which everybody may see: without the token."""
        return await self._answer(self._open("GET", self._base + path))

    async def ask(self, path: str, body: bytes) -> bytes:
        """Return the answer to the JSON `body`, which is asked with the token."""
        return await self._answer(self._open("POST", self._base + path, body, self._headers))

    async def tell(self, path: str, body: bytes) -> None:
        """Send the JSON `body`, or nothing where it is empty, with the token."""
        async with self._open("POST", self._base + path, body, self._headers):
            pass

    async def tell_backend(self, url: str, body: bytes) -> None:
        """Send the JSON `body` to the secret `url` of a backend, without the token."""
        async with self._open("POST", url, body):
            pass

    @asynccontextmanager
    async def stream(self, path: str, last_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stream of events, to go on after `last_id`; gives the pieces that come.

        Unreachable is raised while they are read, too, unless it ends in order.
        """
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        async with self._open("GET", self._base + path, headers=headers) as response:
            # The header as it came: aiohttp reads it as that of a mail, which may fail.
            kind = response.headers.get("Content-Type", "").partition(";")[0]
            if kind.strip().lower() != "text/event-stream":
                raise Malformed("expected a stream of events, got something else")
            yield response.content.iter_any()

    async def _answer(self, opening: AbstractAsyncContextManager[aiohttp.ClientResponse]) -> bytes:
        async with opening as response, asyncio.timeout(self._limits.request_time):
            return await self._read(response)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for piece in response.content.iter_any():
            body += piece
            if len(body) > self._limits.answer_size:
                raise Malformed(f"expected an answer of at most {self._limits.answer_size} bytes")
        return bytes(body)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, and give its answer, whose code is 2xx."""
        response = await self._request(method, url, body, headers)
        try:
            async with response:
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(_said(error)) from None

    async def _request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        if body:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            async with asyncio.timeout(self._limits.request_time):
                response = await self._session.request(
                    method, URL(url), data=body, headers=headers, allow_redirects=False
                )
                if not 200 <= response.status < 300:
                    async with response:
                        raise await self._refused(response)
                return response
        except EngineError:
            raise
        except Exception as error:  # whatever a head makes aiohttp raise, a host that is no name
            raise Unreachable(_said(error)) from None

    async def _refused(self, response: aiohttp.ClientResponse) -> Refused:
        try:
            told = decode(await self._read(response), _Error)
        except (ProtocolError, Malformed):
            told = _Error()
        after = _seconds(response.headers.get("Retry-After", ""))
        return Refused(response.status, told.kind if told.kind in _KINDS else "", after)


class _Error(msgspec.Struct):
    kind: str = ""


def check_base(base: str, *, has_token: bool) -> str:
    """Return the address of a cluster without a slash at its end.

    Raises ValueError where it is none, and where a token would go over a network in plain text.
    """
    url = URL(base)
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("expected the address of a cluster to be one of http or https")
    if url.user is not None or url.password is not None or url.query_string or url.fragment:
        raise ValueError("expected the address of a cluster to have a host and a path at most")
    if has_token and url.scheme == "http" and not _is_here(url.host):
        raise ValueError(
            f"expected https for a token that leaves this machine, got http://{url.host}"
        )
    return str(url).rstrip("/")


def check_token(token: str | None) -> None:
    """Raise ValueError where `token` cannot be sent."""
    if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
        raise ValueError("expected a token of printable ASCII characters")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _said(error: Exception) -> str:
    """Return what `error` says, if that names a host at most."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "the cluster has not answered in time"
    return f"the connection to the cluster has failed: {type(error).__name__}"


def _seconds(retry_after: str) -> float:
    """Return how long a Retry-After (RFC 9110, section 10.2.3) says; 0 where it says nothing."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0
