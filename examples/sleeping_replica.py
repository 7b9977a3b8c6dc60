"""A replica that sleeps until it is woken: no polling, no timer, yet never far behind.

The writer keeps append-only logs and announces those that grow. The replica waits for announces.
One with a greater length than it has wakes it: it goes inactive, which spares it more of them
while it is busy, fetches what it lacks over a protocol of its own ("example/log", on the stream
that it shares with the writer anyway), goes active, asks what came meanwhile, and sleeps again.

    export WAKEUP_CAPABILITY=$(python -c "import secrets; print(secrets.token_hex(32))")
    python examples/sleeping_replica.py write writer.db 4000
    python examples/sleeping_replica.py replicate replica.db 4000

Type lines like `diary Dear diary!` at the writer: the first word names a log, and the rest is
appended to it. Ctrl-C stops either side; a replica that was away catches up when it is back. Real
logs are signed by their writers. These are not: a replica trusts who knows the capability.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
from contextlib import closing, suppress
from typing import Any

from protomux import Channel, ProtocolError, Protomux, StreamClosed, crypto
from protomux.encoding import Encoding, array, buffer, fixed32, uint
from protomux.streams import open_connection, start_server
from protomux_wakeup import Announced, Lookup, Peer, PeerAdded, Session, Wakeup, Writer

HOST = "127.0.0.1"
PROTOCOL = "example/log"
MOST_BLOCKS = 64  # in a reply: of the 64 KiB that a line can have, so that it fits a frame


class Record:
    """Encoding of a tuple, made of the encodings of its fields."""

    def __init__(self, *fields: Encoding[Any]) -> None:
        self.fields = fields

    def encode(self, value: tuple[Any, ...], /) -> bytes:
        pairs = zip(self.fields, value, strict=True)
        return b"".join(field.encode(item) for field, item in pairs)

    def decode(self, data: bytes, start: int, end: int, /) -> tuple[tuple[Any, ...], int]:
        items = []
        for field in self.fields:
            item, start = field.decode(data, start, end)
            items.append(item)
        return tuple(items), start


REQUEST = Record(fixed32, uint)  # key of a log, first block wanted
REPLY = Record(fixed32, uint, array(buffer))  # the same, and blocks from there on


class Logs:
    """Append-only logs in an SQLite file, by their 32-byte keys."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path)
        # A commit must not wait for the disk: the event loop would wait with it.
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS block (log, seq, data, PRIMARY KEY (log, seq))"
        )
        self.lengths: dict[bytes, int] = dict(
            self._db.execute("SELECT log, count(*) FROM block GROUP BY log")
        )

    def close(self) -> None:
        self._db.close()

    def append(self, key: bytes, blocks: list[bytes]) -> int:
        """Append to a log and return its new length."""
        start = self.lengths.get(key, 0)
        with self._db:
            self._db.executemany(
                "INSERT INTO block VALUES (?, ?, ?)",
                [(key, seq, block) for seq, block in enumerate(blocks, start)],
            )
        self.lengths[key] = start + len(blocks)
        return self.lengths[key]

    def read(self, key: bytes, start: int) -> list[bytes]:
        query = "SELECT data FROM block WHERE log = ? AND seq >= ? ORDER BY seq LIMIT ?"
        return [data for (data,) in self._db.execute(query, (key, start, MOST_BLOCKS))]


def serve_blocks(logs: Logs, mux: Protomux) -> None:
    """Answer the requests of one peer."""
    channel = mux.create_channel(PROTOCOL)
    if channel is not None:  # else it has one already, and is refused another
        request = channel.add_message(REQUEST)
        reply = channel.add_message(REPLY)
        request.on_message = lambda wanted, _: reply.send((*wanted, logs.read(*wanted)))
        channel.open()


