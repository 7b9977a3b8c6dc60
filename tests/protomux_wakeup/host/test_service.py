from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protomux.crypto import discovery_key
from protomux.streams import start_server
from protomux_wakeup import Writer
from protomux_wakeup.host import service as service_module
from protomux_wakeup.host import service_client as client_module
from protomux_wakeup.host.delivery import WINDOW
from protomux_wakeup.host.errors import RemoteError, WatcherReplaced
from protomux_wakeup.host.hints import HintLimits
from protomux_wakeup.host.service import state_directory
from protomux_wakeup.host.service_client import Hint, ServiceClient
from tests.ticking import until

from .disk import full_disk
from .local import LocalHost, RemotePeer

CAPABILITY = b"\1" * 32
TOPIC = discovery_key(CAPABILITY)
OTHER = b"\2" * 32


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def hint(number: int, length: int) -> Hint:
    return Hint(TOPIC, key(number), length)


@pytest.fixture(autouse=True)
async def _guard() -> AsyncIterator[None]:
    """End a test that hangs."""
    loop = asyncio.get_running_loop()
    timer = loop.call_later(60, lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
    yield
    timer.cancel()


@pytest.fixture
async def host(place: Path) -> AsyncIterator[LocalHost]:
    host = LocalHost(place)
    yield host
    await host.close()


@pytest.fixture
async def peer() -> AsyncIterator[RemotePeer]:
    peer = RemotePeer(CAPABILITY)
    yield peer
    await peer.close()


async def take(client: ServiceClient, number: int, **options: Any) -> list[Hint]:
    hints = client.hints(**options)
    return [await anext(hints) for _ in range(number)]


async def all_hints(client: ServiceClient) -> list[Hint]:
    return [hint async for hint in client.hints()]


async def status(client: ServiceClient) -> dict[str, Any]:
    return dict(await client.status())


# Watching


async def test_a_peer_is_asked_and_its_answer_comes_once(host: LocalHost, peer: RemotePeer) -> None:
    peer.known[key(1)] = 5
    gui = ServiceClient(host.client(), "gui")
    assert await gui.watch(CAPABILITY) == TOPIC
    await gui.connect(await peer.listen())
    hints = gui.hints()
    assert await anext(hints) == hint(1, 5)
    peer.announce((key(1), 5), (key(2), 7))
    assert await anext(hints) == hint(2, 7)
    peer.announce((key(2), 6), (key(1), 6))
    assert await anext(hints) == hint(1, 6)


async def test_every_watcher_gets_every_hint(host: LocalHost, peer: RemotePeer) -> None:
    gui = ServiceClient(host.client(), "gui")
    indexer = ServiceClient(host.client(), "indexer")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    peer.announce((key(1), 5))
    await peer.came.get()
    peer.announce((key(2), 5))
    assert sorted(await take(gui, 2)) == [hint(1, 5), hint(2, 5)]
    await indexer.watch(CAPABILITY)
    assert sorted(await take(indexer, 2)) == [hint(1, 5), hint(2, 5)]


async def test_what_was_not_acknowledged_comes_to_the_next_process(
    host: LocalHost, peer: RemotePeer
) -> None:
    client = host.client()
    gui = ServiceClient(client, "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    await peer.asked.get()
    peer.announce((key(1), 1), (key(2), 2), (key(3), 3))
    assert await take(gui, 2) == [hint(1, 1), hint(2, 2)]
    client.lose()
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    assert await take(gui, 2) == [hint(2, 2), hint(3, 3)]


async def test_what_comes_while_nobody_watches_waits(host: LocalHost, peer: RemotePeer) -> None:
    client = host.client()
    gui = ServiceClient(client, "gui")
    await gui.watch(CAPABILITY)
    client.lose()
    await ServiceClient(host.client()).connect(await peer.listen())
    await peer.asked.get()
    for length in range(1, 4):
        peer.announce((key(1), length))
    await peer.close()
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    peer_of_status = (await status(gui))["topics"]
    assert [topic["hints"] for topic in peer_of_status] == [1]
    assert await take(gui, 1) == [hint(1, 3)]


async def test_a_new_watch_asks_the_peers(host: LocalHost, peer: RemotePeer) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    await peer.asked.get()
    peer.known[key(1)] = 5  # and says nothing of it
    await ServiceClient(host.client(), "indexer").watch(CAPABILITY)
    await peer.asked.get()
    assert await take(gui, 1) == [hint(1, 5)]


async def test_no_hints_of_a_topic_that_is_not_watched_any_more(
    host: LocalHost, peer: RemotePeer
) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.watch(OTHER)
    await gui.connect(await peer.listen())
    await peer.asked.get()
    peer.announce((key(1), 1))
    hints = gui.hints()
    assert await anext(hints) == hint(1, 1)
    await gui.unwatch(TOPIC)
    await gui.unwatch(TOPIC)
    await peer.rested.get()
    assert [topic["topic"] for topic in (await status(gui))["topics"]] == [
        discovery_key(OTHER).hex()
    ]
    await gui.watch(CAPABILITY)
    assert await anext(hints) == hint(1, 1)


# Acknowledging


async def test_a_hint_that_was_broken_off_begins_the_next_iteration(
    host: LocalHost, peer: RemotePeer
) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    await peer.asked.get()
    peer.announce((key(1), 1), (key(2), 2))
    first = gui.hints()
    assert await anext(first) == hint(1, 1)
    second = gui.hints()
    with pytest.raises(RuntimeError, match="another one has begun"):
        await anext(first)
    assert await anext(second) == hint(1, 1)
    assert await anext(second) == hint(2, 2)
    assert [each.hints for each in [host.store.pending("gui", TOPIC, most=9)]] == [
        [Writer(key(2), 2)]
    ]


async def test_the_iteration_ends_when_the_client_leaves(host: LocalHost) -> None:
    async with ServiceClient(host.client(), "gui") as gui:
        await gui.watch(CAPABILITY)
        waiting = asyncio.create_task(all_hints(gui))
        await asyncio.sleep(0)
    assert await waiting == []
    assert await all_hints(gui) == []


async def test_a_client_that_does_not_acknowledge_gets_so_many(
    host: LocalHost, peer: RemotePeer
) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    await peer.asked.get()
    peer.announce(*((key(number), 1) for number in range(3 * WINDOW)))
    hints = gui.hints(acknowledge=False)
    first = [await anext(hints) for _ in range(WINDOW)]
    waiting = asyncio.create_task(anext(hints))
    # What grows meanwhile comes later, and once.
    for length in (2, 3):
        peer.announce((key(0), length), (key(2 * WINDOW), length))
    assert peer.session.peers[0].is_removed is False
    newest = (key(2 * WINDOW), 3)
    await until(lambda: host.store.pending("gui", TOPIC, most=10_000).hints[-1] == newest)
    assert not waiting.done()
    await gui.acknowledge(*first)
    found = [await waiting, *[await anext(hints) for _ in range(WINDOW - 1)]]
    await gui.acknowledge(*found)
    found += [await anext(hints) for _ in range(WINDOW)]
    await gui.acknowledge(found[-1])
    found.append(await anext(hints))
    assert len(found) == 2 * WINDOW + 1
    assert sorted(found, key=lambda each: each.key) == [
        hint(0, 3),
        *(hint(number, 3 if number == 2 * WINDOW else 1) for number in range(WINDOW, 3 * WINDOW)),
    ]


async def test_a_topic_that_waits_holds_no_other(host: LocalHost, peer: RemotePeer) -> None:
    other = RemotePeer(OTHER)
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.watch(OTHER)
    await gui.connect(await peer.listen())
    await gui.connect(await other.listen())
    await other.asked.get()
    peer.announce(*((key(number), 1) for number in range(2 * WINDOW)))
    hints = gui.hints(acknowledge=False)
    first = [await anext(hints) for _ in range(WINDOW)]
    assert {hint.topic for hint in first} == {TOPIC}
    other.announce((key(1), 1))
    assert await anext(hints) == Hint(discovery_key(OTHER), key(1), 1)
    await gui.acknowledge(first[0])
    assert (await anext(hints)).topic == TOPIC
    await other.close()


async def test_hints_of_many_topics_come_in_turn(host: LocalHost, peer: RemotePeer) -> None:
    other = RemotePeer(OTHER, {key(number): 1 for number in range(WINDOW)})
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.watch(OTHER)
    await gui.connect(await peer.listen())
    await gui.connect(await other.listen())
    peer.announce(*((key(number), 1) for number in range(WINDOW)))
    found = await take(gui, 2 * WINDOW)
    assert len(set(found)) == 2 * WINDOW
    await other.close()


async def test_the_newest_process_of_a_name_gets_the_hints(
    host: LocalHost, peer: RemotePeer
) -> None:
    old = ServiceClient(host.client(), "gui")
    new = ServiceClient(host.client(), "gui")
    await old.watch(CAPABILITY)
    await old.watch(OTHER)
    await old.connect(await peer.listen())
    await peer.asked.get()
    waiting = asyncio.create_task(take(old, 1))
    await new.watch(CAPABILITY)
    with pytest.raises(WatcherReplaced, match=rf"watches {TOPIC.hex()} as 'gui' now$"):
        await waiting
    peer.announce((key(1), 1))
    assert await take(new, 1) == [hint(1, 1)]
    await old.unwatch(TOPIC)  # which is not the old one's any more
    peer.announce((key(2), 1))
    assert await take(new, 2) == [hint(1, 1), hint(2, 1)]
    # Its other topic is still its own.
    with pytest.raises(RuntimeError, match=r"^expected the watcher 'gui' for a topic"):
        await old.watch(OTHER, watcher="indexer")
    await old.watch(OTHER)


async def test_watching_that_is_broken_off_can_be_begun_again(
    host: LocalHost, peer: RemotePeer
) -> None:
    peer.known.update((key(number), 1) for number in range(3))
    gui = ServiceClient(host.client(), "gui")
    for is_shared in (False, True):
        broken_off = asyncio.create_task(gui.watch(CAPABILITY))
        shared = asyncio.create_task(gui.watch(CAPABILITY)) if is_shared else None
        await asyncio.sleep(0)
        broken_off.cancel()  # the worker has it all the same, and sends what it knows
        with pytest.raises(asyncio.CancelledError):
            await broken_off
        if shared is not None:
            await shared
        if not is_shared:
            await ServiceClient(host.client()).connect(await peer.listen())
            await peer.asked.get()
            await until(lambda: host.status()["topics"][0]["hints"] == 3)
    assert sorted(await take(gui, 3)) == [hint(number, 1) for number in range(3)]
    peer.announce((key(0), 2))
    assert await take(gui, 1) == [hint(2, 1)]  # which was not acknowledged
    hints = gui.hints()
    assert await anext(hints) == hint(2, 1)
    assert await anext(hints) == hint(0, 2)


async def test_of_two_with_one_name_at_the_same_moment_one_has_the_hints(
    host: LocalHost, peer: RemotePeer
) -> None:
    one, other = ServiceClient(host.client(), "bot"), ServiceClient(host.client(), "bot")
    await one.watch(CAPABILITY)
    await one.connect(await peer.listen())
    await peer.asked.get()
    for number in range(1, 10):
        # The first hears that it was replaced when it has asked again.
        await asyncio.gather(other.watch(CAPABILITY), one.watch(CAPABILITY))
        waiting = {asyncio.create_task(take(each, 1)) for each in (one, other)}
        peer.announce((key(0), number))
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(each) for each in results} == {list, WatcherReplaced}


async def test_what_cannot_be_acknowledged_is_not_lost(host: LocalHost, peer: RemotePeer) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    await peer.asked.get()
    peer.announce((key(1), 5))
    hints = gui.hints()
    assert await anext(hints) == hint(1, 5)
    with full_disk(host.place), pytest.raises(RemoteError, match=r"^cannot use .*hints.db: "):
        await anext(hints)
    hints = gui.hints()
    assert await anext(hints) == hint(1, 5)
    peer.announce((key(1), 9))
    assert await anext(hints) == hint(1, 9)


# Watchers without a name


async def test_a_watcher_without_a_name_is_dropped_when_it_leaves(host: LocalHost) -> None:
    asking = ServiceClient(host.client())
    async with ServiceClient(host.client()) as nobody:
        await nobody.watch(CAPABILITY)
        await nobody.watch(OTHER, watcher="gui")
        assert len((await status(asking))["topics"]) == 2
    assert [topic["topic"] for topic in (await status(asking))["topics"]] == [
        discovery_key(OTHER).hex()
    ]


async def test_a_watcher_without_a_name_is_dropped_some_time_after_it_is_lost(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = ServiceClient(host.client())
    lost, moving = host.client(), host.client()
    await ServiceClient(lost).watch(CAPABILITY)
    gone = ServiceClient(moving)
    await gone.watch(OTHER)
    await host.crash()
    asking = ServiceClient(host.client())
    assert len((await status(asking))["topics"]) == 2
    await moving.move(host.service)  # it is in time
    await host.crash()
    monkeypatch.setattr(service_module, "GRACE", 0.0)
    host.service.client_gone(object())  # type: ignore[arg-type]
    await host.crash()
    await until(lambda: not host.status()["topics"])


# Another worker


async def test_after_a_takeover_each_hint_has_come_once(host: LocalHost, peer: RemotePeer) -> None:
    client = host.client()
    gui = ServiceClient(client, "gui")
    await gui.watch(CAPABILITY)
    address = await gui.listen("127.0.0.1:0")
    await gui.connect(await peer.listen())
    await peer.asked.get()
    peer.announce(*((key(number), 1) for number in range(5)))
    hints = gui.hints()
    assert [await anext(hints) for _ in range(3)] == [hint(number, 1) for number in range(3)]
    await host.crash()
    await client.move(host.service)
    assert [await anext(hints) for _ in range(2)] == [hint(3, 1), hint(4, 1)]
    await peer.asked.get()
    peer.announce((key(4), 2), (key(0), 1), (key(5), 1))
    assert [await anext(hints) for _ in range(2)] == [hint(4, 2), hint(5, 1)]
    found = await status(gui)
    assert found["listening"] == [address]
    assert [link["is_open"] for link in found["links"]] == [True]


async def test_what_was_acknowledged_and_comes_again_is_acknowledged_again(
    host: LocalHost, peer: RemotePeer
) -> None:
    client = host.client()
    nobody = ServiceClient(client)
    await nobody.watch(CAPABILITY)
    await nobody.connect(await peer.listen())
    await peer.asked.get()
    peer.announce(*((key(number), 1) for number in range(WINDOW)))
    hints = nobody.hints(acknowledge=False)
    await nobody.acknowledge(*[await anext(hints) for _ in range(WINDOW)])
    (watch,) = host.store.ephemeral_watches()
    host.store.unwatch(*watch)  # as after a long time without a worker
    await host.crash()
    await client.move(host.service)
    await peer.asked.get()
    peer.announce((key(WINDOW), 1))
    assert await anext(hints) == hint(WINDOW, 1)


async def test_what_the_next_worker_refuses_it_is_asked_for_again(
    host: LocalHost, peer: RemotePeer, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(client_module, "FIRST_WAIT", 0.05)
    client = host.client()
    gui = ServiceClient(client, "gui")
    await gui.watch(CAPABILITY)
    address = await gui.listen("127.0.0.1:0")
    await host.crash()
    async with await start_server(lambda _stream: None, "127.0.0.1", int(address.split(":")[1])):
        await client.move(host.service)
        await until(lambda: caplog.text.count(f"cannot listen on {address}") > 2)
    await until(lambda: host.status()["listening"] == [address])
    await peer.connect(address)
    await peer.asked.get()
    peer.announce((key(1), 5))
    assert await take(gui, 1) == [hint(1, 5)]
    await gui.leave()


# Announcing


async def test_what_is_announced_is_told_to_all_and_answered(
    host: LocalHost, peer: RemotePeer
) -> None:
    gui = ServiceClient(host.client())
    await gui.announce(CAPABILITY, [])
    await gui.announce(CAPABILITY, [(key(1), 5)])
    await peer.connect(await gui.listen("127.0.0.1:0"))
    assert await peer.heard.get() == [Writer(key(1), 5)]
    await gui.announce(CAPABILITY, [Writer(key(1), 4), Writer(key(2), 1)])
    assert await peer.heard.get() == [Writer(key(2), 1)]
    await gui.announce(CAPABILITY, [(key(1), 5)])
    peer.session.broadcast_lookup()
    assert await peer.heard.get() == [Writer(key(1), 5), Writer(key(2), 1)]


async def test_what_was_announced_is_answered_after_a_crash(
    host: LocalHost, peer: RemotePeer
) -> None:
    client = host.client()
    gui = ServiceClient(client)
    await gui.announce(CAPABILITY, [(key(number), 1) for number in range(3_000)])
    address = await gui.listen("127.0.0.1:0")
    public_key = host.service.key_pair.public_key
    await host.crash()
    await client.move(host.service)
    await peer.connect(address)
    assert len(await peer.heard.get()) == 3_000
    assert peer.streams[0].remote_public_key == public_key
    assert (await status(gui))["public_key"] == public_key.hex()


async def test_a_lookup_is_answered_also_where_nothing_is_known(
    host: LocalHost, peer: RemotePeer
) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    await peer.came.get()
    peer.session.broadcast_lookup()
    assert await peer.heard.get() == []


# Peers that say too much


async def test_a_log_too_many_costs_the_stream(place: Path, caplog: Any) -> None:
    host = LocalHost(place, HintLimits(keys=1_500))
    hostile = RemotePeer(CAPABILITY, {key(number): 1 for number in range(1_600)})
    honest = RemotePeer(CAPABILITY)
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await honest.listen())
    await honest.asked.get()
    honest.announce((key(7), 9))
    assert await take(gui, 1) == [hint(7, 9)]
    await hostile.connect(await gui.listen("127.0.0.1:0"))
    await hostile.came.get()
    await hostile.went.get()
    assert "expected at most 1500 logs in a topic, one more came" in caplog.text
    honest.announce((key(7), 10))
    found = [each async for each in up_to(gui, hint(7, 10))]
    assert len(found) <= 1_502
    for topic in (await status(gui))["topics"]:
        assert topic["hints"] <= 1_500
        assert topic["peers"] == 1
    await hostile.close()
    await honest.close()
    await host.close()


async def up_to(client: ServiceClient, last: Hint) -> AsyncIterator[Hint]:
    async for each in client.hints():
        yield each
        if each == last:
            return


async def test_who_asks_very_often_is_answered_once_a_tick(
    host: LocalHost, peer: RemotePeer
) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    known = [Writer(key(number), 1) for number in range(2_000)]
    await gui.announce(CAPABILITY, known)
    await peer.connect(await gui.listen("127.0.0.1:0"))
    assert sorted(await peer.heard.get()) == known
    for _ in range(1_000):
        peer.session.broadcast_lookup()
    peer.announce((key(1), 1))
    assert await take(gui, 1) == [hint(1, 1)]  # so it was asked a thousand times
    last = Writer(key(0), 2)
    await gui.announce(CAPABILITY, [last])
    answers = 0
    while (heard := await peer.heard.get()) != [last]:
        assert sorted(heard) == known
        answers += 1
    assert 1 <= answers < 100


# Addresses


async def test_where_connecting_fails_at_once_it_is_not_tried_at_once_again(
    host: LocalHost, place: Path
) -> None:
    gui = ServiceClient(host.client())
    with pytest.raises(RemoteError, match="No such file") as caught:
        await gui.connect(f"unix:{place / 'nobody'}")
    assert caught.value.code == "ENOENT"
    await gui.status()


async def test_a_stream_is_kept_up(host: LocalHost, peer: RemotePeer) -> None:
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    address = await peer.listen()
    await asyncio.gather(gui.connect(address), gui.connect(address))
    await peer.asked.get()
    peer.streams[0].abort()
    await peer.asked.get()
    await peer.close()
    await until(lambda: "Connection refused" in str(host.status()["links"][0]["error"]))
    assert host.status()["links"][0]["is_open"] is False
    again = RemotePeer(CAPABILITY, {key(1): 1})
    await again.listen(int(address.rpartition(":")[2]))
    await gui.connect(address)
    assert await take(gui, 1) == [hint(1, 1)]
    await again.close()


@pytest.mark.parametrize("name", ["x..y", "a" * 70, "\u00fc" * 64])
async def test_a_name_that_no_host_can_have(host: LocalHost, name: str) -> None:
    gui = ServiceClient(host.client())
    with pytest.raises(RemoteError, match=r"^cannot connect to "):
        await gui.connect(f"{name}:4000")
    with pytest.raises(RemoteError, match=r"^cannot listen on "):
        await gui.listen(f"{name}:4000")
    assert (await status(gui))["links"] == []


async def test_an_address_where_nobody_is(host: LocalHost, peer: RemotePeer) -> None:
    gui = ServiceClient(host.client())
    address = await peer.listen()
    await peer.close()
    with pytest.raises(
        RemoteError, match=rf"^cannot connect to {address}: Connection refused$"
    ) as caught:
        await gui.connect(address)
    assert caught.value.code == "ECONNREFUSED"
    assert (await status(gui))["links"] == []
    with pytest.raises(RemoteError, match=r"^expected HOST:PORT with a port from 1 to 65535, or "):
        await gui.connect("127.0.0.1:0")


async def test_listening_where_somebody_does(host: LocalHost, peer: RemotePeer) -> None:
    gui, indexer = ServiceClient(host.client()), ServiceClient(host.client())
    taken = await peer.listen()
    with pytest.raises(RemoteError, match=rf"^cannot listen on {taken}: Address ") as caught:
        await gui.listen(taken)
    assert caught.value.code == "EADDRINUSE"
    address = await gui.listen("127.0.0.1:0")
    assert await indexer.listen(address) == address
    await gui.leave()
    assert (await status(indexer))["listening"] == [address]


async def test_addresses_go_with_the_client_that_wanted_them(
    host: LocalHost, peer: RemotePeer
) -> None:
    gui, indexer = ServiceClient(host.client()), ServiceClient(host.client())
    path = host.place / "wakeup.sock"
    assert await gui.listen(f"unix:{path}") == f"unix:{path}"
    address = await peer.listen()
    await gui.connect(address)
    await indexer.connect(address)
    await gui.leave()
    found = await status(indexer)
    assert (len(found["peers"]), len(found["links"]), found["listening"]) == (1, 1, [])
    await until(lambda: not path.exists())
    await indexer.leave()
    await until(lambda: not host.status()["peers"])
    assert host.status()["links"] == []


async def test_a_client_that_goes_while_it_waits_for_a_stream(host: LocalHost) -> None:
    """The server takes the connection and says nothing."""
    connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    silent = await asyncio.start_server(
        lambda _, writer: connected.set_result(writer), "127.0.0.1", 0
    )
    client = host.client()
    connecting = asyncio.create_task(
        ServiceClient(client).connect(f"127.0.0.1:{silent.sockets[0].getsockname()[1]}")
    )
    writer = await connected
    client.lose()
    with pytest.raises(Exception, match="ended before an answer"):
        await connecting
    await asyncio.sleep(0)
    assert (await status(ServiceClient(host.client())))["links"] == []
    writer.close()
    await writer.wait_closed()
    silent.close()


# What clients may not say


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("watch", None),
        ("watch", {"capability": CAPABILITY.hex()}),
        ("watch", {"capability": CAPABILITY.hex(), "watcher": ""}),
        ("watch", {"capability": CAPABILITY.hex(), "watcher": "x" * 257}),
        ("watch", {"capability": CAPABILITY.hex() + "0", "watcher": "gui"}),
        ("watch", {"capability": CAPABILITY.hex(), "watcher": "gui", "is_ephemeral": 1}),
        ("unwatch", {"watcher": "gui", "topic": 5}),
        ("acknowledge", {"watcher": "gui", "topic": TOPIC.hex(), "hints": {}}),
        ("acknowledge", {"watcher": "gui", "topic": TOPIC.hex(), "hints": [[TOPIC.hex()]]}),
        ("announce", {"capability": CAPABILITY.hex(), "writers": [[TOPIC.hex(), -1]]}),
        ("announce", {"capability": CAPABILITY.hex(), "writers": [[TOPIC.hex(), 2**53]]}),
        ("announce", {"capability": CAPABILITY.hex(), "writers": [[TOPIC.hex(), True]]}),
        ("announce", {"capability": CAPABILITY.hex(), "writers": [["00", 1]]}),
        ("connect", {"address": []}),
        ("listen", {}),
    ],
)
async def test_no_other_params(host: LocalHost, method: str, params: Any) -> None:
    client = host.client()
    with pytest.raises(RemoteError, match=r"^expected ") as caught:
        await client.call(method, params)
    assert CAPABILITY.hex() not in str(caught.value)
    assert (await client.call("status"))["topics"] == []


