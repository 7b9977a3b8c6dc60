"""The way to a backend: what gets through as it was sent, what does not, and what ends when."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import resource
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.serving import proxying
from protomux_wakeup.host.backends.tokens import Route
from protomux_wakeup.host.errors import StoreFailed

from .bodies import RISE, in_its_own_process
from .raw_http import (
    BACKEND,
    OK,
    SECRET,
    TOKEN,
    Client,
    OneRoute,
    RawBackend,
    proxied,
    request,
    statuses,
)

LIMITS = HttpLimits(closing=0.1)
QUICK = HttpLimits(closing=0.1, stall=0.3, answer=0.3, idle=0.3, connect=0.3)

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"


def answer(*headers: bytes, status: bytes = b"200 OK", body: bytes = b"") -> bytes:
    return b"\r\n".join([b"HTTP/1.1 " + status, *headers, b"", body])


# Headers to the backend


async def test_a_backend_is_told_who_asks() -> None:
    user, auth = "J\u00fcrgen", {"email": "a@b.c", "name": "J\u00fcrgen\r\n"}
    async with (
        proxied(user="J\u00fcrgen", auth=auth) as (url, backend, _),
        Client.to(url) as client,
    ):
        await client.send(request("/a/b?c=d"))
        await client.answer()
        (got,) = backend.requests
        assert got.target == b"/a/b?c=d"
        assert got.one(b"x-verified-username").decode() == user
        assert json.loads(got.one(b"x-verified-user-data")) == auth
        assert got.one(b"x-verified-backend").decode() == BACKEND
        assert got.one(b"x-verified-secret").decode() == SECRET
        assert got.one(b"x-verified-path").decode() == f"/{TOKEN}/a/b"
        assert got.one(b"host") == b"h"
        assert got.one(b"x-forwarded-for") == b"127.0.0.1"
        assert got.one(b"x-forwarded-host") == b"h"
        assert got.one(b"x-forwarded-proto") == b"http"
        assert got.one(b"x-forwarded-prefix").decode() == f"/{TOKEN}"
        assert got.one(b"connection") == b"close"
        assert not {b"user-agent", b"accept", b"accept-encoding", b"content-type"} & set(
            got.headers
        )


FORGED = [
    "X-Verified-Username: root",
    "x-verified-username: root",
    "X-VERIFIED-USER-DATA: {}",
    "X_Verified_Username: root",
    "x-verified_secret: x",
    "X.Verified.Backend: x",
    "x~verified!path: /",
    "X-Verified-: x",
    "X-Verified-Anything: x",
    "X-Forwarded-For: 1.2.3.4",
    "X_Forwarded_For: 1.2.3.4",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Ssl: on",
    "X-Forwarded-User: root",
    "X-Forwarded-Scheme: https",
    "X-Forwarded-Anything: x",
    "X-Original-URL: /admin",
    "X-Rewrite-URL: /admin",
    "X-Real-IP: 1.2.3.4",
    "X-Client-IP: 1.2.3.4",
    "X-Cluster-Client-IP: 1.2.3.4",
    "True-Client-IP: 1.2.3.4",
    "Client-IP: 1.2.3.4",
    "Front-End-Https: on",
    "Remote-User: root",
    "Remote_User: root",
    "X-Remote-User: root",
    "Via: 1.1 other",
    "Proxy: http://other:1/",
    "Proxy-Anything: x",
    f"Referer: http://h/{'o' * 43}/private",
    "Forwarded: for=1.2.3.4",
    "Content_Length: 7",
    "HTTP2-Settings: AAMA",
    "Keep-Alive: timeout=5",
    "Proxy-Authorization: Basic eA==",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "Trailer: X-Verified-Username",
    "Connection: X-Private, x-other",
    "X-Private: mine",
    "X-Other: mine",
]


async def test_what_a_client_forges_does_not_arrive() -> None:
    async with proxied() as (url, backend, _), Client.to(url) as client:
        await client.send(request("/", *FORGED, "X-Kept: a", "X-Kept: b"))
        await client.answer()
        (got,) = backend.requests
        assert set(got.headers) == {
            b"connection",
            b"host",
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-prefix",
            b"x-forwarded-proto",
            b"x-kept",
            b"x-verified-backend",
            b"x-verified-path",
            b"x-verified-secret",
        }
        assert got.one(b"x-forwarded-for") == b"127.0.0.1"
        assert got.one(b"x-verified-secret").decode() == SECRET
        assert got.one(b"connection") == b"close"
        assert got.headers[b"x-kept"] == [b"a", b"b"]


@pytest.mark.parametrize(
    "target",
    ["/", "/x?", "/x??", "/?", "//a/../b", "/%zz?a=%", "/a?b?c", "/;a=1?'", "/%2F?a=%2B+", '/"|{}'],
)
async def test_path_and_query_arrive_byte_by_byte(target: str) -> None:
    async with proxied() as (url, backend, _), Client.to(url) as client:
        await client.send(request(target))
        await client.answer()
        assert bytes(backend.connections[0].got).split(b" ")[1] == target.encode()


@pytest.mark.parametrize("query", ["", "?", "?a=b"])
async def test_a_token_alone_is_the_root(query: str) -> None:
    async with proxied() as (url, backend, _), Client.to(url) as client:
        await client.send(request(query))
        await client.answer()
        (got,) = backend.requests
        assert got.target.decode() == f"/{query}"


async def test_all_else_arrives_as_it_was_sent() -> None:
    headers = {
        "Accept-Encoding": "gzip;q=0.1, br",
        "Authorization": "Bearer mine",
        "Content-Encoding": "gzip",
        "Content-Type": "x/y; charset=\u00e9",
        "Cookie": 'a="b c"; d=; a=e; =f',
        "Origin": "http://h",
        "Range": "bytes=1-2",
        "User-Agent": "me\tyou",
    }
    body = gzip.compress(b"hello" * 100)
    async with proxied() as (url, backend, _), Client.to(url) as client:
        lines = [f"{name}: {value}" for name, value in headers.items()]
        await client.send(request("/", *lines, method="PUT", body=body))
        await client.answer()
        (got,) = backend.requests
        assert got.method == b"PUT"
        assert got.body == body
        for name, value in headers.items():
            assert got.one(name.lower().encode()) == value.encode()
        assert got.one(b"content-length") == str(len(body)).encode()


@pytest.mark.parametrize("user", ["root\r\nX-Verified-Secret: x", "root\n", " root", "a\tb ", "\0"])
async def test_a_user_who_would_arrive_as_another_does_not_get_through(user: str) -> None:
    async with proxied(user=user) as (url, backend, _), Client.to(url) as client:
        await client.send(request())
        got = await client.answer()
        assert got.status == 500
        assert b"cannot be told who asks" in got.body
        assert b"root" not in got.body
        assert backend.connections == []


# Tokens


MALFORMED = [
    "",
    "x",
    "favicon.ico",
    TOKEN[:-1],
    TOKEN + "1",
    TOKEN[:-1] + "2",
    TOKEN.upper(),
    TOKEN + "%2f",
    "%74" + TOKEN[1:],
    "." + TOKEN,
    "x/../" + TOKEN,
    "./" + TOKEN,
    "/" + TOKEN,
    TOKEN + ";",
    TOKEN + "%00",
    "A" * 5000,
    "..",
    "~",
]


async def test_nobody_learns_why_a_token_leads_nowhere() -> None:
    async with proxied() as (url, backend, routes), Client.to(url) as client:
        answers = set()
        for token in MALFORMED:
            for method in ("GET", "POST", "OPTIONS"):
                await client.send(request(method=method, token=token))
                got = await client.answer()
                headers = {name: value for name, value in got.headers.items() if name != b"date"}
                answers.add((got.start, str(headers), got.body))
        assert len(answers) == 1
        assert got.status == 404
        assert b"access-control-allow-origin" not in got.headers
        assert backend.connections == []
        assert routes.most == 0


async def test_what_a_backend_is_told_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "protomux_wakeup.host")
    async with proxied(RawBackend(b"garbage\r\n\r\n")) as (url, _, _), Client.to(url) as client:
        await client.send(request("/", "Cookie: theirs", "Authorization: theirs"))
        assert (await client.answer()).status == 502
    assert "what is no HTTP" in caplog.text
    assert not any(secret in caplog.text for secret in (TOKEN, SECRET, "theirs"))


@pytest.mark.parametrize("token", [TOKEN, "x" * 43])
async def test_a_page_gets_no_service_worker(token: str) -> None:
    async with proxied() as (url, backend, _), Client.to(url) as client:
        await client.send(request("/sw.js", "service-worker: script", token=token))
        assert (await client.answer()).status == 403
        assert backend.connections == []


async def test_a_body_for_nobody_is_not_waited_for() -> None:
    async with proxied(limits=LIMITS) as (url, _, _), Client.to(url) as client:
        head = request("/", "Content-Length: 1000000", "Expect: 100-continue", token="x" * 43)
        await client.send(head)
        assert statuses(await client.rest()) == [404]


async def test_a_backend_that_is_not_ready() -> None:
    async with proxied() as (url, backend, routes), Client.to(url) as client:
        routes.is_ready = False
        await client.send(request())
        got = await client.answer()
        assert got.status == 503
        assert b"has ended" in got.body
        assert backend.connections == []


async def test_a_manager_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(OneRoute):
        def route(self, token: str) -> Route | None:
            raise StoreFailed("cannot use backends.db")

    routes = Failing(("127.0.0.1", 1))
    async with proxying(routes, ("127.0.0.1", 0), LIMITS) as url, Client.to(url) as client:
        await client.send(request())
        got = await client.answer()
        assert got.status == 500
        assert b"backends.db" not in got.body
        assert "backends.db" in caplog.text
        assert TOKEN not in caplog.text


async def test_nobody_is_shown_what_the_backend_is_told() -> None:
    async with proxied(limits=LIMITS) as (url, backend, _), Client.to(url) as client:
        await client.send(request(method="TRACE"))
        assert statuses(await client.rest()) == [405]
        assert backend.connections == []


async def test_a_backend_that_does_not_listen() -> None:
    with sockets.socket() as socket:
        socket.bind(("127.0.0.1", 0))
        routes = OneRoute(socket.getsockname())
        async with proxying(routes, ("127.0.0.1", 0), LIMITS) as url, Client.to(url) as client:
            await client.send(request())
            assert (await client.answer()).status == 502
        assert routes.now == 0


# What comes back

BAD_ANSWERS = {
    "no HTTP": b"hello\r\n\r\n",
    "HTTP/0.9": b"<html>\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.0 with chunks": (
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    ),
    "a length and chunks": answer(
        b"Content-Length: 2", b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"
    ),
    "chunks and a length": answer(
        b"Transfer-Encoding: chunked", b"Content-Length: 2", body=b"2\r\nok\r\n0\r\n\r\n"
    ),
    "two lengths": answer(b"Content-Length: 2", b"Content-Length: 3", body=b"ok!"),
    "two lengths alike": answer(b"Content-Length: 2", b"Content-Length: 2", body=b"ok"),
    "a list of lengths": answer(b"Content-Length: 2, 2", body=b"ok"),
    "a length with a sign": answer(b"Content-Length: +2", body=b"ok"),
    "a length below 0": answer(b"Content-Length: -2", body=b"ok"),
    "a length in hexadecimal": answer(b"Content-Length: 0x2", body=b"ok"),
    "another coding": answer(b"Transfer-Encoding: xchunked", body=b"2\r\nok\r\n0\r\n\r\n"),
    "a coding before chunks": answer(
        b"Transfer-Encoding: gzip, chunked", body=b"2\r\nok\r\n0\r\n\r\n"
    ),
    "a coding behind chunks": answer(
        b"Transfer-Encoding: chunked, gzip", body=b"2\r\nok\r\n0\r\n\r\n"
    ),
    "a bare CR in a value": answer(b"A: b\rSet-Cookie: c=d", b"Content-Length: 2", body=b"ok"),
    "a NUL in a value": answer(b"A: \0", b"Content-Length: 2", body=b"ok"),
    "a control character in a value": answer(b"A: \x01", b"Content-Length: 2", body=b"ok"),
    "no UTF-8 in a value": answer(b"A: \xff", b"Content-Length: 2", body=b"ok"),
    "a blank in a name": answer(b"A b: c", b"Content-Length: 2", body=b"ok"),
    "a long header": answer(b"A: " + b"b" * 100_000, b"Content-Length: 2", body=b"ok"),
    "a long name": answer(b"A" * 100_000 + b": b", b"Content-Length: 2", body=b"ok"),
    "a header without end": b"HTTP/1.1 200 OK\r\nA: " + b"b" * 1_000_000,
    "many headers": answer(*[b"A: b"] * 1000, b"Content-Length: 2", body=b"ok"),
    "a long reason": answer(b"Content-Length: 2", status=b"200 " + b"O" * 100_000, body=b"ok"),
    "a protocol not asked for": answer(
        b"Upgrade: websocket", b"Connection: Upgrade", status=b"101 Switching"
    ),
    "status 0": answer(b"Content-Length: 2", status=b"000 No", body=b"ok"),
    "status 99": answer(b"Content-Length: 2", status=b"099 No", body=b"ok"),
    "status 600": answer(b"Content-Length: 2", status=b"600 No", body=b"ok"),
    "a long status": answer(b"Content-Length: 2", status=b"2000 No", body=b"ok"),
}


@pytest.mark.parametrize("behind", [b"", POISON], ids=["alone", "with more behind"])
@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_what_is_no_clear_answer_is_not_passed_on(name: str, behind: bytes) -> None:
    backend = RawBackend(BAD_ANSWERS[name] + behind)
    async with proxied(backend, limits=LIMITS) as (url, _, _), Client.to(url) as client:
        await client.send(request())
        got = await client.answer()
        assert got.status == 502
        assert got.one(b"content-type").startswith(b"application/json")
        assert set(got.headers) <= {
            b"cache-control",
            b"content-length",
            b"content-type",
            b"date",
            b"server",
        }
        await client.send(request("/next", "Connection: close"))
        assert (await client.answer()).body == b"ok"
        assert await client.rest() == b""


NO_ANSWERS = {
    "nothing": b"",
    "half a line": b"HTTP/1.1 2",
    "half a head": b"HTTP/1.1 200 OK\r\nA: b",
    "100 and nothing": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
@pytest.mark.parametrize("name", NO_ANSWERS)
async def test_a_backend_that_does_not_answer_is_not_asked_again(name: str, method: str) -> None:
    async with proxied(RawBackend(NO_ANSWERS[name])) as (url, backend, _):
        async with Client.to(url) as client:
            await client.send(request(method=method))
            assert (await client.answer()).status == 502
        assert len(backend.connections) == 1


CUTS = {
    "half of a length": (b"Content-Length: 20", b"ok"),
    "half a chunk": (b"Transfer-Encoding: chunked", b"4\r\nok"),
    "no last chunk": (b"Transfer-Encoding: chunked", b"2\r\nok\r\n"),
    "half a last chunk": (b"Transfer-Encoding: chunked", b"0\r\n"),
    "a size that is none": (b"Transfer-Encoding: chunked", b"0x0\r\n\r\n" + POISON),
    "a size below 0": (b"Transfer-Encoding: chunked", b"-1\r\nA\r\n" + POISON),
    "too much in a chunk": (b"Transfer-Encoding: chunked", b"2\r\nok" + POISON),
    "too much in the last": (b"Transfer-Encoding: chunked", b"0\r\n" + POISON),
}


@pytest.mark.parametrize("name", CUTS)
async def test_an_answer_that_is_cut_is_cut_for_the_client(name: str) -> None:
    header, rest = CUTS[name]
    begin = b"4\r\ngood\r\n" if b"chunked" in header else b"good"
    backend = RawBackend()
    has_begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(header, body=begin))
        await has_begun.wait()
        writer.write(rest)
        writer.close()

    backend.serve = serve  # type: ignore[method-assign]
    async with proxied(backend) as (url, _, _), Client.to(url) as client:
        await client.send(request() + request("/next"))
        await client.reader.readuntil(begin)
        has_begun.set()
        got = await client.rest()
        assert b"0\r\n\r\n" not in got
        assert b"POISON" not in got
        assert len(got) < 20


CLEAN_ANSWERS = {
    "another answer behind": (answer(b"Content-Length: 2", body=b"ok") + POISON, b"ok"),
    "another behind chunks": (
        answer(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n") + POISON,
        b"ok",
    ),
    "another behind none": (answer(b"Content-Length: 0") + POISON, b""),
    "another behind 204": (answer(status=b"204 No Content") + POISON, b""),
    "another behind 304": (answer(b"Content-Length: 6", status=b"304 No") + POISON, b""),
    "100s before": (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + OK + POISON, b"ok"),
    "hints before": (b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n" * 3 + OK, b"ok"),
    "trailers": (
        answer(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\nSet-Cookie: a=b\r\n\r\n"),
        b"ok",
    ),
    "bare line feeds": (OK.replace(b"\r\n", b"\n") + POISON, b"ok"),
    "a folded header": (answer(b"A: b\r\n c", b"Content-Length: 2", body=b"ok") + POISON, b"ok"),
    "until it closes": (answer(body=b"ok"), b"ok"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
}


@pytest.mark.parametrize("name", CLEAN_ANSWERS)
async def test_an_answer_is_one_answer(name: str) -> None:
    data, body = CLEAN_ANSWERS[name]
    async with proxied(RawBackend(data), limits=LIMITS) as (url, _, _), Client.to(url) as client:
        await client.send(request())
        got = await client.answer()
        assert got.status in (200, 204, 304)
        assert got.body == body
        assert not {b"set-cookie", b"link"} & set(got.headers)
        await client.send(request("/next", "Connection: close"))
        assert (await client.answer()).body == b"ok"
        assert await client.rest() == b""


async def test_100s_without_end_are_no_answer() -> None:
    flood = b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000
    backend = RawBackend(flood, closes=False)
    async with proxied(backend, limits=QUICK) as (url, _, _), Client.to(url) as client:
        await client.send(request())
        assert (await client.answer()).status == 504
        await backend.connections[0].is_over.wait()


async def test_an_answer_to_head_has_no_body() -> None:
    data = answer(b"Content-Length: 6")
    async with proxied(RawBackend(data)) as (url, _, _), Client.to(url) as client:
        await client.send(request(method="HEAD"))
        got = await client.answer(has_body=False)
        assert got.one(b"content-length") == b"6"
        await client.send(request("/next", "Connection: close"))
        assert (await client.answer()).body == b"ok"


async def test_a_body_behind_an_answer_to_head_is_not_passed_on() -> None:
    data = answer(b"Content-Length: 6", body=b"POISON")
    async with proxied(RawBackend(data)) as (url, _, _), Client.to(url) as client:
        await client.send(request(method="HEAD", body=b"") + request("/next", "Connection: close"))
        got = await client.rest()
        assert b"POISON" not in got
        assert got.endswith(b"\r\n\r\nok")


async def test_what_a_backend_answers_arrives_as_it_is() -> None:
    body = gzip.compress(b"hello" * 1000)
    data = answer(
        b"Content-Encoding: gzip",
        b"Content-Type: x/y",
        b"Content-Length: %d" % len(body),
        b"Location: /elsewhere?a=%20b",
        b"Server: theirs",
        b"X-A: 1",
        b"X-A: 2",
        b"Access-Control-Allow-Origin: http://h",
        b"Connection: X-Private",
        b"X-Private: a",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Alt-Svc: h2=evil",
        b"Clear-Site-Data: *",
        b"Service-Worker-Allowed: /",
        b'Reporting-Endpoints: a="/x"',
        b"Origin-Agent-Cluster: ?1",
        b"Accept-CH: X",
        b"Set-Login: logged-in",
        b"Proxy-Authentication-Info: x",
        b"Strict-Transport-Security: max-age=1",
        status=b"302 Elsewhere",
        body=body,
    )
    async with proxied(RawBackend(data)) as (url, backend, _), Client.to(url) as client:
        await client.send(request())
        got = await client.answer()
        assert got.status == 302
        assert got.body == body
        assert got.one(b"content-encoding") == b"gzip"
        assert got.one(b"location") == b"/elsewhere?a=%20b"
        assert got.one(b"server") == b"theirs"
        assert got.headers[b"x-a"] == [b"1", b"2"]
        assert set(got.headers) == {
            b"access-control-allow-origin",
            b"content-encoding",
            b"content-length",
            b"content-type",
            b"date",
            b"location",
            b"server",
            b"x-a",
        }
        assert len(backend.connections) == 1


COOKIES = {
    "a=b": "a=b; Path=/T/",
    "a=b; Path=/": "a=b; Path=/T/",
    "a=b; path=/x; HttpOnly": "a=b; HttpOnly; Path=/T/x",
    "a=b;PATH = /x;Secure": "a=b; Secure; Path=/T/x",
    "a=b; Path=/x; Path=/y": "a=b; Path=/T/y",
    "a=b; Path=x": "a=b; Path=/T/",
    "a=b; Path": "a=b; Path=/T/",
    "a=b; Domain=h; SameSite=Lax": "a=b; SameSite=Lax; Path=/T/",
    "path=/; Max-Age=1": "path=/; Max-Age=1; Path=/T/",
}


@pytest.mark.parametrize("cookie", COOKIES)
async def test_a_cookie_is_for_this_backend_alone(cookie: str) -> None:
    data = answer(b"Set-Cookie: " + cookie.encode(), b"Set-Cookie: c=d", b"Content-Length: 0")
    async with proxied(RawBackend(data)) as (url, _, _), Client.to(url) as client:
        await client.send(request())
        expected = [COOKIES[cookie], "c=d; Path=/T/"]
        got = (await client.answer()).headers[b"set-cookie"]
        assert [each.decode().replace(TOKEN, "T") for each in got] == expected


async def test_a_client_that_reads_to_the_end_knows_a_cut_from_an_end() -> None:
    data = answer(b"Transfer-Encoding: chunked", body=b"4\r\ngood\r\n4\r\nba")
    async with proxied(RawBackend(data)) as (url, _, _), Client.to(url) as client:
        await client.send(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
        with pytest.raises(ConnectionResetError):
            await client.reader.read()


async def test_a_client_of_http_1_0() -> None:
    async with proxied(RawBackend(answer(body=b"ok"))) as (url, backend, _):
        async with Client.to(url) as client:
            await client.send(request().replace(b"HTTP/1.1", b"HTTP/1.0"))
            got = await client.rest()
            assert got.endswith(b"\r\n\r\nok")
            assert b"Transfer-Encoding" not in got
        assert backend.requests[0].start.endswith(b"HTTP/1.1")


# Bodies that are waited for


async def test_the_end_of_an_answer_without_a_length_is_the_end_for_http_1_0() -> None:
    chunked = answer(b"Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n")
    async with proxied(RawBackend(chunked)) as (url, _, _), Client.to(url) as client:
        data = request("/", "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
        await client.send(data)
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert statuses(head) == [200]
        assert b"keep-alive" not in head.lower()
        assert body == b"ok"


async def test_a_client_that_asks_whether_to_go_on_is_told_by_a_backend_that_is_there() -> None:
    async with proxied() as (url, backend, _), Client.to(url) as client:
        await client.send(request("/", "Content-Length: 5", "Expect: 100-continue", method="POST"))
        assert (await client.answer()).status == 100
        await client.send(b"hello")
        assert (await client.answer()).status == 200
        (got,) = backend.requests
        assert got.body == b"hello"
        assert b"expect" not in got.headers


@pytest.mark.parametrize("expect", ["200-ok", "100-continue, more", ""])
async def test_nothing_else_is_expected(expect: str) -> None:
    async with proxied(limits=LIMITS) as (url, backend, _), Client.to(url) as client:
        await client.send(request("/", f"Expect: {expect}", method="POST", body=b"hello"))
        assert statuses(await client.rest()) == [417]
        assert backend.connections == []


async def test_a_backend_may_answer_before_it_has_got_all() -> None:
    """As one that takes no body so large does: it is heard, and the rest of the body dropped."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"Content-Length: 2", status=b"413 Too Large", body=b"no"))
        await writer.drain()
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        routes = OneRoute(server.sockets[0].getsockname())
        async with proxying(routes, ("127.0.0.1", 0), LIMITS) as url, Client.to(url) as client:
            await client.send(request("/", "Content-Length: 1000000", method="POST"))
            got = await client.answer()
            assert (got.status, got.body) == (413, b"no")


