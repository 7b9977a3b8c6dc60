from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from protomux import KeyPair, Protomux
from protomux.streams import SecretStream, start_server, start_unix_server
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer
from protomux_wakeup.address import Address, TcpAddress, UnixAddress
from protomux_wakeup.cli import logs as logs_module
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.visit import Errand, announce, lookup
from protomux_wakeup.endpoint import close_streams

from .recorder import Recorder

CAPABILITY = b"c" * 32
A, B = Writer(b"a" * 32, 1), Writer(b"b" * 32, 2)
HOST_KEYS, OWN_KEYS = KeyPair.generate(), KeyPair.generate()


class Host:
    """A peer who is visited."""

    def __init__(self, capability: bytes = CAPABILITY, **hooks: Any) -> None:
        self.wakeup = Wakeup()
        self.session = self.wakeup.session(capability, **hooks)
        self.streams: list[SecretStream] = []
        self.address: Address = TcpAddress("", 0)

    def welcome(self, stream: SecretStream) -> None:
        self.streams.append(stream)
        self.wakeup.add_stream(stream)

    def errand(self, **changes: Any) -> Errand:
        return Errand(
            **{
                "address": self.address,
                "capability": CAPABILITY,
                "key_pair": OWN_KEYS,
                "timeout": 10.0,
                **changes,
            }
        )


def void(_value: object) -> None: ...


def answers(*writers: Writer) -> Callable[[Lookup, Peer, Session], None]:
    return lambda lookup, peer, session: void(session.announce(peer, writers))


def cork(stream: SecretStream) -> None:
    """Let what is sent from now on leave as one frame, at `uncork`."""
    Protomux.of(stream).cork()


@asynccontextmanager
async def visited(
    host: Host, then: Callable[[SecretStream], object] = void, **options: Any
) -> AsyncIterator[Host]:
    """Let `host` be visited; `then(stream)` is called when a visitor was welcomed."""

    def on_stream(stream: SecretStream) -> None:
        host.welcome(stream)
        then(stream)

    async with await start_server(on_stream, "127.0.0.1", key_pair=HOST_KEYS, **options) as server:
        host.address = TcpAddress(*server.sockets[0].getsockname())
        yield host
        for stream in host.streams:
            stream.resume_reading()
        await close_streams(host.streams)


def reset(stream: SecretStream) -> None:
    """Cut the connection as a crash does."""
    assert stream.transport is not None
    plug = stream.transport.get_extra_info("socket")
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.abort()


@pytest.fixture
def report() -> Recorder:
    return Recorder()


