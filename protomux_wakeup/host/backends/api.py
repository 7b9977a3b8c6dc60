"""The control API: who has its token gets, sees and ends backends. Knows no process.

The shapes and paths are those of Jamsocket's SDKs ("/v2/...") and of Plane ("/b/..."). What a page
may ask for, the state of one backend whose id it was told, needs no token, and may be asked for
from any origin; ids are not guessed. All else needs "Authorization: Bearer TOKEN", is for no other
origin, and answers nothing, not even what is wrong, before that was shown.

Who goes is waited for no longer. A backend that was to be started for them by then goes on, as one
does whose token was lost on its way: under its key, or until it is idle.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import hdrs, web

from protomux.errors import ProtocolError, ProtomuxError
from protomux_wakeup.host.backends.answers import NOT_FOUND, OTHER, failure
from protomux_wakeup.host.backends.errors import (
    BackendError,
    KeyUnheld,
    NotReady,
    OtherUser,
    TagMismatch,
    UnknownBackend,
    UnknownTag,
)
from protomux_wakeup.host.backends.headers import verified
from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.manager import Manager
from protomux_wakeup.host.backends.overview import Sight, Status, overview
from protomux_wakeup.host.backends.page import add_page
from protomux_wakeup.host.backends.streams import Event, Streams
from protomux_wakeup.host.backends.types import (
    BackendState,
    BackendStatus,
    ConnectRequest,
    decode,
    encode,
)
from protomux_wakeup.host.backends.wellformed import Refused, check_request

__all__ = ["Control", "Status"]

_log = logging.getLogger("protomux_wakeup.host")

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUSES: Final[dict[type[BackendError], int]] = {
    KeyUnheld: 409,
    NotReady: 410,
    OtherUser: 409,
    TagMismatch: 409,
    UnknownBackend: 404,
    UnknownTag: 404,
}
"""What is not in here may be otherwise later: 503."""


class _Terminate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    hard: bool = False


class Control:
    """The routes of one manager.

    Attributes:
        application: of aiohttp; others may add routes while it has not started.
    """

    def __init__(
        self,
        manager: Manager,
        token: str,
        limits: HttpLimits,
        *,
        status: Status | None = None,
    ) -> None:
        """Serve `manager` to who has `token`; `status`, where given, at /status."""
        self.application: Final = web.Application(
            middlewares=[self._answer], client_max_size=limits.body
        )
        self._manager = manager
        self._token = token.encode()
        self._limits = limits
        self._streams = Streams(keepalive=limits.keepalive, stall=limits.stall)
        self._status = status
        self._public: set[web.AbstractResource | None] = set()
        self.application.on_response_prepare.append(self._prepare)
        for path in ("/v2/backend/{id}/status", "/b/{id}/status"):
            self._add_public(path, self._state)
        for path in ("/v2/backend/{id}/status/stream", "/b/{id}/status-stream"):
            self._add_public(path, self._state_stream)
        self._add_public("/v2/backend/{id}/ready", self._ready)
        for path in ("/connect", "/v2/service/{account}/{service}/connect"):
            self.add("POST", path, self._connect)
        self.add("POST", "/v2/backend/{id}/terminate", self._terminate)
        self.add("POST", "/b/{id}/soft-terminate", self._soft_terminate)
        self.add("POST", "/b/{id}/hard-terminate", self._hard_terminate)
        self.add("GET", "/backends", self._backends)
        self.add("GET", "/events", self._events)
        self.add("GET", "/b/{id}/log", self._log_of)
        self.add("GET", "/overview", self._overview)
        if status is not None:
            self.add("GET", "/status", self._service)
        add_page(self.application, self._is_authorized)

    def add(self, method: str, path: str, handler: _Handler) -> None:
        """Add a route that needs the token."""

        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._is_authorized(request):
                refusal = failure(401, OTHER, "expected the token of the control API")
                refusal.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
                refusal.force_close()
                return refusal
            return await handler(request)

        self.application.router.add_route(method, path, guarded, expect_handler=_later)

    def close_streams(self) -> None:
        """Cut all streams of events, which would not end by themselves."""
        self._streams.close()

    def _add_public(self, path: str, handler: _Handler) -> None:
        resource = self.application.router.add_resource(path)
        resource.add_route("GET", handler)
        resource.add_route("OPTIONS", _preflight)
        self._public.add(resource)

    def _is_authorized(self, request: web.BaseRequest) -> bool:
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        is_right = hmac.compare_digest(token.encode(errors="replace"), self._token)
        return is_right and scheme.lower() == "bearer"

    @web.middleware
    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Say in JSON what goes wrong."""
        try:
            check_request(request)
            return await handler(request)
        except Refused as error:
            return failure(error.status, OTHER, str(error))
        except ProtocolError as error:
            return failure(400, OTHER, str(error))
        except BackendError as error:
            return failure(_STATUSES.get(type(error), 503), error.kind, str(error))
        except web.HTTPException as error:
            kind = NOT_FOUND if error.status == 404 else OTHER
            answer = failure(error.status, kind, error.reason)
            if hdrs.ALLOW in error.headers:
                answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
            return answer
        except ConnectionError:
            raise  # it was under way, and there is nobody to tell
        except Exception as error:
            id = secrets.token_hex(8)
            _log.error("%s %s failed (%s)", request.method, request.path, id, exc_info=error)
            message = str(error) if isinstance(error, ProtomuxError) else "it failed, see the log"
            return failure(500, OTHER, message, id=id)

    async def _prepare(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers[hdrs.SERVER] = "protomux-wakeup"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
        if request.match_info.route.resource in self._public:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = "*"

    async def _body(self, request: web.Request) -> bytes:
        if hdrs.EXPECT in request.headers:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # of the answer nothing is out yet
        try:
            async with asyncio.timeout(self._limits.stall):
                return await request.read()
        except TimeoutError:
            raise Refused("the body of the request does not come", 408) from None

    # For who has the id of a backend

    async def _state(self, request: web.Request) -> web.StreamResponse:
        return _json(self._manager.backend(_id(request)).state)

    async def _state_stream(self, request: web.Request) -> web.StreamResponse:
        last = request.headers.get("Last-Event-ID")
        after = BackendStatus(last) if last in set(BackendStatus) else None
        return await self._streams.send(
            request, self._manager.follow(_id(request), after), _event_of_state
        )

    async def _ready(self, request: web.Request) -> web.StreamResponse:
        id = _id(request)
        try:
            async with asyncio.timeout(self._limits.ready):
                await self._manager.wait_ready(id)
        except TimeoutError:
            return failure(504, OTHER, "the backend is not ready yet")
        return _json(self._manager.backend(id).state)

    # For who has the token

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        asked: ConnectRequest = decode(await self._body(request), ConnectRequest)
        try:
            told = verified(asked.user, asked.auth)
        except ValueError as error:
            raise Refused(f"{error} - at `$.user`") from None
        if any(len(value.encode()) > self._limits.line for value in told.values()):
            raise Refused(f"expected at most {self._limits.line} bytes of JSON - at `$.auth`")
        return _json(await self._manager.connect(asked))

    async def _terminate(self, request: web.Request) -> web.StreamResponse:
        asked: _Terminate = decode(await self._body(request) or b"{}", _Terminate)
        self._manager.terminate(_id(request), hard=asked.hard)
        return _json({"status": "ok"})

    async def _soft_terminate(self, request: web.Request) -> web.StreamResponse:
        self._manager.terminate(_id(request))
        return _json(None)

    async def _hard_terminate(self, request: web.Request) -> web.StreamResponse:
        self._manager.terminate(_id(request), hard=True)
        return _json(None)

    async def _backends(self, _request: web.Request) -> web.StreamResponse:
        return _json(self._manager.backends())

    async def _events(self, request: web.Request) -> web.StreamResponse:
        return await self._streams.send(
            request, self._manager.follow_all(_after(request)), _event_of_any
        )

    async def _overview(self, request: web.Request) -> web.StreamResponse:
        seen = overview(self._manager, self._status, _after(request))
        return await self._streams.send(request, seen, _event_of_sight)

    async def _log_of(self, request: web.Request) -> web.StreamResponse:
        text = await self._manager.log(_id(request))
        return web.Response(body=text, content_type="text/plain", charset="utf-8")

    async def _service(self, _request: web.Request) -> web.StreamResponse:
        assert self._status is not None
        return _json(await self._status())


async def _later(_request: web.Request) -> None:
    """Tell nobody to go on who has not shown the token."""


async def _preflight(_request: web.Request) -> web.StreamResponse:
    return web.Response(
        status=204,
        headers={
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Cache-Control, Content-Type, Last-Event-ID",
            hdrs.ACCESS_CONTROL_MAX_AGE: "3600",
        },
    )


def _id(request: web.Request) -> str:
    return request.match_info["id"]


def _after(request: web.Request) -> int:
    last = request.headers.get("Last-Event-ID", "")
    return int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else 0


def _json(value: Any) -> web.Response:
    return web.Response(body=encode(value), content_type="application/json")


def _event_of_state(state: BackendState) -> Event:
    return Event(state.status, encode(state))


def _event_of_any(news: tuple[int, str, BackendState]) -> Event:
    number, backend_id, state = news
    return Event(str(number), encode({"backend_id": backend_id, "state": state}))


def _event_of_sight(seen: tuple[int, Sight]) -> Event:
    number, sight = seen
    return Event(str(number), encode(sight))