async def test_both_ways_at_once() -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        async for data in request.content.iter_any():
            await response.write(data)
        return response

    async with behind(echo) as url, Client.to(url) as client:
        await client.send(request("/", "Transfer-Encoding: chunked", method="POST"))
        assert b" 200 OK" in await client.reader.readuntil(b"\r\n\r\n")
        for word in (b"one", b"two", b"three"):
            chunk = b"%x\r\n%b\r\n" % (len(word), word)
            await client.send(chunk)
            assert await client.reader.readexactly(len(chunk)) == chunk
        await client.send(b"0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


# Who is slow, and who goes


async def test_a_head_that_does_not_come() -> None:
    async with proxied(limits=QUICK) as (url, _, _):
        for data in (b"", b"GET /", request()[:-2], b"\r\n"):
            async with Client.to(url) as client:
                await client.send(data)
                assert await client.rest() == b""


async def test_a_connection_that_is_kept_for_nothing() -> None:
    async with proxied(limits=QUICK) as (url, _, _), Client.to(url) as client:
        await client.send(request())
        assert (await client.answer()).status == 200
        assert await client.rest() == b""


async def test_a_body_that_does_not_come() -> None:
    async with proxied(limits=QUICK) as (url, backend, _), Client.to(url) as client:
        await client.send(request("/", "Content-Length: 2", method="POST") + b"o")
        assert statuses(await client.rest()) == [408]
        await backend.connections[0].is_over.wait()


async def test_a_body_that_comes_slowly_is_waited_for() -> None:
    """Longer in all than a backend has time to answer: that counts from the last byte on."""
    async with proxied(limits=QUICK) as (url, backend, _), Client.to(url) as client:
        await client.send(request("/", "Content-Length: 5", method="POST"))
        for _ in range(5):
            await client.send(b"a")
            await asyncio.sleep(0.1)
        assert (await client.answer()).status == 200
        assert backend.requests[0].body == b"aaaaa"


async def test_a_backend_that_does_not_answer() -> None:
    backend = RawBackend(b"HTTP/1.1 ", closes=False)
    async with proxied(backend, limits=QUICK) as (url, _, _), Client.to(url) as client:
        await client.send(request())
        assert (await client.answer()).status == 504
        await backend.connections[0].is_over.wait()


async def endless(request: web.Request) -> web.StreamResponse:
    """Send until nobody takes it any more, then say so to the test."""
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 65536)
    finally:
        request.app[OVER].set()


