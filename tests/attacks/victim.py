"""The victim: a wakeup service as an application would write it, which also tells how it is.

    python -m tests.attacks.victim CONFIG

CONFIG is a JSON object: `capability`, `late` and `mark` (hex; see `attack.Secrets` and
`attack.MARK`), and `limits` (fields of `protomux_wakeup.Limits`). It prints a line with `port`,
`ik_port` and `public_key`, answers every line on stdin with a line that counts what is there, and
ends with its stdin. A line is a JSON object: `{"flows": [[id, remote id, port], ...]}` opens
streams over UDP and is answered with the `port` of their socket, `{"flows": null}` closes them.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import sys
from collections import Counter
from typing import Any, Final

from protomux import Channel, Protomux, StreamClosed
from protomux.crypto import KeyPair, discovery_key
from protomux.encoding import raw
from protomux.streams import SecretStream, start_server
from protomux.streams.secret import SecretStreamOptions
from protomux.udx import Socket, create_socket
from protomux_wakeup import Limits, Lookup, Peer, Rate, Session, Wakeup, Writer

LOGS: Final = [Writer(bytes([number]) * 32, 1000 + number) for number in range(100)]
LATE: Final = 0.05
"""Seconds that a slow callback takes."""


FLOW: Final = 2**24
"""Bytes that are written to each stream over UDP."""


class Victim:
    """The application: two protocols beside wakeup, and its own count of what happens.

    "sink" is paired at once and takes messages. "async-pair" has an async pair callback, which
    pairs late, never ends, or lets the open be rejected, as the id begins.
    """

    def __init__(self, secrets: list[bytes], mark: bytes, limits: Limits) -> None:
        self.errors: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self.messages = 0
        self.flows = self.flow_bytes = 0
        self._socket: Socket | None = None
        self._wakeup = Wakeup(self._woken, limits=limits)
        self._limits = limits
        self._mark = mark
        self._late = {discovery_key(secret): secret for secret in secrets}
        self._at_once = {discovery_key(secret) for secret in secrets[::2]}

    def open(self, capability: bytes) -> None:
        """Take interest in a topic."""
        self._wakeup.session(capability, self)

    def on_stream(self, stream: SecretStream) -> None:
        """A peer has connected."""
        mux = Protomux.of(stream, limits=self._limits)
        mux.add_close_callback(self._lost)
        mux.pair("sink", callback=lambda id: self._sink(mux, id))
        mux.pair("async-pair", callback=lambda id: self._pair(mux, id))
        self._wakeup.add_stream(stream)

    def _lost(self, error: Exception | None) -> None:
        if error is not None and not isinstance(error, StreamClosed):  # that was the peer's doing
            self.errors[type(error).__name__] += 1

    def _sink(self, mux: Protomux, id: bytes | None) -> None:
        channel = mux.create_channel("sink", id, unique=False, messages=[(raw, self._took)])
        if channel is not None:
            channel.open()

    def _took(self, _value: bytes, _channel: Channel) -> None:
        self.messages += 1

    async def _pair(self, mux: Protomux, id: bytes | None) -> None:
        if id is None or id.startswith(b"reject"):
            await asyncio.sleep(0)
        elif id.startswith(b"late"):
            await asyncio.sleep(LATE)
            channel = mux.create_channel("async-pair", id, unique=False)
            if channel is not None:
                channel.open()
        else:
            await asyncio.Event().wait()

    def _woken(self, id: bytes, _mux: Protomux) -> object:
        if id not in self._late:
            return None
        if id not in self._at_once:
            return self._open_late(id)
        self.open(self._late[id])
        return None

    async def _open_late(self, id: bytes) -> None:
        await asyncio.sleep(LATE)
        self.open(self._late[id])

    # The hooks

    def on_lookup(self, lookup: Lookup, peer: Peer, session: Session) -> None:
        """A peer asks."""
        self._hear(lookup.hash)
        session.announce(peer, LOGS)

    def on_announce(self, writers: list[Writer], _peer: Peer, _session: Session) -> None:
        """A peer tells."""
        if writers:
            self._hear(writers[0].key)

    def on_peer_active(self, _peer: Peer, _session: Session) -> None:
        """A peer wants news."""

    def on_peer_inactive(self, _peer: Peer, _session: Session) -> None:
        """A peer wants none."""

    def _hear(self, key: bytes | None) -> None:
        if key is not None and key.startswith(self._mark):
            self.heard[key.hex()] += 1

    def handshake_failed(self, record: logging.LogRecord) -> bool:
        """Count a peer that did not get as far as `on_stream`; the server logs it, no more."""
        for argument in record.args or ():
            if isinstance(argument, Exception):
                self.errors[type(argument).__name__] += 1
        return False

    # Streams over UDP

    async def commanded(self, command: dict[str, Any]) -> dict[str, Any]:
        """Open or close streams over UDP; or tell how it is."""
        if "flows" not in command:
            return self.status()
        if self._socket is not None:
            self._socket.close()
            await self._socket.wait_closed()
            self._socket = None
        self.flows, self.flow_bytes = 0, 0
        if command["flows"] is None:
            return {}
        self._socket = await create_socket("127.0.0.1")
        for id, remote_id, port in command["flows"]:
            transport = self._socket.create_stream(id, _Flow(self))
            transport.connect(remote_id, "127.0.0.1", port)
            transport.write(bytes(FLOW))
        return {"port": self._socket.address[1]}

    def status(self) -> dict[str, Any]:
        """Count what is alive in this process."""
        gc.collect()
        kinds = Counter(type(each) for each in gc.get_objects())
        return {
            "streams": sum(
                count for kind, count in kinds.items() if issubclass(kind, SecretStream)
            ),
            "muxes": kinds[Protomux],
            "channels": kinds[Channel],
            "peers": kinds[Peer],
            "tasks": len(asyncio.all_tasks()),
            "sockets": len(os.listdir("/proc/self/fd")),
            "errors": self.errors,
            "heard": self.heard,
            "messages": self.messages,
            "flows": self.flows,
            "flow_bytes": self.flow_bytes,
        }


class _Flow(asyncio.Protocol):
    """Counts a stream over UDP, and what comes of it."""

    def __init__(self, victim: Victim) -> None:
        self._victim = victim

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._victim.flows += 1

    def data_received(self, data: bytes) -> None:
        self._victim.flow_bytes += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._victim.flows -= 1


async def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    key_pair = KeyPair.generate()
    given: dict[str, Any] = config["limits"]
    bounds: dict[str, Any] = {
        name: Rate(*value) if isinstance(value, list) else value for name, value in given.items()
    }
    limits = Limits(**bounds)
    late = [bytes.fromhex(each) for each in config["late"]]
    victim = Victim(late, bytes.fromhex(config["mark"]), limits)
    victim.open(bytes.fromhex(config["capability"]))
    log = logging.getLogger("protomux")
    log.setLevel(logging.DEBUG)
    log.addFilter(victim.handshake_failed)
    options: SecretStreamOptions = {"limits": limits, "key_pair": key_pair}
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with (
        await start_server(victim.on_stream, "127.0.0.1", **options) as server,
        await start_server(
            victim.on_stream, "127.0.0.1", **options | {"pattern": "IK"}
        ) as ik_server,
    ):
        ports = {"port": server, "ik_port": ik_server}
        where = {name: each.sockets[0].getsockname()[1] for name, each in ports.items()}
        say({**where, "public_key": key_pair.public_key.hex()})
        async for line in lines:
            say(await victim.commanded(json.loads(line)))


def say(line: dict[str, Any]) -> None:
    """Print a line."""
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
