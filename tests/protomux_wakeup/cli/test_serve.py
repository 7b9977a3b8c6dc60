from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from protomux import KeyPair
from protomux.streams import SecretStream, open_connection, open_unix_connection
from protomux_wakeup import (
    Announced,
    Event,
    PeerActive,
    PeerAdded,
    Session,
    Wakeup,
    Writer,
)
from protomux_wakeup.address import Address, TcpAddress, UnixAddress
from protomux_wakeup.cli import logs
from protomux_wakeup.cli.process import Failure
from protomux_wakeup.cli.serve import serve
from protomux_wakeup.endpoint import close_streams

from .recorder import LIMIT, Recorder

CAPABILITY = b"c" * 32
A, B = Writer(b"a" * 32, 1), Writer(b"b" * 32, 2)
LOOPBACK = TcpAddress("127.0.0.1", 0)
KEY_PAIR = KeyPair.generate(b"s" * 32)


class Visitor:
    """A peer who comes by."""

    def __init__(self, stream: SecretStream, capability: bytes = CAPABILITY) -> None:
        self.stream = stream
        self.wakeup = Wakeup()
        self.session: Session = self.wakeup.session(capability)
        self.events = self.session.events()
        self.wakeup.add_stream(stream)

    async def sees(self, *kinds: type[Event]) -> list[Event]:
        async with asyncio.timeout(LIMIT):
            seen = [await anext(self.events) for _ in kinds]
        assert [type(event) for event in seen] == list(kinds)
        return seen

    async def told(self) -> list[Writer]:
        async with asyncio.timeout(LIMIT):
            async for event in self.events:
                if isinstance(event, Announced):
                    return event.writers
        raise AssertionError("the session has ended")

    async def leave(self) -> None:
        self.wakeup.destroy()
        assert await close_streams([self.stream])


class Serving:
    """`serve`, running."""

    def __init__(self, report: Recorder, port: int) -> None:
        self.report = report
        self.port = port

    async def visitor(
        self, capability: bytes = CAPABILITY, key_pair: KeyPair | None = None
    ) -> Visitor:
        stream = await open_connection("127.0.0.1", self.port, key_pair=key_pair)
        return Visitor(stream, capability)


@asynccontextmanager
async def serving(
    address: Address = LOOPBACK,
    *,
    writers: Iterable[Writer] = (),
    allowed: Collection[bytes] = (),
    feed: int | None = None,
) -> AsyncIterator[Serving]:
    report = Recorder()
    task = asyncio.create_task(
        serve(
            report,
            address=address,
            capability=CAPABILITY,
            key_pair=KEY_PAIR,
            writers=writers,
            allowed=allowed,
            feed=feed,
        )
    )
    listening = await report.heard("listening")
    try:
        yield Serving(report, cast(int, listening.fields.get("port", 0)))
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_it_says_where_it_listens_and_as_whom() -> None:
    async with serving() as host:
        (line,) = host.report.lines
        assert line.fields == {
            "address": f"127.0.0.1:{host.port}",
            "host": "127.0.0.1",
            "port": host.port,
            "public_key": KEY_PAIR.public_key.hex(),
            "topic": Wakeup().session(CAPABILITY).topic.id.hex(),
        }


async def test_a_peer_is_greeted_with_all_that_is_known() -> None:
    async with serving(writers=[A, Writer(A.key, 0), B]) as host:
        visitor = await host.visitor()
        assert await visitor.told() == [A, B]
        sent = await host.report.heard("announce_sent")
        key = visitor.stream.public_key
        assert key is not None
        assert sent.fields == {"peer": key.hex(), "logs": 2}
        await visitor.leave()
        await host.report.heard("disconnected")
        assert host.report.events == [
            "listening",
            "connected",
            "peer_added",
            "announce_sent",
            "peer_active",
            "peer_inactive",
            "peer_removed",
            "disconnected",
        ]
        assert host.report.lines[-1].fields == {"peer": key.hex(), "error": None}


async def test_a_lookup_is_answered_even_with_nothing() -> None:
    async with serving() as host:
        visitor = await host.visitor()
        (added, _) = await visitor.sees(PeerAdded, PeerActive)
        visitor.session.lookup(added.peer)
        assert await visitor.told() == []
        line = await host.report.heard("lookup_received")
        assert line.fields["hash"] is None
        assert line.details == []
        visitor.session.lookup(added.peer, b"h" * 32)
        assert await visitor.told() == []
        line = await host.report.heard("lookup_received", 2)
        assert line.fields["hash"] == b"h".hex() * 32
        assert line.details == [f"hash {b'h'.hex() * 32}"]
        await visitor.leave()


async def test_what_peers_say_is_shown() -> None:
    async with serving() as host:
        visitor = await host.visitor()
        (added, _) = await visitor.sees(PeerAdded, PeerActive)
        visitor.session.announce(added.peer, [A, B])
        line = await host.report.heard("announce_received")
        assert line.writers == [A, B]
        visitor.session.inactive()
        await host.report.heard("peer_inactive")
        visitor.session.active()
        await host.report.heard("peer_active", 2)
        await visitor.leave()


async def test_news_of_stdin_goes_to_every_peer() -> None:
    reader, writer = os.pipe()
    async with serving(writers=[A], feed=reader) as host:
        first, second = await host.visitor(), await host.visitor()
        assert await first.told() == await second.told() == [A]
        lines = [A, Writer(A.key, 7), B, Writer(A.key, 6), Writer(A.key, 9)]
        text = "".join(json.dumps({"key": w.key.hex(), "length": w.length}) + "\n" for w in lines)
        os.write(writer, text.encode())
        news = [Writer(A.key, 9), B]
        assert await first.told() == await second.told() == news
        line = await host.report.heard("news")
        assert line.writers == news
        assert {*cast(list[str], line.fields["peers"])} == {
            cast(bytes, visitor.stream.public_key).hex() for visitor in (first, second)
        }
        third = await host.visitor()
        assert await third.told() == news
        for visitor in (first, second, third):
            await visitor.leave()
    os.close(writer)
    os.close(reader)