OVER = web.AppKey("over", asyncio.Event)


async def test_a_client_that_does_not_read_is_cut() -> None:
    over = asyncio.Event()
    async with behind(endless, over, limits=QUICK) as url, Client.to(url) as client:
        await client.send(request())
        await over.wait()
        assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_a_client_that_goes_ends_the_answer() -> None:
    over = asyncio.Event()
    async with behind(endless, over) as url:
        async with Client.to(url) as client:
            await client.send(request())
            await client.reader.readexactly(100_000)
        async with asyncio.timeout(60):
            await over.wait()


async def test_a_client_that_goes_while_nothing_is_answered() -> None:
    backend = RawBackend(b"", closes=False)
    async with proxied(backend) as (url, _, routes):
        async with Client.to(url) as client:
            await client.send(request())
            await backend.until(b"\r\n\r\n")
            assert routes.now == 1
        await backend.connections[0].is_over.wait()


SILENT = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.mark.parametrize("count", [1, 40, 400])
@pytest.mark.parametrize("start", [b"", SILENT])
async def test_a_client_that_is_ahead_and_goes_is_missed(start: bytes, count: int) -> None:
    """Also where nothing is read from it, since it has asked for more than is answered yet."""
    backend = RawBackend(start, closes=False)
    async with proxied(backend) as (url, _, routes):
        async with Client.to(url) as client:
            await client.send(request() * count)
            await backend.until(b"\r\n\r\n")
            assert routes.now == 1
        await backend.connections[0].is_over.wait()
        assert len(backend.connections) == 1