class Fetcher:
    """Fetches blocks from one peer, one request at a time."""

    def __init__(self, mux: Protomux) -> None:
        channel = mux.create_channel(PROTOCOL, on_close=self._on_close)
        if channel is None:
            raise StreamClosed("the stream has closed")
        self._channel = channel
        self._request = channel.add_message(REQUEST)
        channel.add_message(REPLY, self._on_reply)
        channel.open()
        self._wanted: tuple[bytes, int] | None = None
        self._blocks: asyncio.Future[list[bytes]]

    async def fetch(self, key: bytes, start: int) -> list[bytes]:
        """Return blocks of a log from `start` on, at least one."""
        if self._channel.is_closed:
            raise StreamClosed("the peer serves no logs")
        self._wanted = (key, start)
        self._blocks = asyncio.get_running_loop().create_future()
        self._request.send(self._wanted)
        return await self._blocks

    def _on_reply(self, reply: tuple[bytes, int, list[bytes]], channel: Channel) -> None:
        key, start, blocks = reply
        if (key, start) != self._wanted or not blocks:
            raise ProtocolError("expected the blocks that were asked for")  # ends the stream
        self._wanted = None
        if not self._blocks.done():  # nobody waits any more when we are being stopped
            self._blocks.set_result(blocks)

    def _on_close(self, is_remote: bool, channel: Channel) -> None:
        if self._wanted is not None and not self._blocks.done():
            self._blocks.set_exception(StreamClosed("the peer closed its logs"))


async def write(logs: Logs, capability: bytes, port: int) -> None:
    """Append the lines of stdin, announce them, and serve blocks."""

    def on_peer_add(peer: Peer, session: Session) -> None:
        # Not before: who has not proved the capability finds no log protocol on the mux.
        mux = Protomux.of(peer.stream)
        mux.pair(PROTOCOL, callback=lambda _id: serve_blocks(logs, mux))

    def on_lookup(lookup: Lookup, peer: Peer, session: Session) -> None:
        session.announce(peer, logs.lengths.items())

    wakeup = Wakeup()
    session = wakeup.session(capability, on_peer_add=on_peer_add, on_lookup=on_lookup)
    server = await start_server(wakeup.add_stream, HOST, port)
    print(f"writing on port {server.sockets[0].getsockname()[1]}")
    lines = asyncio.StreamReader()
    stdin, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    try:
        async for line in lines:
            name, _, text = line.strip().partition(b" ")
            key = crypto.hash(name)
            writer = Writer(key, logs.append(key, [text]))
            for peer in session.peers:
                if peer.is_active:  # who is busy asks when it is done
                    session.announce(peer, [writer])
        await asyncio.Event().wait()  # stdin has ended; go on serving
    finally:
        stdin.close()
        server.close()
        streams = [mux.stream for mux in wakeup.muxes]
        for stream in streams:
            stream.close()
        await asyncio.gather(*(stream.wait_closed() for stream in streams))
        wakeup.destroy()


async def replicate(logs: Logs, capability: bytes, port: int) -> None:
    """Sleep, wake, fetch, and sleep again, until the writer is gone."""
    stream = await open_connection(HOST, port)
    print("connected")
    wakeup = Wakeup()
    session = wakeup.session(capability)
    events = session.events()
    wakeup.add_stream(stream)
    Protomux.of(stream).add_close_callback(lambda _error: session.destroy())  # ends the events
    try:
        with suppress(StreamClosed):
            async for event in events:
                match event:
                    case PeerAdded(peer):
                        peer.user_data = Fetcher(Protomux.of(peer.stream))
                        print("the writer is there, asking what is new")
                        session.lookup(peer)
                    case Announced(peer, writers):
                        await catch_up(logs, session, peer, writers)
    finally:
        stream.close()
        await stream.wait_closed()
        wakeup.destroy()
    print(f"the writer is gone: {stream.error or 'it has closed'}")


async def catch_up(logs: Logs, session: Session, peer: Peer, writers: list[Writer]) -> None:
    """Fetch what `writers` have more than we do."""
    behind = [each for each in writers if each.length > logs.lengths.get(each.key, 0)]
    if not behind:
        print("nothing new, asleep")
        return
    print(f"awake, logs to fetch from: {len(behind)}")
    session.inactive()
    for key, length in behind:
        start = have = logs.lengths.get(key, 0)
        while have < length:
            have = logs.append(key, await peer.user_data.fetch(key, have))
        print(f"fetched blocks {start} to {have - 1} of {key.hex()[:8]}")
    session.active()
    session.lookup(peer)


async def main(arguments: argparse.Namespace) -> None:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # as Ctrl-C does
    capability = bytes.fromhex(os.environ["WAKEUP_CAPABILITY"])
    role = write if arguments.role == "write" else replicate
    with closing(Logs(arguments.file)) as logs:
        await role(logs, capability, arguments.port)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", choices=["write", "replicate"])
    parser.add_argument("file", help="SQLite file, made if there is none")
    parser.add_argument("port", type=int)
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main(parser.parse_args()))
