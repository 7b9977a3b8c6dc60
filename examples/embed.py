"""A wakeup peer inside an asyncio service: one file, a server and a client.

Each side keeps a visitors' log, to which it appends whenever a peer arrives, and tells its peers.
It asks every new peer what has grown, and answers when it is asked. Copy from here: the hooks are
the methods of `Visitors`; the functions below it are what a service needs around them.

The capability is the secret that the peers share. Make one, and give it to both sides:

    export WAKEUP_CAPABILITY=$(python -c "import secrets; print(secrets.token_hex(32))")
    python examples/embed.py server --port 4000 --identity server.seed
    python examples/embed.py client --port 4000 --server-key KEY_THAT_THE_SERVER_PRINTS

WAKEUP_CAPABILITY_FILE may name a file with the capability instead. Ctrl-C or SIGTERM ends either
side in order.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal
from contextlib import suppress
from pathlib import Path

from protomux import KeyPair, Protomux
from protomux.streams import SecretStream, open_connection, start_server
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer

HOST = "127.0.0.1"


class Visitors:
    """What this service knows about logs, and what it does when peers call."""

    def __init__(self, own_key: bytes) -> None:
        self.own_key = own_key
        self.lengths: dict[bytes, int] = {own_key: 0}

    def on_peer_add(self, peer: Peer, session: Session) -> None:
        assert peer.remote_public_key is not None
        print(f"arrived {peer.remote_public_key.hex()}")
        self.lengths[self.own_key] += 1
        session.broadcast_announce([Writer(self.own_key, self.lengths[self.own_key])])
        session.lookup(peer)

    def on_peer_remove(self, peer: Peer, session: Session) -> None:
        assert peer.remote_public_key is not None
        print(f"left {peer.remote_public_key.hex()}")

    def on_lookup(self, lookup: Lookup, peer: Peer, session: Session) -> None:
        session.announce(peer, self.lengths.items())

    async def on_announce(self, writers: list[Writer], peer: Peer, session: Session) -> None:
        # A hook may be async. An announce is a hint: here a service would begin to fetch.
        for key, length in writers:
            if length > self.lengths.get(key, 0):
                self.lengths[key] = length
                print(f"grown {key.hex()} {length}")


def share(wakeup: Wakeup, stream: SecretStream) -> None:
    """Make a peer of whoever is at the other end."""
    wakeup.add_stream(stream)
    Protomux.of(stream).add_close_callback(report)


def report(error: Exception | None) -> None:
    """Say why a stream broke. It may have been an error in one of our own hooks."""
    if error is not None:
        logging.error("a peer was lost", exc_info=error)


async def serve(wakeup: Wakeup, key_pair: KeyPair, port: int) -> None:
    """Take in peers for ever."""
    async with await start_server(
        lambda stream: share(wakeup, stream), HOST, port, key_pair=key_pair
    ) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"listening on port {port}, server key {key_pair.public_key.hex()}")
        await asyncio.Event().wait()


async def visit(wakeup: Wakeup, key_pair: KeyPair, port: int, server_key: bytes | None) -> None:
    """Be the peer of one server until it goes."""
    stream = await open_connection(HOST, port, key_pair=key_pair, remote_public_key=server_key)
    share(wakeup, stream)
    await stream.wait_closed()


async def main(arguments: argparse.Namespace) -> None:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # as Ctrl-C does
    key_pair = read_key_pair(arguments.identity)
    wakeup = Wakeup()
    wakeup.session(read_capability(), Visitors(key_pair.public_key))
    try:
        if arguments.role == "server":
            await serve(wakeup, key_pair, arguments.port)
        else:
            await visit(wakeup, key_pair, arguments.port, arguments.server_key)
    finally:
        # Streams first: what was sent still leaves, and the hooks see every peer go.
        streams = [mux.stream for mux in wakeup.muxes]
        for stream in streams:
            stream.close()
        await asyncio.gather(*(stream.wait_closed() for stream in streams))
        wakeup.destroy()
        print("stopped")


def read_capability() -> bytes:
    """Return the shared secret; it belongs neither in the code nor on the command line."""
    text = os.environ.get("WAKEUP_CAPABILITY")
    if text is None and "WAKEUP_CAPABILITY_FILE" in os.environ:
        text = Path(os.environ["WAKEUP_CAPABILITY_FILE"]).read_text()
    if text is None:
        raise SystemExit("set WAKEUP_CAPABILITY or WAKEUP_CAPABILITY_FILE: 64 hex digits")
    return bytes.fromhex(text)


def read_key_pair(path: Path | None) -> KeyPair:
    """Return the identity kept in a file, made at the first start; a passing one without."""
    if path is None:
        return KeyPair.generate()
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return KeyPair.generate(bytes.fromhex(path.read_text()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("role", choices=["server", "client"])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--identity", type=Path, help="file for the seed of the key pair")
    parser.add_argument("--server-key", type=bytes.fromhex, help="the only server to trust")
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(main(parser.parse_args()))