async def test_what_is_under_way_is_cut_when_the_listener_closes() -> None:
    over = asyncio.Event()
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(behind(endless, over, limits=LIMITS))
        client = await stack.enter_async_context(Client.to(url))
        await client.send(request())
        await client.reader.readexactly(100_000)
        await stack.pop_all().aclose()
        await over.wait()


# Many


async def test_a_thousand_connections_at_once() -> None:
    count = 1_000
    backend = RawBackend()
    everybody = asyncio.Barrier(count)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1]
        await everybody.wait()
        writer.write(answer(b"Content-Length: %d" % len(target), body=target))
        await writer.drain()
        writer.close()

    async def ask(url: str, number: int) -> None:
        async with Client.to(url) as client:
            await client.send(request(f"/{number}"))
            assert (await client.answer()).body == b"/%d" % number

    backend.serve = serve  # type: ignore[method-assign]
    async with proxied(backend, limits=LIMITS) as (url, _, routes):
        await asyncio.gather(*(ask(url, number) for number in range(count)))
        assert routes.most == count


async def test_a_connection_too_many_is_cut() -> None:
    async with (
        proxied(limits=HttpLimits(connections=2, closing=0.1)) as (url, _, _),
        Client.to(url) as one,
        Client.to(url) as other,
    ):
        for client in (one, other):
            await client.send(request())
            assert (await client.answer()).status == 200
        async with Client.to(url) as third:
            assert await third.rest() == b""
        await one.send(request("/", "Connection: close"))
        await one.answer()
        await one.rest()
        async with Client.to(url) as fourth:
            await fourth.send(request())
            assert (await fourth.answer()).status == 200


