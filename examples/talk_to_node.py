"""Talks to a JavaScript peer: start node_peer.mjs first, see there.

Both sides prove that they know the capability, ask each other which logs have grown, and answer.

    export WAKEUP_CAPABILITY=...    # the same 64 hex digits as at node_peer.mjs
    python examples/talk_to_node.py 4000
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

from protomux import crypto
from protomux.streams import open_connection
from protomux_wakeup import Lookup, Peer, Session, Wakeup, Writer

PATIENCE = 5.0  # seconds
LOG = Writer(b"python" + bytes(26), 5)


async def main(capability: bytes, port: int) -> None:
    asked = asyncio.Event()
    told = asyncio.Event()

    def on_peer_add(peer: Peer, session: Session) -> None:
        print("the peer has proved the capability")
        # With a hash of what we know, a peer that knows no more may keep silent. It is optional.
        session.lookup(peer, hash=crypto.hash(LOG.key))

    def on_lookup(lookup: Lookup, peer: Peer, session: Session) -> None:
        print(f"asked, hash {lookup.hash and lookup.hash.hex()}")
        session.announce(peer, [LOG])
        asked.set()

    def on_announce(writers: list[Writer], peer: Peer, session: Session) -> None:
        for key, length in writers:
            print(f"told {key.hex()} {length}")
        told.set()

    stream = await open_connection("127.0.0.1", port)
    wakeup = Wakeup()
    wakeup.session(
        capability, on_peer_add=on_peer_add, on_lookup=on_lookup, on_announce=on_announce
    )
    wakeup.add_stream(stream)
    try:
        async with asyncio.timeout(PATIENCE):
            await asked.wait()
            await told.wait()
    except TimeoutError:
        raise SystemExit("no answer: has the other side the same WAKEUP_CAPABILITY?") from None
    finally:
        stream.close()
        await stream.wait_closed()
        wakeup.destroy()
    print("understood each other")


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(bytes.fromhex(os.environ["WAKEUP_CAPABILITY"]), int(sys.argv[1])))
