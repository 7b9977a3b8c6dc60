from __future__ import annotations

import pytest

from protomux_wakeup import Writer
from protomux_wakeup.cli.values import (
    MAX_LENGTH,
    Address,
    TcpAddress,
    UdpAddress,
    UnixAddress,
    count_of,
    format_writer,
    hex_of,
    parse_address,
    parse_key,
    parse_seconds,
    parse_writer,
    short,
    shown,
)

KEY = "0123456789abcdef" * 4


def test_a_key_is_64_hex_digits() -> None:
    assert parse_key(KEY) == parse_key(KEY.upper()) == bytes.fromhex(KEY)


@pytest.mark.parametrize(
    "text", ["", "ab", KEY[1:], KEY + "0", KEY[:-1] + "g", KEY[:-1] + "\n", " " + KEY[1:], "é" * 64]
)
def test_no_other_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected 64 hex digits, got "):
        parse_key(text)


@pytest.mark.parametrize("length", [0, 17, MAX_LENGTH])
def test_a_writer_as_text_and_back(length: int) -> None:
    writer = parse_writer(f"{KEY}:{length}")
    assert writer == Writer(bytes.fromhex(KEY), length)
    assert format_writer(writer) == f"{KEY}:{length}"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"{KEY}:",
        f":{KEY}",
        f"{KEY}:-1",
        f"{KEY}:1.5",
        f"{KEY}:+1",
        f"{KEY}:1_0",
        f"{KEY}:{MAX_LENGTH + 1}",
        f"{KEY}:{'9' * 5000}",
        f"{KEY}:٣",
        f"{KEY}:1:2",
        f"{KEY[1:]}:1",
    ],
)
def test_no_other_writer(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected KEY:LENGTH, .* from 0 to 9007199254740991"):
        parse_writer(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4000", TcpAddress("127.0.0.1", 4000)),
        ("peer.example:1", TcpAddress("peer.example", 1)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("[fe80::1%eth0]:80", TcpAddress("fe80::1%eth0", 80)),
        ("unix:/run/wakeup.sock", UnixAddress("/run/wakeup.sock")),
        ("unix:a:b", UnixAddress("a:b")),
        (
            "udp://192.0.2.1:4000/0/[2001:db8::1]:4001/4294967295",
            UdpAddress(
                TcpAddress("192.0.2.1", 4000), 0, TcpAddress("2001:db8::1", 4001), 2**32 - 1
            ),
        ),
    ],
)
def test_an_address_as_text_and_back(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "host", ":80", "host:", "host:0", "host:65536", "host:http", "[]:80", "unix:", "h:\uff19"],
)
def test_no_other_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected HOST:PORT with a port from 1 to 65535, or "):
        parse_address(text)


def test_ipv6_needs_brackets() -> None:
    with pytest.raises(ValueError, match=r"in brackets as in \[::1\]:4000, got '::1:4000'"):
        parse_address("::1:4000")


@pytest.mark.parametrize(("text", "seconds"), [("10", 10.0), ("0.25", 0.25), ("1e3", 1000.0)])
def test_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "ten", ""])
def test_no_other_seconds(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a number of seconds above 0, got "):
        parse_seconds(text)


def test_errors_repeat_a_value_on_one_short_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 1000) == "'" + "x" * 80 + "…'"


def test_short_forms() -> None:
    assert short(bytes.fromhex(KEY)) == "0123456789ab…"
    assert short(None) == "?"
    assert hex_of(bytes.fromhex(KEY)) == KEY
    assert hex_of(None) is None
    assert [count_of(number, "log") for number in (0, 1, 2)] == ["0 logs", "1 log", "2 logs"]


@pytest.mark.parametrize(
    "text",
    [
        "udp:",
        "udp://127.0.0.1:4000",
        "udp://127.0.0.1:4000/1",
        "udp://127.0.0.1:4000/1/127.0.0.1:4001",
        "udp://127.0.0.1:4000/1/127.0.0.1:4001/",
        "udp://127.0.0.1:4000/-1/127.0.0.1:4001/2",
        "udp://127.0.0.1:4000/1/127.0.0.1:4001/4294967296",
        "udp://127.0.0.1:4000/1/127.0.0.1:4001/2/3",
    ],
)
def test_no_other_address_of_udx(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected udp://SERVER:PORT/ID/VISITOR:PORT/ID, .*got"):
        parse_address(text)


@pytest.mark.parametrize("port", ["", ":0", ":65536"])
def test_an_address_of_udx_has_ports(port: str) -> None:
    with pytest.raises(ValueError, match=r"^expected HOST:PORT with a port"):
        parse_address(f"udp://127.0.0.1{port}/1/127.0.0.1:4001/2")