async def test_connections_leave_descriptors_for_what_else_there_is() -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    descriptors = 2 * used + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, most))
    try:
        async with proxied(limits=LIMITS) as (url, _, _), AsyncExitStack() as stack:
            for _ in range(descriptors // 8):
                client = await stack.enter_async_context(Client.to(url))
                await client.send(request())
                assert (await client.answer()).status == 200
            async with Client.to(url) as one_more:
                assert await one_more.rest() == b""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_body_takes_no_memory(way: str) -> None:
    async with asyncio.timeout(60):
        rise = await in_its_own_process(way, mebibytes=256)
    assert rise < RISE


# WebSockets


async def echo(request: web.Request) -> web.StreamResponse:
    """Send back what comes, in frames as large as they like; close as the client says."""
    if request.path == "/no":
        raise web.HTTPForbidden(text="not you")
    socket = web.WebSocketResponse(max_msg_size=0, protocols=("chat",))
    await socket.prepare(request)
    await socket.send_str("welcome")
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            if message.data == "close":
                await socket.close(code=4001, message=b"as you like")
            else:
                await socket.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    assert socket.close_code in (None, 4001, 4002)
    request.app[OVER].set()
    return socket


@asynccontextmanager
async def behind(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    over: asyncio.Event | None = None,
    *,
    limits: HttpLimits = LIMITS,
) -> AsyncIterator[str]:
    """Yield the URL of a proxy before a backend of aiohttp."""
    app = web.Application()
    app[OVER] = over or asyncio.Event()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        routes = OneRoute(runner.addresses[0])
        async with asyncio.timeout(60), proxying(routes, ("127.0.0.1", 0), limits) as url:
            yield url
        assert routes.now == 0
    finally:
        await runner.cleanup()


@asynccontextmanager
async def web_socket(url: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"{url}/{TOKEN}/path", protocols=("chat",), max_msg_size=0, autoping=False
        ) as socket,
    ):
        assert await socket.receive_str() == "welcome"
        yield socket