async def test_a_bad_line_is_reported_and_serving_goes_on() -> None:
    reader, writer = os.pipe()
    async with serving(feed=reader) as host:
        good = json.dumps({"key": B.key.hex(), "length": B.length})
        os.write(writer, f"nonsense\n{good}\n{good}\n".encode())
        complaint = await host.report.complained()
        assert complaint.kind == "error"
        assert complaint.message.startswith("stdin, line 1: expected {")
        assert complaint.fields == {"line": 1}
        assert (await host.report.heard("news")).writers == [B]
        os.close(writer)
        await host.report.heard("stdin_ended")
        visitor = await host.visitor()
        assert await visitor.told() == [B]
        await visitor.leave()
        assert host.report.events.count("news") == 1
    os.close(reader)


async def test_a_stdin_that_cannot_be_read_is_reported_and_serving_goes_on(
    tmp_path: Path,
) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    async with serving(writers=[A], feed=directory) as host:
        complaint = await host.report.complained()
        assert complaint.message == "cannot read stdin: Is a directory"
        visitor = await host.visitor()
        assert await visitor.told() == [A]
        await visitor.leave()
    os.close(directory)


async def test_logs_beyond_the_bound_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MOST_LOGS", 1)
    async with serving(writers=[A, B]) as host:
        assert host.report.messages == [f"expected at most 1 logs, left out {B.key.hex()}"]


async def test_the_firewall_lets_in_only_who_is_listed() -> None:
    friend, stranger = KeyPair.generate(), KeyPair.generate()
    async with serving(writers=[A], allowed={friend.public_key}) as host:
        visitor = await host.visitor(key_pair=friend)
        assert await visitor.told() == [A]
        stream = await open_connection("127.0.0.1", host.port, key_pair=stranger)
        await stream.wait_closed()
        refused = await host.report.heard("refused")
        assert refused.fields == {"peer": stranger.public_key.hex()}
        await visitor.leave()
        assert host.report.events.count("connected") == 1


async def test_a_peer_of_another_topic_is_no_peer() -> None:
    async with serving(writers=[A]) as host:
        visitor = await host.visitor(capability=b"x" * 32)
        line = await host.report.heard("topic_unknown")
        key = visitor.stream.public_key
        assert key is not None
        assert line.fields == {"peer": key.hex(), "topic": visitor.session.topic.id.hex()}
        await visitor.leave()
        await host.report.heard("disconnected")
        assert "peer_added" not in host.report.events


async def test_a_peer_may_leave_without_a_word() -> None:
    async with serving(writers=[A]) as host:
        report = host.report
        visitor = await host.visitor()
        await visitor.told()
        visitor.stream.abort()
        line = await report.heard("disconnected")
        assert report.events[-2:] == ["peer_removed", "disconnected"]
        assert line.fields["peer"] == cast(bytes, visitor.stream.public_key).hex()


async def test_a_lost_connection_is_shown_with_its_reason() -> None:
    async with serving(writers=[A]) as host:
        visitor = await host.visitor()
        await visitor.told()
        assert visitor.stream.transport is not None
        plug = visitor.stream.transport.get_extra_info("socket")
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        visitor.stream.abort()
        line = await host.report.heard("disconnected")
        assert "the connection was lost" in str(line.fields["error"])
        assert str(line.fields["error"]) in line.text


async def test_it_leaves_its_peers_in_order() -> None:
    async with serving() as host:
        visitor = await host.visitor()
        await visitor.sees(PeerAdded, PeerActive)
    await visitor.stream.wait_closed()
    assert visitor.stream.error is None
    assert host.report.events[-1] == "disconnected"


async def test_a_port_in_use_is_a_failure() -> None:
    async with serving() as host:
        with pytest.raises(Failure, match=rf"^cannot listen on 127.0.0.1:{host.port}: Address "):
            await serve(
                Recorder(),
                address=TcpAddress("127.0.0.1", host.port),
                capability=CAPABILITY,
                key_pair=KEY_PAIR,
            )


async def test_a_unix_socket_and_its_file(tmp_path: Path) -> None:
    path = tmp_path / "wakeup.sock"
    async with serving(UnixAddress(str(path)), writers=[A]) as host:
        (line,) = host.report.lines
        assert line.fields["address"] == f"unix:{path}"
        assert line.fields["path"] == str(path)
        visitor = Visitor(await open_unix_connection(path))
        assert await visitor.told() == [A]
        await visitor.leave()
    assert not path.exists()


@pytest.mark.parametrize("is_taken_over", [True, False])
async def test_the_file_of_another_is_left_alone(tmp_path: Path, is_taken_over: bool) -> None:
    path = tmp_path / "wakeup.sock"
    async with serving(UnixAddress(str(path))):
        path.rename(tmp_path / "moved.sock")
        if is_taken_over:
            path.touch()
    assert path.exists() is is_taken_over


async def test_ipv6() -> None:
    async with serving(TcpAddress("::1", 0), writers=[A]) as host:
        assert host.report.lines[0].fields["address"] == f"[::1]:{host.port}"
        visitor = Visitor(await open_connection("::1", host.port))
        assert await visitor.told() == [A]
        assert str((await host.report.heard("connected")).fields["address"]).startswith("[::1]:")
        await visitor.leave()
