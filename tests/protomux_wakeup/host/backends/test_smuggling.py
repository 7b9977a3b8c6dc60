"""What parsers of HTTP disagree about reaches no backend; what does is one request, and its end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from protomux_wakeup.host.backends.http_limits import HttpLimits
from protomux_wakeup.host.backends.wellformed import words

from .raw_http import OK, TOKEN, Client, RawBackend, proxied, request, statuses

# "/T" stands for the path that leads to the backend.

POST = b"POST /T/ HTTP/1.1\r\nHost: h\r\n"
GET = b"GET /T/ HTTP/1.1\r\nHost: h\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n0\r\n\r\n"
NEXT = b"GET /T/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

LENGTHS = {
    "two that differ": b"Content-Length: 1\r\nContent-Length: 2\r\n",
    "two alike": b"Content-Length: 1\r\nContent-Length: 1\r\n",
    "a list": b"Content-Length: 1,1\r\n",
    "a plus": b"Content-Length: +1\r\n",
    "a minus": b"Content-Length: -1\r\n",
    "hexadecimal": b"Content-Length: 0x1\r\n",
    "octal": b"Content-Length: 01\r\n",
    "none": b"Content-Length:\r\n",
    "an underscore": b"Content-Length: 1_0\r\n",
    "other digits": "Content-Length: \u0661\r\n".encode(),
    "a fraction": b"Content-Length: 1.0\r\n",
    "two words": b"Content-Length: 1 1\r\n",
    "a vertical tab": b"Content-Length: \x0b1\r\n",
    "a form feed": b"Content-Length: 1\x0c\r\n",
    "folded": b"Content-Length: 1\r\n 1\r\n",
    "beyond 64 bits": b"Content-Length: 18446744073709551617\r\n",
    "beyond 63 bits": b"Content-Length: 9223372036854775808\r\n",
    "a blank before the colon": b"Content-Length : 1\r\n",
    "a tab before the colon": b"Content-Length\t: 1\r\n",
}
CODINGS = {
    "with a length": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "after a length": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "with a length of 0": b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n",
    "a tab before the colon": b"Transfer-Encoding\t: chunked\r\n",
    "unknown": b"Transfer-Encoding: xchunked\r\n",
    "not the last": b"Transfer-Encoding: chunked, identity\r\n",
    "after identity": b"Transfer-Encoding: identity, chunked\r\n",
    "after gzip": b"Transfer-Encoding: gzip, chunked\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "twice in one": b"Transfer-Encoding: chunked, chunked\r\n",
    "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "twice, first another": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "twice, then another": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n",
    "none": b"Transfer-Encoding:\r\n",
    "a vertical tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "a vertical tab behind": b"Transfer-Encoding: chunked\x0b\r\n",
    "a NUL": b"Transfer-Encoding: chunked\x00\r\n",
    "quoted": b'Transfer-Encoding: "chunked"\r\n',
    "with a parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "a comma before": b"Transfer-Encoding: ,chunked\r\n",
    "a comma behind": b"Transfer-Encoding: chunked,\r\n",
    "folded": b"Transfer-Encoding:\r\n chunked\r\n",
    "behind a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n",
    "behind a bare LF": b"X: y\nTransfer-Encoding: chunked\r\n",
    "in another letter": "Transfer-Encoding: chun\u212aed\r\n".encode(),
}
HEADS = {
    "bare LF everywhere": b"GET /T/ HTTP/1.1\nHost: h\n\n",
    "bare LF behind the first line": b"GET /T/ HTTP/1.1\nHost: h\r\n\r\n",
    "bare LF behind a header": GET + b"A: b\nC: d\r\n\r\n",
    "bare LF at the end": GET + b"\n",
    "bare CR everywhere": b"GET /T/ HTTP/1.1\rHost: h\r\r",
    "bare CR in a value": GET + b"A: b\rC: d\r\n\r\n",
    "bare CR in a name": GET + b"A\r: b\r\n\r\n",
    "CR CR LF": b"GET /T/ HTTP/1.1\r\nHost: h\r\r\n\r\n",
    "folded by a blank": GET + b"A: b\r\n c\r\n\r\n",
    "folded by a tab": GET + b"A: b\r\n\tc\r\n\r\n",
    "folded at once": b"GET /T/ HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n",
    "a blank before the colon": GET + b"A : b\r\n\r\n",
    "no colon": GET + b"A\r\n\r\n",
    "no name": GET + b": b\r\n\r\n",
    "NUL in a name": GET + b"A\x00: b\r\n\r\n",
    "NUL in a value": GET + b"A: \x00b\r\n\r\n",
    "a control character in a name": GET + b"A\x01: b\r\n\r\n",
    "a control character in a value": GET + b"A: b\x01\r\n\r\n",
    "a vertical tab in a value": GET + b"A: b\x0bc\r\n\r\n",
    "DEL in a value": GET + b"A: \x7f\r\n\r\n",
    "a byte beyond ASCII in a name": GET + b"A\xe9: b\r\n\r\n",
    "no UTF-8 in a value": GET + b"A: \xff\r\n\r\n",
    "a delimiter in a name": GET + b"A(b): c\r\n\r\n",
    "a quote in a name": GET + b'"A": c\r\n\r\n',
    "no Host": b"GET /T/ HTTP/1.1\r\n\r\n",
    "an empty Host": b"GET /T/ HTTP/1.1\r\nHost:\r\n\r\n",
    "two Hosts": GET + b"Host: other\r\n\r\n",
    "two Hosts alike": GET + b"Host: h\r\n\r\n",
    "a Host with a path": b"GET /T/ HTTP/1.1\r\nHost: h/x\r\n\r\n",
    "a Host with a user": b"GET /T/ HTTP/1.1\r\nHost: u@h\r\n\r\n",
    "a Host with a blank": b"GET /T/ HTTP/1.1\r\nHost: h x\r\n\r\n",
    "a Host with a comma": b"GET /T/ HTTP/1.1\r\nHost: h,x\r\n\r\n",
    "a Host with a port that is none": b"GET /T/ HTTP/1.1\r\nHost: h:x\r\n\r\n",
    "HTTP/1.0 without Host": b"GET /T/ HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with chunks": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n",
    "HTTP/0.9": b"GET /T/\r\n\r\n",
    "HTTP/1.2": b"GET /T/ HTTP/1.2\r\nHost: h\r\n\r\n",
    "HTTP/1.10": b"GET /T/ HTTP/1.10\r\nHost: h\r\n\r\n",
    "HTTP/2.0": b"GET /T/ HTTP/2.0\r\nHost: h\r\n\r\n",
    "HTTP/3": b"GET /T/ HTTP/3\r\nHost: h\r\n\r\n",
    "http/1.1": b"GET /T/ http/1.1\r\nHost: h\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another protocol": b"GET /T/ ICY/1.1\r\nHost: h\r\n\r\n",
    "CONNECT": b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT to a path": b"CONNECT /T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET *": b"GET * HTTP/1.1\r\nHost: h\r\n\r\n",
    "an absolute target": b"GET http://h/T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "an absolute target elsewhere": b"GET http://other/T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a path without a slash": b"GET T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: h\r\n\r\n",
    "a fragment": b"GET /T/a#b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a backslash": b"GET /T/a\\..\\b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a backslash for a slash": b"GET \\T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a blank in the path": b"GET /T/a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a tab in the path": b"GET /T/a\tb HTTP/1.1\r\nHost: h\r\n\r\n",
    "a NUL in the path": b"GET /T/a\x00b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a control character in the path": b"GET /T/a\x01b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a CR in the path": b"GET /T/a\rb HTTP/1.1\r\nHost: h\r\n\r\n",
    "a byte beyond ASCII in the path": b"GET /T/a\xffb HTTP/1.1\r\nHost: h\r\n\r\n",
    "UTF-8 in the path": "GET /T/\u00e9 HTTP/1.1\r\nHost: h\r\n\r\n".encode(),
    "a blank before the method": b" GET /T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a tab for a blank": b"GET\t/T/\tHTTP/1.1\r\nHost: h\r\n\r\n",
    "a blank behind the version": b"GET /T/ HTTP/1.1 \r\nHost: h\r\n\r\n",
    "a method in small letters": b"get /T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a method that is none": b"G\x01T /T/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a WebSocket by POST": (
        b"POST /T/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ),
    "a WebSocket with a body": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nhello"
    ),
    "a WebSocket of another version": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 777\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ),
    "a WebSocket without a key": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ),
    "a WebSocket with a key that is none": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: me\r\n\r\n"
    ),
}
CHUNKS = {
    "0x": b"0x1\r\nA" + END,
    "a plus": b"+1\r\nA" + END,
    "a minus": b"-1\r\nA" + END,
    "an underscore": b"1_0\r\nA" + END,
    "no digit": b"g\r\nA" + END,
    "nothing": b"\r\nA" + END,
    "beyond 64 bits": b"10000000000000001\r\nA" + END,
    "a blank before": b" 1\r\nA" + END,
    "a blank behind": b"1 \r\nA" + END,
    "a tab behind": b"1\t\r\nA" + END,
    "a NUL behind": b"1\x00\r\nA" + END,
    "too much": b"1\r\nAB" + END,
    "nothing behind": b"1\r\nA0\r\n\r\n",
    "bare LF behind the size": b"1\nA" + END,
    "bare LF behind the chunk": b"1\r\nA\n0\r\n\r\n",
    "bare LF behind the last": b"1\r\nA\r\n0\n\r\n",
    "bare LF at the end": b"1\r\nA\r\n0\r\n\n",
    "bare CR behind the size": b"1\rA" + END,
    "bare LF in an extension": b"1;a\nb\r\nA" + END,
    "bare CR in an extension": b"1;a\rb\r\nA" + END,
    "an end of line in quotes": b'1;a="\r\n"\r\nA' + END,
    "an extension without a name": b"1;=\n\r\nA" + END,
    "a request for trailers": b"1\r\nA\r\n0\r\n" + NEXT,
    "a length for a trailer": b"1\r\nA\r\n0\r\nContent-Length: 40\r\n\r\n",
    "a coding for a trailer": b"1\r\nA\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a trailer that is folded": b"1\r\nA\r\n0\r\nA: b\r\n c\r\n\r\n",
    "a trailer behind a bare LF": b"1\r\nA\r\n0\r\nA: b\nC: d\r\n\r\n",
}

REFUSED = (
    {f"length, {name}": POST + lines + b"\r\nA" for name, lines in LENGTHS.items()}
    | {f"coding, {name}": POST + lines + b"\r\n0\r\n\r\n" for name, lines in CODINGS.items()}
    | HEADS
    | {f"chunk, {name}": CHUNKED + chunks for name, chunks in CHUNKS.items()}
)

# Not nice, but clear: with what the backend is to get of it, target and body.
TAKEN = {
    "an empty line before": (b"\r\n" + GET + b"\r\n", b"/", b""),
    "two blanks": (b"GET  /T/  HTTP/1.1\r\nHost: h\r\n\r\n", b"/", b""),
    "tabs around values": (CHUNKED.replace(b": ", b":\t") + b"1\r\nA" + END, b"/", b"A"),
    "no blank": (CHUNKED.replace(b": ", b":") + b"1\r\nA" + END, b"/", b"A"),
    "blanks behind a length": (POST + b"Content-Length: 1 \t \r\n\r\nA", b"/", b"A"),
    "chunked in capitals": (CHUNKED.replace(b"chunked", b"CHUNKED") + b"1\r\nA" + END, b"/", b"A"),
    "names in capitals": (CHUNKED.upper().replace(b"/T", b"/T") + b"1\r\nA" + END, b"/", b"A"),
    "zeros before a size": (CHUNKED + b"0000000000000000000001\r\nA" + END, b"/", b"A"),
    "a size in capitals": (CHUNKED + b"A\r\n0123456789" + END, b"/", b"0123456789"),
    "an extension": (CHUNKED + b"1;a=b\r\nA" + END, b"/", b"A"),
    "an extension in quotes": (CHUNKED + b'1;a="b;c"\r\nA' + END, b"/", b"A"),
    "trailers": (CHUNKED + b"1\r\nA\r\n0\r\nX-Verified-Username: root\r\nA: b\r\n\r\n", b"/", b"A"),
    "a body of GET": (
        GET + b"Content-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"/",
        b"GET / HTTP/1.1\r\n\r\n",
    ),
    "a coding with an underscore": (
        POST + b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"/",
        b"0\r\n\r\n",
    ),
    "a length that Connection names": (
        POST + b"Connection: Content-Length\r\nContent-Length: 1\r\n\r\nA",
        b"/",
        b"A",
    ),
    "a Host that Connection names": (
        GET + b"Connection: Host, X-Verified-Secret\r\n\r\n",
        b"/",
        b"",
    ),
    "an upgrade that Connection does not name": (GET + b"Upgrade: websocket\r\n\r\n", b"/", b""),
    "a path with dots": (b"GET /T/../x HTTP/1.1\r\nHost: h\r\n\r\n", b"/../x", b""),
    "a path with escaped dots": (
        b"GET /T/%2e%2e/%2E%2e/x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"/%2e%2e/%2E%2e/x",
        b"",
    ),
    "an escaped slash": (b"GET /T/..%2fx%5c HTTP/1.1\r\nHost: h\r\n\r\n", b"/..%2fx%5c", b""),
    "parameters": (b"GET /T/..;/x;a=b HTTP/1.1\r\nHost: h\r\n\r\n", b"/..;/x;a=b", b""),
    "an escaped end of line": (
        b"GET /T/%0d%0aA:%20b?%00 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"/%0d%0aA:%20b?%00",
        b"",
    ),
    "two slashes": (b"GET /T//other/x HTTP/1.1\r\nHost: h\r\n\r\n", b"//other/x", b""),
    "an authority in the path": (
        b"GET /T/@other:1/http://x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"/@other:1/http://x",
        b"",
    ),
    "what URLs do not have": (
        b'GET /T/"<>^`{|}?["<>^`{|}] HTTP/1.1\r\nHost: h\r\n\r\n',
        b'/"<>^`{|}?["<>^`{|}]',
        b"",
    ),
    "a query that is no UTF-8": (
        b"GET /T/%ff?a=%ff&a&&=?+%2B;/.. HTTP/1.1\r\nHost: h\r\n\r\n",
        b"/%ff?a=%ff&a&&=?+%2B;/..",
        b"",
    ),
    "a query at once": (b"GET /T?x=/../y HTTP/1.1\r\nHost: h\r\n\r\n", b"/?x=/../y", b""),
    "no slash": (b"GET /T HTTP/1.1\r\nHost: h\r\n\r\n", b"/", b""),
}


# What asks for another protocol, and whether it gets an answer of the backend.
OTHERS = {
    "h2c": (
        GET
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
        200,
    ),
    "with a body": (
        POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
        200,
    ),
    "with chunks": (
        POST
        + b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA"
        + END,
        200,
    ),
    "TLS": (GET + b"Connection: keep-alive, Upgrade\r\nUpgrade: tls/1.0\r\n\r\n", 200),
    "a list": (GET + b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n", 200),
    "two": (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n\r\n", 200),
    "two, the other first": (
        GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
        200,
    ),
    "in another letter": (
        GET
        + "Connection: Upgrade\r\nUpgrade: websoc\u212aet\r\nSec-WebSocket-Version: 13\r\n".encode()
        + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        200,
    ),
    "HTTP/1.0": (
        b"GET /T/ HTTP/1.0\r\nHost: h\r\nConnection: Upgrade, keep-alive\r\nUpgrade: h2c\r\n\r\n",
        200,
    ),
    "of nobody": (
        b"GET /none HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        404,
    ),
}


def with_token(data: bytes) -> bytes:
    return data.replace(b"/T", f"/{TOKEN}".encode())


@pytest.fixture
def limits() -> HttpLimits:
    return HttpLimits(closing=0.1)


@pytest.mark.parametrize("behind", [b"", NEXT + NEXT], ids=["alone", "with more behind"])
@pytest.mark.parametrize("name", REFUSED)
async def test_what_parsers_disagree_about_is_refused(
    name: str, behind: bytes, limits: HttpLimits
) -> None:
    async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
        await client.send(with_token(REFUSED[name] + behind))
        answer = await client.rest()
        assert statuses(answer) == [405 if name.startswith("CONNECT") else 400], answer
        assert b'"kind":"Other"' in answer
        assert TOKEN.encode() not in answer
        assert backend.connections == []


@pytest.mark.parametrize("name", TAKEN)
async def test_what_is_clear_reaches_the_backend_as_one_request(
    name: str, limits: HttpLimits
) -> None:
    data, target, body = TAKEN[name]
    async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
        await client.send(with_token(data))
        assert (await client.answer()).body == b"ok"
        await client.send(request("/next", "Connection: close"))
        assert statuses(await client.rest()) == [200]
        first, second = backend.requests
        assert (first.target, first.body) == (target, body)
        assert (second.target, second.body) == (b"/next", b"")
        assert first.one(b"x-verified-username".replace(b"username", b"backend"))
        assert b"x-verified-username" not in first.headers
        assert not {b"upgrade", b"http2-settings", b"trailer", b"transfer_encoding"} & set(
            first.headers
        )
        assert first.one(b"host") in (b"h", b"H")


@pytest.mark.parametrize("name", OTHERS)
async def test_what_asks_for_another_protocol_is_the_last_request(
    name: str, limits: HttpLimits
) -> None:
    data, status = OTHERS[name]
    evil = with_token(NEXT)
    head = f"POST /T/ HTTP/1.1\r\nHost: h\r\nContent-Length: {len(evil)}\r\n\r\n".encode()
    for behind in (b"", head, evil, evil + head):
        async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
            await client.send(with_token(data + behind))
            answer = await client.answer()
            assert answer.status == status
            assert answer.headers.get(b"connection", [b"close"]) == [b"close"]
            with suppress(ConnectionError):  # which has closed, or is about to
                await client.send(evil)
            assert await client.rest() == b""
            targets = [each.target for each in backend.requests]
            assert targets == ([b"/"] if status == 200 else [])


@pytest.mark.parametrize("name", CHUNKS)
async def test_a_body_that_turns_out_to_be_malformed_never_ends(
    name: str, limits: HttpLimits, caplog: pytest.LogCaptureFixture
) -> None:
    """What came before is with the backend already, which must not take it for a request."""
    async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
        await client.send(with_token(CHUNKED) + b"4\r\ngood\r\n")
        await backend.until(b"good\r\n")
        await client.send(with_token(CHUNKS[name] + NEXT + NEXT))
        assert statuses(await client.rest()) == [400]
        (connection,) = backend.connections
        await connection.is_over.wait()
        got = bytes(connection.got)
        assert got.count(b"HTTP/1.1") == 1
        assert b"0\r\n" not in got.partition(b"\r\n\r\n")[2]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (POST + b"Content-Length: 40\r\n\r\n" + b"A" * 39, b"A" * 39),
        (CHUNKED + b"4\r\ngood\r\n4\r\nba", b"ba\r\n"),
    ],
)
async def test_a_body_that_is_cut_never_ends(data: bytes, end: bytes, limits: HttpLimits) -> None:
    async with proxied(limits=limits) as (url, backend, _):
        async with Client.to(url) as client:
            await client.send(with_token(data))
            await backend.until(end)
        (connection,) = backend.connections
        await connection.is_over.wait()
        assert b"0\r\n" not in bytes(connection.got).partition(b"\r\n\r\n")[2]


async def test_requests_one_behind_the_other_have_their_answers_in_order(
    limits: HttpLimits,
) -> None:
    answers = [OK.replace(b"ok", b"%02d" % number) for number in range(50)]
    async with proxied(RawBackend(*answers), limits=limits) as (url, backend, _):
        async with Client.to(url) as client:
            await client.send(b"".join(request(f"/{number}") for number in range(50)))
            for number in range(50):
                assert (await client.answer()).body == b"%02d" % number
        assert [each.target for each in backend.requests] == [b"/%d" % n for n in range(50)]


LONG = b"A: " + b"b" * 8_000 + b"\r\n"


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n" + NEXT])
@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
async def test_a_head_has_a_bound(before: bytes, end: bytes, limits: HttpLimits) -> None:
    """With an end or without one, each line of it being short enough."""
    async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
        await client.send(with_token(before + GET))
        for _ in range(20):
            with suppress(ConnectionError):
                await client.send(LONG)
        with suppress(ConnectionError):
            await client.send(with_token(end))
        asked = 1 if before else 0
        assert statuses(await client.rest()) == [200] * asked + [431]
        assert len(backend.connections) == asked


async def test_heads_that_wait_have_a_bound(limits: HttpLimits) -> None:
    async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
        # In one piece: the first has not been looked at when the last has come.
        await client.send(with_token((GET + LONG * 3 + b"\r\n") * 20))
        got = statuses(await client.rest())
        assert got[-1] == 431
        assert len(backend.requests) == got.count(200) == len(got) - 1 < 20


async def test_a_head_may_come_behind_a_long_body(limits: HttpLimits) -> None:
    """Bytes of bodies are none of a head, in however many segments they come."""
    body = b"x" * 1_000_000
    data = POST + b"Content-Length: 1000000\r\n\r\n" + body
    async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
        await client.send(with_token(data + data + GET + LONG * 7 + b"\r\n"))
        for _ in range(3):
            assert (await client.answer()).status == 200
        assert [len(each.body) for each in backend.requests] == [1_000_000, 1_000_000, 0]


@pytest.mark.parametrize("name", ["Connection", "Expect"])
def test_blanks_take_no_time(name: str) -> None:
    """Of as many blanks as may come, the square is hours."""
    blanks = f"a{' ' * 1_000_000}b"
    headers = CIMultiDictProxy(CIMultiDict([(name, blanks), (name, f"c \t,, \t{blanks}\t ,")]))
    assert words(headers, name) == {blanks, "c"}


async def test_the_head_may_come_byte_by_byte(limits: HttpLimits) -> None:
    async with proxied(limits=limits) as (url, backend, _), Client.to(url) as client:
        for byte in with_token(CHUNKED + b"1;a=b\r\nA" + END):
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).body == b"ok"
        assert backend.requests[0].body == b"A"
