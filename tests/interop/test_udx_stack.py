"""Secret streams, mux and wakeup over UDX against the originals.

Most are cases of other modules with their streams over UDX. The Node twins of the rest are in
cases/udx_stack.mjs.
"""

from __future__ import annotations

from protomux.streams import SecretStream, open_udx_connection, start_udx_server

from . import test_mux, test_mux_flow, test_stream, test_wakeup
from .harness import FOUR, SYMMETRIC, interop, over_udx
from .inbox import Inbox
from .test_stream import collect, exchange
from .twin import Peer
from .udx import PATHS

CROSSED = (FOUR[0], FOUR[3])
"""Each role once."""

test_handshake_patterns = over_udx(test_stream.test_handshake_patterns, pattern=["XX"], path=PATHS)
test_many_messages_both_ways = over_udx(test_stream.test_many_messages_both_ways)

test_basic = over_udx(test_mux.test_basic, ways=CROSSED, path=PATHS)
test_drain = over_udx(test_mux_flow.test_drain, ways=CROSSED)
test_reading_pauses_while_much_is_held = over_udx(
    test_mux_flow.test_reading_pauses_while_much_is_held, ways=CROSSED
)
test_the_stream_closes_in_order = over_udx(
    test_mux_flow.test_the_stream_closes_in_order, ways=CROSSED
)

test_lookup_and_announce = over_udx(test_wakeup.test_lookup_and_announce, path=PATHS)
test_a_stream_is_lost_and_another_comes = over_udx(
    test_wakeup.test_a_stream_is_lost_and_another_comes, ways=CROSSED
)
test_a_hundred_streams_on_one_topic = over_udx(
    test_wakeup.test_a_hundred_streams_on_one_topic, ways=CROSSED
)


@interop(ways=SYMMETRIC, over=["udx"], path=PATHS)
async def test_unordered_messages(peer: Peer) -> None:
    stream = await peer.stream()
    came: Inbox[bytes] = Inbox()
    stream.on_message = came.push
    await peer.sync("open")
    for number in range(100):
        assert stream.send(f"{number} of python".encode() * (number % 90 + 1))
    wanted = {f"{number} of node".encode() * (number % 90 + 1) for number in range(100)}
    left = 25 if peer.options["path"] == "bad" else 0  # they may be lost
    while len(wanted) > left:
        wanted.remove(await came.next())  # each comes once, though the path doubles some
    await peer.sync("enough")
    await exchange(stream)


@interop(ways=CROSSED, over=["udx"], path=PATHS)
async def test_an_end(peer: Peer) -> None:
    stream = await peer.stream()
    inbox = collect(stream)
    for number in range(100):
        stream.write(bytes([number]) * 500)
    if peer.opener:
        stream.close()
    assert await inbox.take(100) == [bytes([number]) * 500 for number in range(100)]
    assert await inbox.next() is None
    assert stream.error is None
    await peer.sync("closed")


@interop(ways=SYMMETRIC)
async def test_connecting_and_serving(peer: Peer) -> None:
    link = await peer.udx.link()
    (remote_id,) = await peer.sync("udx ids", [7])
    if peer.initiator:
        await peer.sync("udx connected")
        stream = await open_udx_connection(
            link.host, link.port, id=7, remote_id=remote_id, local=link.socket
        )
    else:
        accepted: Inbox[SecretStream] = Inbox()
        server = await start_udx_server(
            accepted.push, link.host, link.port, id=7, remote_id=remote_id, local=link.socket
        )
        await peer.sync("udx connected")
        stream = await accepted.next()
    await exchange(stream)
    stream.close()
    await stream.wait_closed()
    assert stream.error is None
    await peer.sync("closed")
    if not peer.initiator:
        server.close()
        await server.wait_closed()