async def test_what_is_not_watched_can_be_left_and_acknowledged(host: LocalHost) -> None:
    client = host.client()
    watch = {"watcher": "gui", "topic": TOPIC.hex()}
    await client.call("unwatch", watch)
    await client.call("acknowledge", {**watch, "hints": [[key(1).hex(), 1]]})
    assert (await client.call("status"))["topics"] == []


# A full disk


async def test_a_full_disk_costs_the_call_and_the_hints_come_later(
    host: LocalHost, peer: RemotePeer, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "RETRY", 0.2)
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    await gui.connect(await peer.listen())
    await peer.asked.get()
    with full_disk(host.place):
        peer.announce((key(1), 5))
        await until(lambda: "what peers announced is left out" in caplog.text)
        with pytest.raises(RemoteError, match=r"^cannot use .*hints.db: "):
            await gui.announce(CAPABILITY, [(key(number), 1) for number in range(1_000)])
        assert (await status(gui))["topics"][0]["announced"] == 0
    assert await take(gui, 1) == [hint(1, 5)]
    await gui.announce(CAPABILITY, [(key(2), 5)])
    assert (await status(gui))["topics"] == [
        {"topic": TOPIC.hex(), "peers": 1, "hints": 1, "watchers": 1, "announced": 1}
    ]