async def test_a_web_socket_says_what_it_is_told() -> None:
    async with behind(echo) as url, web_socket(url) as socket:
        assert socket.protocol == "chat"
        for text in ("hello", "\u00e9" * 100_000, ""):
            await socket.send_str(text)
            assert await socket.receive_str() == text
        for data in (b"\0\xff", b"x" * 5_000_000):
            await socket.send_bytes(data)
            assert await socket.receive_bytes() == data
        await socket.ping(b"there?")
        pong = await socket.receive()
        assert (pong.type, pong.data) == (WSMsgType.PONG, b"there?")
        await socket.send_str("close")
        end = await socket.receive()
        assert (end.type, end.data, end.extra) == (WSMsgType.CLOSE, 4001, "as you like")


async def test_the_client_ends_a_web_socket() -> None:
    over = asyncio.Event()
    async with behind(echo, over) as url:
        async with web_socket(url) as socket:
            await socket.close(code=4002)
        async with asyncio.timeout(60):
            await over.wait()


def frame(opcode: int, data: bytes, *, is_last: bool = True) -> bytes:
    """Return a frame of RFC 6455, 5.2, masked by zeros."""
    size = len(data)
    length = bytes([0x80 | size]) if size < 126 else b"\xff" + size.to_bytes(8, "big")
    return bytes([(0x80 if is_last else 0) | opcode]) + length + bytes(4) + data


HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
WELCOME = b"\x81\x07welcome"


async def test_a_message_in_many_frames() -> None:
    async with behind(echo) as url, Client.to(url) as client:
        # The first frame comes with the handshake.
        await client.send(request("/", *HANDSHAKE) + frame(2, b"a" * 1000, is_last=False))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert statuses(head) == [101]
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert await client.reader.readexactly(9) == WELCOME
        part = b"b" * 65536
        for _ in range(64):
            await client.send(frame(0, part, is_last=False) + frame(9, b"p"))
            assert await client.reader.readexactly(3) == b"\x8a\x01p"
        await client.send(frame(0, b"c"))
        size = 1000 + 64 * 65536 + 1
        assert await client.reader.readexactly(10) == b"\x82\x7f" + size.to_bytes(8, "big")
        assert await client.reader.readexactly(size) == b"a" * 1000 + part * 64 + b"c"


async def test_a_web_socket_may_be_declined() -> None:
    async with behind(echo) as url, Client.to(url) as client:
        await client.send(request("/no", *HANDSHAKE) + request("/no"))
        got = await client.answer()
        assert (got.status, got.body) == (403, b"not you")
        assert got.one(b"connection") == b"close"
        assert await client.rest() == b""


ACCEPT = b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
UPGRADED = (b"Upgrade: websocket", b"Connection: Upgrade")
BAD_UPGRADES = {
    "no accept": answer(*UPGRADED, status=b"101 Yes"),
    "a wrong accept": answer(
        *UPGRADED, b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOp=", status=b"101 Yes"
    ),
    "two accepts": answer(*UPGRADED, ACCEPT, ACCEPT, status=b"101 Yes"),
    "another protocol": answer(b"Upgrade: h2c", UPGRADED[1], ACCEPT, status=b"101 Yes"),
    "no Upgrade": answer(UPGRADED[1], ACCEPT, status=b"101 Yes"),
    "no Connection": answer(UPGRADED[0], ACCEPT, status=b"101 Yes"),
    "a control character": answer(*UPGRADED, ACCEPT, b"A: \x01", status=b"101 Yes"),
    "HTTP/1.0": answer(*UPGRADED, ACCEPT, status=b"101 Yes").replace(b"/1.1", b"/1.0"),
    "accepted by 200": answer(*UPGRADED, ACCEPT, b"Content-Length: 0", b"A: \x01"),
}


