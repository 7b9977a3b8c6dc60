"""The service of a host, in real processes, against the original. The Node twin is in
cases/service.mjs."""

from __future__ import annotations

from protomux.crypto import discovery_key
from protomux_wakeup import host
from tests.protomux_wakeup.host.members import until_empty

from .harness import Way, interop, place
from .twin import Peer

CAPABILITY = b"\1" * 32
KEY = b"\3" * 32
OTHER_KEY = b"\4" * 32


@interop(ways=[Way(initiator=True, opener=True)], limit=60)
async def test_watch_and_announce(peer: Peer) -> None:
    topic = discovery_key(CAPABILITY)
    with place() as path:
        meeting = path / "host"
        joining = host.join("test", watcher="gui", state=path / "state", directory=meeting)
        async with joining as service:
            await service.watch(CAPABILITY)
            await service.connect(f"127.0.0.1:{await peer.port()}")
            hints = service.hints()
            assert await anext(hints) == host.Hint(topic, KEY, 2**53 - 1)
            await service.announce(CAPABILITY, [(OTHER_KEY, 7)])
            await peer.hear("heard")
            peer.tell("more")
            assert await anext(hints) == host.Hint(topic, OTHER_KEY, 8)
            peer.tell("done")
        await until_empty(meeting)