async def test_a_full_disk_while_a_large_announce_is_stored(
    host: LocalHost, peer: RemotePeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "RETRY", 0.2)
    gui = ServiceClient(host.client(), "gui")
    await gui.watch(CAPABILITY)
    peer.known.update((key(number), 1) for number in range(5_000))
    address = await peer.listen()
    with full_disk(host.place):
        await gui.connect(address)
        await peer.asked.get()
        await peer.asked.get()  # again, for it was left out
        assert host.status()["topics"][0]["hints"] == 0
    assert len(set(await take(gui, 5_000))) == 5_000


async def test_a_watcher_that_cannot_be_forgotten_is_forgotten_later(
    host: LocalHost, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(service_module, "GRACE", 0.01)
    client = host.client()
    await ServiceClient(client).watch(CAPABILITY)
    with full_disk(host.place):
        client.lose()
        await until(lambda: "a watcher that is gone cannot be forgotten" in caplog.text)
    await until(lambda: not host.status()["topics"])


# Where the file is


def test_where_the_file_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    default = Path("/home/somebody/.local/state/protomux-wakeup/notes")
    assert state_directory("notes", {}) == default
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_directory("notes", {}) == default
    monkeypatch.setenv("XDG_STATE_HOME", str(place))
    assert state_directory("notes", {"state": None}) == place / "protomux-wakeup" / "notes"
    assert state_directory("..", {"state": "/srv/notes"}) == Path("/srv/notes")
    for name in ("", ".", "..", "a/b", "a\0b"):
        with pytest.raises(ValueError, match=r"^expected a name of a host that can name"):
            state_directory(name, {})
    with pytest.raises(ValueError, match=r"^expected 'state' to be a string, got int$"):
        state_directory("notes", {"state": 5})
