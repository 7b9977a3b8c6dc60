"""A whole conversation: handshake, headers, opens of all kinds, lookup, announce, info, closes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from protomux import Channel, KeyPair, Protomux, ProtomuxError
from protomux.crypto import discovery_key
from protomux.encoding import string
from protomux.streams import SecretStream, open_connection, start_server
from protomux_wakeup import Announced, Lookup, Peer, PeerAdded, Session, Wakeup

KNOWN, WOKEN, UNKNOWN = (bytes([number]) * 32 for number in range(3))
SERVER_KEYS, CLIENT_KEYS = (KeyPair.generate(bytes([number]) * 32) for number in (8, 9))
LOG = (b"L" * 32, 1000)


class Host:
    """The server's side; its `Wakeup` is shared by all that come.

    Attributes:
        port: where it listens.
        streams: those that came.
        texts: what they said.
    """

    port: int

    def __init__(self) -> None:
        self.wakeup = Wakeup(self._woken)
        self.streams: list[SecretStream] = []
        self.lost = 0
        self.texts: list[str] = []

    async def start(self, pattern: str) -> None:
        self.wakeup.session(KNOWN, on_lookup=self._answer)
        self.server = await start_server(
            self._serve, "127.0.0.1", key_pair=SERVER_KEYS, pattern=pattern, firewall=self._admit
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Fail if anything of the clients is left; then stop."""
        self.server.close()
        await self.server.wait_closed()
        for stream in self.streams:
            await stream.wait_closed()
            assert stream.error is None or isinstance(stream.error, ProtomuxError)
        assert self.lost == len(self.streams)
        assert not list(self.wakeup.muxes)
        for topic in self.wakeup.topics.values():
            assert topic.peers == topic.pending_peers == ()
        assert self.wakeup.stats.peers_added == self.wakeup.stats.peers_removed
        self.wakeup.destroy()

    async def _admit(self, _key: bytes) -> bool:
        await asyncio.sleep(0)
        return False

    async def _serve(self, stream: SecretStream) -> None:
        try:
            self.wakeup.add_stream(stream)
        except RuntimeError:  # it was destroyed meanwhile
            stream.abort()
            return
        self.streams.append(stream)
        mux = Protomux.of(stream)

        async def pair(id: bytes | None) -> None:
            await (asyncio.sleep(0) if id == b"room" else asyncio.Event().wait())
            chat = mux.create_channel("chat", id, messages=[(string, self._heard)])
            if chat is not None:
                chat.open()

        mux.pair("chat", callback=pair)
        mux.add_close_callback(self._lost)
        await stream.wait_closed()
        assert not list(mux)

    def _lost(self, error: Exception | None) -> None:
        assert error is None or isinstance(error, ProtomuxError)
        self.lost += 1

    def _heard(self, text: str, channel: Channel) -> None:
        self.texts.append(text)
        channel.messages[0].send(text.upper())

    async def _woken(self, id: bytes, _mux: Protomux) -> None:
        if id != discovery_key(WOKEN):
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        if not self.wakeup.get_sessions(WOKEN):
            self.wakeup.session(WOKEN)

    async def _answer(self, _lookup: Lookup, peer: Peer, session: Session) -> None:
        await asyncio.sleep(0)
        session.announce(peer, [LOG])


async def visit(port: int, pattern: str) -> str:
    """Be a client: connect, talk, and leave; return how far that came.

    Every wait of ours is waited on by a task of its own; all of them must end.
    """
    options: dict[str, Any] = {"key_pair": CLIENT_KEYS, "pattern": pattern}
    if pattern != "XX":
        options["remote_public_key"] = SERVER_KEYS.public_key
    try:
        stream = await open_connection("127.0.0.1", port, **options)
    except (ProtomuxError, ConnectionError):
        return "refused"
    wakeup = Wakeup()
    wakeup.add_stream(stream)
    mux = Protomux.of(stream)
    known, woken, unknown = (wakeup.session(secret) for secret in (KNOWN, WOKEN, UNKNOWN))
    heard: list[str] = []
    chat = mux.create_channel("chat", b"room", messages=[(string, lambda t, _: heard.append(t))])
    assert chat is not None
    chat.open()
    chat.messages[0].send("hello")
    never = mux.create_channel("chat", b"never")
    assert never is not None
    never.open()

    async def talk() -> str:
        """Read events until the session has ended."""
        stage = "connected"
        async for event in known.events():
            if isinstance(event, PeerAdded):
                stage = "proven"
                known.lookup(event.peer)
            elif isinstance(event, Announced):
                assert event.writers == [LOG]
                stage = "announced"
                await chat.wait_opened()
                known.inactive()
                woken.destroy()
                chat.close()
                stream.close()
        return stage

    async def leave() -> None:
        await stream.wait_closed()
        wakeup.destroy()

    async with asyncio.TaskGroup() as group:
        talking = group.create_task(talk())
        group.create_task(leave())
        for wait in (
            stream.wait_opened,
            chat.wait_opened,
            chat.wait_closed,
            never.wait_opened,
            never.wait_closed,
        ):
            group.create_task(_settle(wait()))
    assert chat.is_destroyed
    assert stream.error is None or isinstance(stream.error, ProtomuxError)
    assert not list(mux)
    assert unknown.peers == known.peers == ()
    return talking.result()


async def _settle(wait: Any) -> None:
    with suppress(ProtomuxError):  # a typed error is an answer
        await wait