@pytest.mark.parametrize("behind", [b"", POISON], ids=["alone", "with more behind"])
@pytest.mark.parametrize("name", BAD_UPGRADES)
async def test_what_accepts_no_web_socket_becomes_none(name: str, behind: bytes) -> None:
    backend = RawBackend(BAD_UPGRADES[name] + behind, closes=False)
    async with proxied(backend, limits=LIMITS) as (url, _, _), Client.to(url) as client:
        await client.send(request("/", *HANDSHAKE) + frame(1, b"hello"))
        assert (await client.answer()).status == 502
        assert b"POISON" not in await client.rest()
        await backend.connections[0].is_over.wait()
        assert b"hello" not in backend.connections[0].got


async def test_what_comes_with_the_acceptance_is_the_clients() -> None:
    data = answer(*UPGRADED, ACCEPT, b"Set-Cookie: a=b", status=b"101 Yes") + WELCOME
    backend = RawBackend(data)
    async with proxied(backend, limits=LIMITS) as (url, _, _), Client.to(url) as client:
        await client.send(request("/x?y", *HANDSHAKE, "X-Verified-Username: root"))
        got = await client.rest()
        head, _, rest = got.partition(b"\r\n\r\n")
        assert rest == WELCOME
        assert f"Set-Cookie: a=b; Path=/{TOKEN}/".encode() in head
        (asked,) = backend.requests
        assert asked.target == b"/x?y"
        assert asked.one(b"upgrade") == b"websocket"
        assert asked.one(b"connection") == b"Upgrade"
        assert asked.one(b"x-verified-secret").decode() == SECRET
        assert b"x-verified-username" not in asked.headers


async def test_who_does_not_read_a_web_socket_is_cut() -> None:
    over = asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        try:
            while True:
                await socket.send_bytes(b"x" * 65536)
        except ConnectionError:
            over.set()
            raise

    async with behind(flood, limits=QUICK) as url, Client.to(url) as client:
        await client.send(request("/", *HANDSHAKE))
        await over.wait()


async def test_a_backend_that_does_not_read_a_web_socket_is_cut() -> None:
    backend = RawBackend()
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(*UPGRADED, ACCEPT, status=b"101 Yes"))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await over.wait()
        writer.close()

    backend.serve = accept  # type: ignore[method-assign]
    async with proxied(backend, limits=QUICK) as (url, _, _), Client.to(url) as client:
        await client.send(request("/", *HANDSHAKE))
        await client.reader.readuntil(b"\r\n\r\n")
        with suppress(ConnectionError):
            while True:  # until it is cut
                await client.send(frame(2, b"x" * 65536))
        over.set()