@pytest.fixture
async def silent_address() -> AsyncIterator[Address]:
    """Where somebody accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield TcpAddress(*listener.getsockname())


async def test_a_lookup_shows_the_answer(report: Recorder) -> None:
    async with visited(Host(on_lookup=answers(A, B))) as host:
        errand = host.errand(remote_key=HOST_KEYS.public_key, allowed=[HOST_KEYS.public_key])
        assert await lookup(report, errand) == Exit.DONE
        assert report.events == ["connected", "peer_added", "lookup_sent", "announce_received"]
        assert {line.fields["peer"] for line in report.lines} == {HOST_KEYS.public_key.hex()}
        assert report.lines[0].fields["address"] == str(host.address)
        assert report.lines[2].fields["hash"] is None
        assert report.lines[3].writers == [A, B]
        await host.streams[0].wait_closed()
        assert host.streams[0].error is None
        assert host.streams[0].remote_public_key == OWN_KEYS.public_key
        assert host.session.peers == ()


async def test_a_lookup_carries_a_hash(report: Recorder) -> None:
    hashes: list[bytes | None] = []

    def on_lookup(lookup: Lookup, peer: Peer, session: Session) -> None:
        hashes.append(lookup.hash)
        session.announce(peer, [])

    async with visited(Host(on_lookup=on_lookup)) as host:
        assert await lookup(report, host.errand(), b"h" * 32) == Exit.DONE
        assert hashes == [b"h" * 32]
        assert report.lines[2].fields["hash"] == b"h".hex() * 32
        assert report.lines[2].details == [f"hash {b'h'.hex() * 32}"]
        assert report.lines[3].writers == []


async def test_an_announce_from_before_the_question_is_no_answer(report: Recorder) -> None:
    def greet(peer: Peer, session: Session) -> None:
        session.announce(peer, [A])
        Protomux.of(peer.stream).uncork()  # open and greeting leave as one frame

    async with visited(Host(on_peer_add=greet, on_lookup=answers(B)), cork) as host:
        assert await lookup(report, host.errand()) == Exit.DONE
    assert report.lines[-1].writers == [B]


async def test_a_lookup_that_nobody_answers(report: Recorder) -> None:
    async with visited(Host()) as host:
        with pytest.raises(Failure, match=r"^no announce answered within 1 s$") as caught:
            await lookup(report, host.errand(timeout=1.0))
        assert caught.value.code == Exit.UNANSWERED
        assert report.events == ["connected", "peer_added", "lookup_sent"]


async def test_a_peer_of_another_topic_proves_nothing(report: Recorder) -> None:
    async with visited(Host(b"x" * 32)) as host:
        with pytest.raises(Failure, match=r"^no peer proved the .* within 1 s$") as caught:
            await lookup(report, host.errand(timeout=1.0))
        assert caught.value.code == Exit.UNPROVEN
        assert report.events == ["connected"]


async def test_a_silent_listener_proves_nothing(report: Recorder, silent_address: Address) -> None:
    with pytest.raises(Failure, match=r"^no peer proved the .* within 0\.1 s$") as caught:
        await lookup(report, Host().errand(address=silent_address, timeout=0.1))
    assert caught.value.code == Exit.UNPROVEN
    assert report.events == []


async def test_where_nobody_listens(report: Recorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = TcpAddress(*listener.getsockname())
    with pytest.raises(Failure) as caught:
        await lookup(report, Host().errand(address=address))
    assert str(caught.value) == f"cannot connect to {address}: Connection refused"
    assert caught.value.code == Exit.FAILED


async def test_a_peer_with_another_key_than_expected(report: Recorder) -> None:
    async with visited(Host()) as host:
        with pytest.raises(Failure, match=r"expected a peer with the pinned key, got ") as caught:
            await lookup(report, host.errand(remote_key=OWN_KEYS.public_key))
        assert caught.value.code == Exit.FAILED


async def test_a_peer_who_is_not_on_the_list(report: Recorder) -> None:
    async with visited(Host()) as host:
        with pytest.raises(Failure, match="the firewall refused the peer") as caught:
            await lookup(report, host.errand(allowed=[OWN_KEYS.public_key]))
        assert caught.value.code == Exit.FAILED
        (line,) = report.lines
        assert (line.event, line.fields) == ("refused", {"peer": HOST_KEYS.public_key.hex()})


async def test_a_peer_who_refuses_us(report: Recorder) -> None:
    async with visited(Host(), firewall=lambda key: True) as host:
        with pytest.raises(Failure) as caught:
            await lookup(report, host.errand())
        assert caught.value.code == Exit.FAILED
        assert "peer_added" not in report.events


async def test_a_peer_who_hangs_up_before_it_proved_anything(report: Recorder) -> None:
    async with visited(Host(b"x" * 32), lambda stream: stream.close()) as host:
        with pytest.raises(Failure, match=r"^the peer has left before it was done$") as caught:
            await lookup(report, host.errand())
        assert caught.value.code == Exit.FAILED


async def test_a_peer_who_leaves_the_topic_instead_of_answering(report: Recorder) -> None:
    def leave(_lookup: Lookup, _peer: Peer, session: Session) -> None:
        session.destroy()
        host.wakeup.destroy()

    host = Host(on_lookup=leave)
    async with visited(host):
        with pytest.raises(Failure, match=r"^the peer has left before it was done$") as caught:
            await lookup(report, host.errand())
        assert caught.value.code == Exit.FAILED


async def test_a_peer_who_comes_and_goes_in_one_frame(report: Recorder) -> None:
    host = Host(on_peer_add=lambda peer, session: gone(peer))

    def gone(peer: Peer) -> None:
        host.wakeup.destroy()
        Protomux.of(peer.stream).uncork()

    async with visited(host, cork):
        with pytest.raises(Failure, match=r"^the peer has left before it was done$"):
            await lookup(report, host.errand())
    assert report.events == ["connected", "peer_added"]


async def test_a_connection_that_breaks(report: Recorder) -> None:
    async with visited(Host(on_lookup=lambda lookup, peer, session: reset(peer.stream))) as host:
        with pytest.raises(Failure, match=r"^the connection was lost: ") as caught:
            await lookup(report, host.errand())
        assert caught.value.code == Exit.FAILED


async def test_an_announce_is_taken(report: Recorder) -> None:
    taken: list[list[Writer]] = []
    host = Host(on_announce=lambda writers, peer, session: taken.append(writers))
    async with visited(host):
        assert await announce(report, host.errand(), [A, Writer(A.key, 9), B]) == Exit.DONE
        assert taken == [[Writer(A.key, 9), B]]
        assert report.events == ["connected", "peer_added", "announce_sent"]
        assert report.lines[-1].writers == taken[0]
        assert report.lines[-1].fields == {"peer": HOST_KEYS.public_key.hex()}


async def test_an_announce_of_what_stdin_says(report: Recorder, tmp_path: Path) -> None:
    taken: list[list[Writer]] = []
    path = tmp_path / "logs"
    path.write_text(json.dumps({"key": B.key.hex(), "length": B.length}))
    host = Host(on_announce=lambda writers, peer, session: taken.append(writers))
    async with visited(host):
        with path.open("rb") as file:
            assert await announce(report, host.errand(), [A], file.fileno()) == Exit.DONE
    assert taken == [[A, B]]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("", ["expected a log to announce, stdin had none"]),
        (
            "bad\nworse\n",
            [
                """stdin, line 1: expected {"key": HEX, "length": NUMBER}, got 'bad'""",
                """stdin, line 2: expected {"key": HEX, "length": NUMBER}, got 'worse'""",
                "announced nothing, for 2 bad lines",
            ],
        ),
    ],
)
async def test_where_stdin_is_unclear_nothing_is_announced(
    report: Recorder, tmp_path: Path, text: str, messages: list[str]
) -> None:
    path = tmp_path / "logs"
    path.write_text(text)
    with path.open("rb") as file, pytest.raises(Failure) as caught:
        await announce(report, Host().errand(), [], file.fileno())
    assert caught.value.code == Exit.USAGE
    assert [*report.messages, str(caught.value)] == messages
    assert report.lines == []


async def test_a_stdin_that_cannot_be_read(report: Recorder, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(Failure, match=r"^cannot read stdin: Is a directory$") as caught:
        await announce(report, Host().errand(), [], directory)
    os.close(directory)
    assert caught.value.code == Exit.FAILED


async def test_too_many_logs(report: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "MOST_LOGS", 1)
    with pytest.raises(Failure, match=r"^expected at most 1 logs") as caught:
        await announce(report, Host().errand(), [A, B])
    assert caught.value.code == Exit.USAGE


async def test_an_announce_that_the_peer_does_not_take(report: Recorder) -> None:
    host = Host(on_peer_add=lambda peer, session: peer.stream.pause_reading())
    async with visited(host):
        with pytest.raises(Failure, match=r"^the peer did not take it all within 1 s$") as caught:
            await announce(report, host.errand(timeout=1.0), [A])
        assert caught.value.code == Exit.FAILED
        assert report.events == ["connected", "peer_added"]


async def test_an_announce_that_breaks_off(report: Recorder) -> None:
    host = Host(on_peer_add=lambda peer, session: peer.stream.pause_reading())
    async with visited(host):
        task = asyncio.create_task(announce(report, host.errand(), [A]))
        await report.heard("peer_added")
        reset(host.streams[0])
        with pytest.raises(
            Failure, match=r"^the peer did not take it all: the connection was lost"
        ):
            await task


async def test_a_unix_socket(report: Recorder, tmp_path: Path) -> None:
    path = tmp_path / "wakeup.sock"
    host = Host(on_lookup=answers(A))
    async with await start_unix_server(host.welcome, path):
        assert await lookup(report, host.errand(address=UnixAddress(str(path)))) == Exit.DONE
        assert await close_streams(host.streams)
    assert report.lines[0].fields["address"] == f"unix:{path}"
    assert report.lines[-1].writers == [A]


async def test_a_visit_can_be_cut_short(report: Recorder) -> None:
    async with visited(Host()) as host:
        task = asyncio.create_task(lookup(report, host.errand()))
        await report.heard("lookup_sent")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await host.streams[0].wait_closed()
        assert host.streams[0].error is None
