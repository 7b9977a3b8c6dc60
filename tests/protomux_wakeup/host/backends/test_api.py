"""The control API over a real manager: who may ask what, and what is answered."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from protomux_wakeup.endpoint import EndpointError
from protomux_wakeup.host.backends.api import Status
from protomux_wakeup.host.backends.engine import Readiness
from protomux_wakeup.host.backends.errors import ManagerClosed
from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.serving import (
    control_token,
    listening,
    proxying,
    serving,
)
from protomux_wakeup.host.backends.streams import Event, Streams
from protomux_wakeup.host.backends.types import BackendStatus
from protomux_wakeup.host.backends.urls import Urls
from tests.protomux_wakeup.host.backends.world import (
    World,
    command,
    monitors_gone,
    opened,
    process_engine,
    reach,
)
from tests.protomux_wakeup.host.disk import full_disk

from .raw_http import Client, OneRoute, statuses

SECRET = "c" * 43
LIMITS = HttpLimits(closing=0.1)
ANY = ("127.0.0.1", 0)
BEARER = {"Authorization": f"Bearer {SECRET}"}


class Api:
    """The API of the manager of a world, as a client has it.

    Attributes:
        urls: where the listeners are.
        world: the manager and its commands.
    """

    def __init__(self, world: World, urls: Urls, session: aiohttp.ClientSession) -> None:
        self.world = world
        self.urls = urls
        self.session = session

    async def ask(
        self,
        method: str,
        path: str,
        value: Any = None,
        *,
        token: str | None = SECRET,
        data: bytes | None = None,
        **headers: str,
    ) -> tuple[int, Any]:
        """Return the status of the answer, and the JSON of it."""
        async with self.open(method, path, value, token=token, data=data, **headers) as answer:
            assert answer.content_type == "application/json"
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.json()

    def open(
        self,
        method: str,
        path: str,
        value: Any = None,
        *,
        token: str | None = SECRET,
        data: bytes | None = None,
        last: str | None = None,
        **headers: str,
    ) -> Any:
        """Return the answer, as a context."""
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if last is not None:
            headers["Last-Event-ID"] = last
        body = data if value is None else json.dumps(value).encode()
        url = URL(self.urls.control + path, encoded=True)
        return self.session.request(method, url, data=body, headers=headers)

    async def connect(self, key: str = "k", tag: str = "default", **more: Any) -> dict[str, Any]:
        status, answer = await self.ask(
            "POST", "/connect", {"key": key, "spawn": {"tag": tag}, **more}
        )
        assert status == 200, answer
        assert isinstance(answer, dict)
        return answer


@asynccontextmanager
async def api(
    world: World, *, limits: HttpLimits = LIMITS, status: Status | None = None
) -> AsyncIterator[Api]:
    async with (
        asyncio.timeout(60),
        serving(world.manager, ANY, ANY, token=SECRET, status=status, limits=limits) as urls,
        aiohttp.ClientSession() as session,
    ):
        yield Api(world, urls, session)


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    """Yield id and JSON of each event."""
    assert answer.content_type == "text/event-stream"
    while frame := await answer.content.readuntil(b"\n\n"):
        id, data = frame.decode().splitlines()[:2]
        assert id.startswith("id: ")
        assert data.startswith("data: ")
        yield id.removeprefix("id: "), json.loads(data.removeprefix("data: "))


# Who may ask

PRIVATE = [
    ("POST", "/connect"),
    ("POST", "/v2/service/a/s/connect"),
    ("POST", "/v2/backend/x/terminate"),
    ("POST", "/b/x/soft-terminate"),
    ("POST", "/b/x/hard-terminate"),
    ("GET", "/backends"),
    ("GET", "/events"),
    ("GET", "/b/x/log"),
    ("GET", "/status"),
]
WRONG: list[list[str]] = [
    [],
    ["Authorization:"],
    ["Authorization: Bearer"],
    ["Authorization: Bearer "],
    [f"Authorization: {SECRET}"],
    [f"Authorization: Basic {SECRET}"],
    [f"Authorization: Bearer {SECRET}x"],
    [f"Authorization: Bearer {SECRET[:-1]}"],
    [f"Authorization: Bearer {SECRET.upper()}"],
    [f"Authorization: Bearer {SECRET} {SECRET}"],
    [f"Authorization: Bearer  {SECRET}"],
    ["Authorization: Bearer \u00fc"],
    [f"X-Authorization: Bearer {SECRET}"],
    [f"Cookie: Authorization={SECRET}"],
    [f"Authorization: Bearer {SECRET}", f"Authorization: Bearer {SECRET}"],
]


async def none() -> dict[str, int]:
    return {"topics": 0}


async def test_nobody_without_the_token_learns_anything(world: World) -> None:
    async with api(world, status=none) as control:
        answers = set()
        for method, path in PRIVATE:
            for headers in WRONG:
                lines = [f"{method} {path} HTTP/1.1", "Host: h", *headers, "Content-Length: 1"]
                async with Client.to(control.urls.control) as client:
                    await client.send("\r\n".join([*lines, "", "{"]).encode())
                    answer = await client.answer()
                    assert await client.rest() == b""
                answer.headers.pop(b"date")
                answers.add(str(answer))
        assert len(answers) == 1
        assert answer.status == 401
        assert answer.one(b"www-authenticate") == b"Bearer"
        assert b"access-control-allow-origin" not in answer.headers
        assert world.manager.backends() == []


async def test_the_token_is_in_any_scheme_of_that_name(world: World) -> None:
    async with api(world) as control:
        for scheme in ("bearer", "BEARER"):
            status, _ = await control.ask(
                "GET", "/backends", token=None, Authorization=f"{scheme} {SECRET}"
            )
            assert status == 200


async def test_other_origins_may_ask_for_the_state_and_nothing_else(world: World) -> None:
    async with api(world) as control:
        id = (await control.connect())["backend_id"]
        for path in (f"/b/{id}/status", f"/v2/backend/{id}/status", f"/v2/backend/{id}/ready"):
            async with control.open("GET", path, token=None, Origin="http://other") as answer:
                assert answer.status == 200
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
            async with control.open("OPTIONS", path, token=None) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Methods"] == "GET"
                assert "Last-Event-ID" in answer.headers["Access-Control-Allow-Headers"]
        async with control.open("GET", "/b/none/status", token=None) as answer:
            assert answer.status == 404
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
        for method, path in PRIVATE[:-1]:
            async with control.open("OPTIONS", path, token=None) as answer:
                assert answer.status == 405
                assert not any(name.startswith("Access-Control") for name in answer.headers)
            async with control.open(method, path.replace("x", id), value={}) as answer:
                assert not any(name.startswith("Access-Control") for name in answer.headers)


# What is asked


async def test_a_backend_is_started_once_and_found_again(world: World) -> None:
    async with api(world) as control:
        first = await control.connect(user="me", auth={"a": [1]})
        again = await control.ask(
            "POST", "/v2/service/account/service/connect?x1y2", {"key": "k", "spawn": True}
        )
        second = again[1]
        assert (first["spawned"], second["spawned"]) == (True, False)
        assert first["backend_id"] == second["backend_id"]
        assert first["token"] != second["token"]
        assert first["url"] == f"{control.urls.proxy}/{first['token']}/"
        assert first["status_url"].startswith(control.urls.control)
        assert set(first) == {
            "backend_id",
            "spawned",
            "status",
            "token",
            "url",
            "secret_token",
            "status_url",
            "ready_url",
        }
        async with control.session.get(first["status_url"]) as answer:
            assert (await answer.json())["status"] == "ready"
        async with control.session.get(first["ready_url"]) as answer:
            assert (await answer.json())["status"] == "ready"


MISTAKES: dict[str, tuple[Any, int, str, str]] = {
    "no spawn": ({"key": "k"}, 409, "KeyUnheldNoSpawnConfig", "no backend has the key"),
    "another tag": ({"key": "k", "spawn": {"tag": "no"}}, 404, "NotFound", "one of the tags"),
    "a wrong type": ({"spawn": {"tag": 1}}, 400, "Other", "`$.spawn.tag`"),
    "a wrong field": ({"spawn": {"tog": "x"}}, 400, "Other", "`$.spawn`"),
    "out of bounds": (
        {"spawn": {"max_idle_seconds": 0}},
        400,
        "Other",
        "`$.spawn.max_idle_seconds`",
    ),
    "no object": ([], 400, "Other", "expected"),
    "a user with an end of line": ({"user": "a\nb"}, 400, "Other", "`$.user`"),
    "a user with a blank behind": ({"user": "a "}, 400, "Other", "`$.user`"),
    "much to say of a user": ({"auth": {"a": "x" * 9000}}, 400, "Other", "`$.auth`"),
    "depth": (json.loads("[" * 500 + "]" * 500), 400, "Other", ""),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_who_asks_for_what_is_not_there_is_told_why(world: World, name: str) -> None:
    value, status, kind, message = MISTAKES[name]
    async with api(world) as control:
        got, answer = await control.ask("POST", "/connect", value)
        assert (got, answer["kind"]) == (status, kind)
        assert message.lower() in answer["message"].lower()
        assert set(answer) == {"id", "kind", "message"}
        assert world.manager.backends() == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"nul", b"{}{}", b'{"key":"\xff"}'])
async def test_what_is_no_json_is_refused(world: World, data: bytes) -> None:
    async with api(world) as control:
        status, answer = await control.ask("POST", "/connect", data=data)
        assert (status, answer["kind"]) == (400, "Other")


async def test_a_key_that_runs_something_else(world: World) -> None:
    async with api(world) as control:
        await control.connect("k", "default")
        status, answer = await control.ask(
            "POST", "/connect", {"key": "k", "spawn": {"tag": "other"}}
        )
        assert (status, answer["kind"]) == (409, "KeyHeld")


async def test_as_many_as_may_run(place: Path) -> None:
    async with opened(place) as world:
        await world.leave()
        await world.next(backends=1)
        async with api(world) as control:
            await control.connect("a")
            status, answer = await control.ask("POST", "/connect", {"key": "b", "spawn": True})
            assert (status, answer["kind"]) == (503, "NoDroneAvailable")


async def test_a_body_has_a_bound(world: World) -> None:
    async with api(world, limits=HttpLimits(body=1000, closing=0.1)) as control:
        value = {"key": "k", "spawn": True, "auth": {"a": "x" * 900}}
        assert (await control.ask("POST", "/connect", value))[0] == 200
        value["auth"] = {"a": "x" * 1000}
        assert (await control.ask("POST", "/connect", value))[0] == 413
        async with Client.to(control.urls.control) as client:
            head = f"POST /connect HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET}\r\n"
            await client.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            await client.send(b"400\r\n" + b" " * 1024 + b"\r\n")
            assert statuses(await client.rest()) == [413]


async def test_a_body_that_does_not_come(world: World) -> None:
    limits = HttpLimits(stall=0.2, closing=0.1)
    async with api(world, limits=limits) as control, Client.to(control.urls.control) as client:
        head = f"POST /connect HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET}\r\n"
        await client.send(f"{head}Content-Length: 2\r\n\r\n{{".encode())
        assert statuses(await client.rest()) == [408]


async def test_paths_and_methods_that_are_not_there(world: World) -> None:
    async with api(world) as control:
        for path in ("/v2", "/connect/", "/b/x", "/status", "/x/../backends", "//backends"):
            status, answer = await control.ask("GET", path)
            assert (status, answer["kind"]) == (404, "NotFound")
        for method, path, allowed in (
            ("GET", "/connect", "POST"),
            ("POST", "/backends", "GET"),
            ("HEAD", "/events", "GET"),
            ("DELETE", "/b/x/status", "GET,OPTIONS"),
        ):
            async with control.open(method, path) as refusal:
                assert refusal.status == 405
                assert refusal.headers["Allow"] == allowed
        for method, path in PRIVATE[2:5]:
            assert (await control.ask(method, path))[0] == 404
        assert (await control.ask("GET", "/b/x/log"))[0] == 404


@pytest.mark.parametrize(
    "data",
    [
        b"GET /backends HTTP/1.1\nHost: h\n\n",
        b"GET /backends HTTP/1.1\r\nHost: h/x\r\n\r\n",
        b"GET http://h/backends HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /connect HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_parsers_disagree_about_is_refused(world: World, data: bytes) -> None:
    async with api(world) as control, Client.to(control.urls.control) as client:
        await client.send(data)
        answer = await client.rest()
        assert statuses(answer) == [400]
        assert b'"kind":"Other"' in answer


async def test_what_asks_for_another_protocol_is_the_last_request(world: World) -> None:
    head = f"GET /backends HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET}\r\n"
    for upgrade in ("h2c", "websocket", "websocket, h2c"):
        asks = f"{head}Connection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        async with api(world) as control, Client.to(control.urls.control) as client:
            await client.send(f"{asks}{head}\r\n{head}".encode())
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"[]")
            assert answer.one(b"connection") == b"close"
            assert await client.rest() == b""


@pytest.mark.parametrize("path", ["/connect", "/", "/none", "/b/x/status"])
@pytest.mark.parametrize(
    "expect", ["<b>", "100-continue, 100-continue", "100-continue\r\nExpect: x"]
)
async def test_nothing_else_is_expected(world: World, path: str, expect: str) -> None:
    data = f"POST {path} HTTP/1.1\r\nHost: h\r\nExpect: {expect}\r\nContent-Length: 1\r\n\r\n"
    async with api(world) as control, Client.to(control.urls.control) as client:
        await client.send(data.encode())
        answer = await client.answer()
        assert (answer.status, answer.one(b"content-type")) == (417, b"application/json")
        assert expect.encode() not in answer.body
        assert await client.rest() == b""


async def test_who_has_the_token_is_told_to_go_on(world: World) -> None:
    head = "POST /connect HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
    async with api(world) as control:
        async with Client.to(control.urls.control) as client:
            await client.send(f"{head}\r\n".encode())
            assert statuses(await client.rest()) == [401]
        async with Client.to(control.urls.control) as client:
            await client.send(f"{head}Authorization: Bearer {SECRET}\r\n\r\n".encode())
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"{}")
            assert (await client.answer()).status == 409


# What is answered


async def test_a_backend_is_ended_softly_and_by_force(world: World) -> None:
    async with api(world) as control:
        for path, value, kind, answered in (
            ("/v2/backend/{}/terminate", None, "soft", {"status": "ok"}),
            ("/v2/backend/{}/terminate", {}, "soft", {"status": "ok"}),
            ("/v2/backend/{}/terminate", {"hard": True}, "hard", {"status": "ok"}),
            ("/b/{}/soft-terminate", None, "soft", None),
            ("/b/{}/hard-terminate", None, "hard", None),
        ):
            id = (await control.connect())["backend_id"]
            assert await control.ask("POST", path.format(id), value) == (200, answered)
            await reach(world.manager, id, BackendStatus.TERMINATED)
            status, state = await control.ask("GET", f"/b/{id}/status", token=None)
            assert (status, state["status"]) == (200, "terminated")
            assert state["termination_reason"] == "external"
            assert state["termination_kind"] == kind
            assert (await control.ask("POST", path.format(id), value))[0] == 200
        status, answer = await control.ask("POST", f"/v2/backend/{id}/terminate", {"hard": 1})
        assert status == 400
        assert "`$.hard`" in answer["message"]


async def test_who_waits_until_it_is_ready(world: World) -> None:
    async with api(world, limits=HttpLimits(ready=0.2, closing=0.1)) as control:
        unready = (await control.connect(tag="unready"))["backend_id"]
        path = f"/v2/backend/{unready}/ready"
        assert (await control.ask("GET", path, token=None))[0] == 504
        world.manager.terminate(unready, hard=True)
        status, answer = await control.ask("GET", path, token=None)
        assert status == 410
        assert "ready" in answer["message"]


async def test_all_backends_and_what_they_said(world: World) -> None:
    async with api(world) as control:
        first = (await control.connect("a", "fails"))["backend_id"]
        second = (await control.connect("b"))["backend_id"]
        await reach(world.manager, first, BackendStatus.TERMINATED)
        status, all = await control.ask("GET", "/backends")
        assert status == 200
        assert [each["backend_id"] for each in all] == [first, second]
        assert [each["state"]["status"] for each in all] == ["terminated", "ready"]
        assert all[0]["key"] == "a"
        missing = (await control.connect("c", "missing"))["backend_id"]
        await reach(world.manager, missing, BackendStatus.TERMINATED)
        async with control.open("GET", f"/b/{missing}/log") as answer:
            assert answer.content_type == "text/plain"
            assert "No such file" in await answer.text()


async def test_what_the_service_says_of_itself(world: World) -> None:
    async with api(world, status=none) as control:
        assert await control.ask("GET", "/status") == (200, {"topics": 0})


async def test_what_fails_is_in_the_log_alone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise KeyError("private")

    async with api(world, status=fail) as control:
        status, answer = await control.ask("GET", "/status")
        assert status == 500
        assert "private" not in str(answer)
        assert answer["id"] in caplog.text
        assert "private" in caplog.text
        assert SECRET not in caplog.text


async def test_a_store_that_fails_says_so(world: World) -> None:
    async with api(world) as control:
        auth = {"a": "x" * 8_000}
        with full_disk(world.place):
            while (
                asked := await control.ask(
                    "POST", "/connect", {"auth": auth, "key": "k", "spawn": True}
                )
            )[0] == 200:
                pass
        status, answer = asked
        assert status == 500
        assert "backends.db" in answer["message"]
        assert answer["id"]


# Streams


@pytest.mark.parametrize("path", ["/v2/backend/{}/status/stream?x1", "/b/{}/status-stream"])
async def test_the_states_of_a_backend_from_the_first_to_the_last(world: World, path: str) -> None:
    async with api(world) as control:
        id = (await control.connect())["backend_id"]
        async with control.open("GET", path.format(id), token=None) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            seen = []
            async for name, state in events(answer):
                assert state["status"] == name
                seen.append(name)
                if name == "ready":
                    world.manager.terminate(id)
        names = ["scheduled", "starting", "ready", "terminating", "terminated"]
        assert [name for name in seen if name != "waiting"] == names
        for last, count in (("ready", 2), ("terminating", 1), ("terminated", 0), ("what", 99)):
            async with control.open("GET", path.format(id), token=None, last=last) as answer:
                again = [name async for name, _ in events(answer)]
                assert again == seen[-count:] if count else again == []


async def test_no_stream_of_what_is_not_there(world: World) -> None:
    async with api(world) as control:
        assert (await control.ask("GET", "/b/x/status-stream", token=None))[0] == 404


async def test_the_states_of_all_backends_are_numbered(world: World) -> None:
    async with api(world) as control:
        first = (await control.connect("a", "exits"))["backend_id"]
        await reach(world.manager, first, BackendStatus.TERMINATED)
        numbers: list[int] = []
        async with control.open("GET", "/events") as answer:
            seen: dict[str, list[str]] = {}
            async for number, event in events(answer):
                numbers.append(int(number))
                of = seen.setdefault(event["backend_id"], [])
                of.append(event["state"]["status"])
                if of[-1] == "terminated":
                    if event["backend_id"] != first:
                        break
                    await control.connect("b", "exits")
            assert [of[-1] for of in seen.values()] == ["terminated"] * 2
        assert numbers == sorted(set(numbers))
        middle = len(numbers) // 2
        async with control.open("GET", "/events", last=str(numbers[middle])) as answer:
            rest = [int((await anext(events(answer)))[0]) for _ in numbers[middle + 1 :]]
        assert rest == numbers[middle + 1 :]
        for last in ("-1", "x", "1" * 30, "\u0661", ""):
            async with control.open("GET", "/events", last=last) as answer:
                assert int((await anext(events(answer)))[0]) == numbers[0]


async def test_a_stream_without_news_shows_that_it_is_there(world: World) -> None:
    async with api(world, limits=HttpLimits(keepalive=0.01, closing=0.1)) as control:
        id = (await control.connect())["backend_id"]
        path = f"/b/{id}/status-stream"
        async with control.open("GET", path, token=None, last="ready") as answer:
            for _ in range(3):
                assert await answer.content.readuntil(b"\n\n") == b":\n\n"
            world.manager.terminate(id)
            while (frame := await answer.content.readuntil(b"\n\n")) == b":\n\n":
                pass
            assert frame.startswith(b"id: terminating\n")


async def test_streams_end_with_the_listener(world: World) -> None:
    async with aiohttp.ClientSession() as session:
        async with api(world, limits=HttpLimits(closing=100.0)) as control:
            url = f"{control.urls.control}/events"
            answer = await session.get(url, headers=BEARER)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_a_stream_ends_with_the_manager(world: World) -> None:
    async with api(world) as control:
        async with control.open("GET", "/events") as answer:
            await world.manager.close()
            assert await answer.read() == b""
        status, told = await control.ask("POST", "/connect", {"spawn": True})
        assert (status, told["kind"]) == (503, ManagerClosed.kind)


@asynccontextmanager
async def streaming(
    news: AsyncIterator[int], *, keepalive: float = 60.0, stall: float = 60.0
) -> AsyncIterator[str]:
    """Yield a URL that answers with `news`, in events of 64 KiB."""
    streams = Streams(keepalive=keepalive, stall=stall)

    async def send(request: web.BaseRequest) -> web.StreamResponse:
        return await streams.send(request, news, lambda n: Event(str(n), b"x" * 65536))

    runner = web.ServerRunner(web.Server(send), shutdown_timeout=0.1)
    async with asyncio.timeout(60), listening(runner, ANY, LIMITS) as url:
        yield url


async def test_who_does_not_read_a_stream_is_cut() -> None:
    over = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield (number := number + 1)
        finally:
            over.set()

    async with streaming(endless(), stall=0.2) as url, Client.to(url) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        await over.wait()
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_who_goes_is_missed() -> None:
    over = asyncio.Event()

    async def never() -> AsyncIterator[int]:
        try:
            await asyncio.get_running_loop().create_future()
            yield 0
        finally:
            over.set()

    async with streaming(never(), keepalive=0.01) as url:
        async with Client.to(url) as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await client.reader.readuntil(b"\r\n\r\n")
        await over.wait()


async def test_who_goes_is_waited_for_no_longer(world: World) -> None:
    async with api(world) as control:
        unready = (await control.connect(tag="unready"))["backend_id"]
        stubborn = (await control.connect("s", "very stubborn"))["backend_id"]
        await reach(world.manager, stubborn, BackendStatus.READY)
        world.manager.terminate(stubborn)
        body = b'{"key":"s","spawn":{"tag":"default"}}'
        before = len(asyncio.all_tasks())
        async with AsyncExitStack() as stack:
            for _ in range(20):
                waits = await stack.enter_async_context(Client.to(control.urls.control))
                await waits.send(
                    f"GET /v2/backend/{unready}/ready HTTP/1.1\r\nHost: h\r\n\r\n".encode()
                )
            connects = await stack.enter_async_context(Client.to(control.urls.control))
            head = f"POST /connect HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {SECRET}\r\n"
            await connects.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while len(asyncio.all_tasks()) < before + 42:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        world.manager.terminate(stubborn, hard=True)
        await reach(world.manager, stubborn, BackendStatus.TERMINATED)
        assert world.manager.key_of("s") is None


# The listeners


def test_the_token_of_the_api_is_made_once(place: Path) -> None:
    token = control_token(place)
    file = place / "control-token"
    assert len(token) == 43
    assert file.stat().st_mode & 0o777 == 0o600
    assert control_token(place) == token
    (place / "control-token.new").write_text("of one that was killed")
    for damaged in ("", token[:-1], f"{token}\n", "\xff"):
        file.write_text(damaged)
        file.chmod(0o644)
        made = control_token(place)
        assert made not in (token, damaged)
        assert file.read_text() == made
        assert file.stat().st_mode & 0o777 == 0o600
    assert os.listdir(place) == ["control-token"]


async def test_the_listeners_are_two_origins(world: World) -> None:
    async with api(world) as control:
        assert world.manager.urls == control.urls
        assert control.urls.control != control.urls.proxy
        answer = await control.connect()
        async with control.session.get(f"{control.urls.proxy}/backends", headers=BEARER) as got:
            assert got.status == 404
        async with control.session.get(f"{control.urls.control}/{answer['token']}/") as got:
            assert got.status == 404


async def test_a_port_that_is_taken(world: World) -> None:
    with sockets.socket() as socket:
        socket.bind(("127.0.0.1", 0))
        socket.listen()
        taken = socket.getsockname()
        for places in ((taken, ANY), (ANY, taken)):
            with pytest.raises(EndpointError, match="Address already in use"):
                async with serving(world.manager, *places, token=SECRET, limits=LIMITS):
                    pass


@pytest.mark.skipif(not sockets.has_ipv6, reason="IPv6 is needed")
async def test_an_address_of_ipv6() -> None:
    async with proxying(OneRoute(("::1", 1)), ("::1", 0), LIMITS) as url:
        assert url.startswith("http://[::1]:")
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            assert answer.status == 404


async def test_nothing_of_a_request_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with api(world) as control:
        answer = await control.connect()
        for url in control.urls.control, control.urls.proxy:
            for end in (b"\r\n\r\n", b"\n\n", b"\r\nA : b\r\n\r\n"):
                async with Client.to(url) as client:
                    await client.send(
                        f"GET /{answer['token']}/ HTTP/1.1\r\nHost: h\r\n"
                        f"Authorization: Bearer {SECRET}".encode()
                        + end
                    )
                    await client.reader.read(1)
    logged = "".join(record.getMessage() for record in caplog.records)
    assert answer["token"] not in logged
    assert SECRET not in logged


# All of it

SERVER = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

print("here", flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


async def test_a_process_is_reached_by_its_token_and_by_no_other(place: Path) -> None:
    async with opened(place, make=process_engine) as world:
        world.commands = {
            "default": command("python3", "-c", SERVER, readiness=Readiness.PORT, grace=0.1)
        }
        await world.leave()
        await world.next()
        async with api(world) as control:
            first = await control.connect("a", user="me")
            second = await control.connect("b", user="you")
            for answer, user in ((first, "me"), (second, "you")):
                async with control.session.get(f"{answer['url']}x?y=z") as got:
                    said = await got.json()
                    assert got.status == 200
                assert said["path"] == "/x?y=z"
                assert said["headers"]["X-Verified-Username"] == user
                assert said["headers"]["X-Verified-Secret"] == answer["secret_token"]
                assert said["headers"]["X-Verified-Backend"] == answer["backend_id"]
            async with control.open("GET", f"/b/{first['backend_id']}/log") as got:
                assert (await got.text()).startswith("here\n")
            assert {each.connections for each in world.manager.backends()} == {0}
            await control.ask("POST", f"/b/{first['backend_id']}/soft-terminate")
            await reach(world.manager, first["backend_id"], BackendStatus.TERMINATED)
            async with control.session.get(first["url"]) as got:
                assert got.status == 404
                gone = await got.read()
            unknown = f"{control.urls.proxy}/{'x' * 43}/"
            async with control.session.get(unknown) as got:
                assert (got.status, await got.read()) == (404, gone)
            world.time += 3601
            async with control.session.get(second["url"]) as got:
                assert (got.status, await got.read()) == (404, gone)
    await monitors_gone(place)
