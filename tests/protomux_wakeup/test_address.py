from __future__ import annotations

import pytest

from protomux_wakeup.address import (
    Address,
    TcpAddress,
    UdpAddress,
    UnixAddress,
    parse_address,
    shown,
)


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


def test_who_listens_may_take_any_port() -> None:
    assert parse_address("127.0.0.1:0", least_port=0) == TcpAddress("127.0.0.1", 0)
    with pytest.raises(ValueError, match=r"with a port from 0 to 65535, .* got 'host:-1'$"):
        parse_address("host:-1", least_port=0)


def test_errors_repeat_a_value_on_one_short_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert shown("x" * 1000) == "'" + "x" * 80 + "…'"


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
