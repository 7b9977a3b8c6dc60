from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket as sockets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from protomux.errors import LimitExceeded, ProtocolError, StreamClosed
from protomux_wakeup.host.client import retry_delays
from protomux_wakeup.host.errors import ForeignPeer, RemoteError, RequestTimeout
from protomux_wakeup.host.jitpc import Client, Limits, Server, connect, listen
from protomux_wakeup.host.lines import LineConnection
from protomux_wakeup.host.locks import FileLock
from protomux_wakeup.host.loop_end import _loops

LIMIT = 30.0
"""Seconds after which a test hangs."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as somebody else")


def echoing(client: Client) -> None:
    client.respond("echo", lambda params: params)


@asynccontextmanager
async def serving(
    place: Path, on_client: Callable[[Client], object] = echoing, **options: Any
) -> AsyncIterator[Server]:
    server = await listen("a", directory=place, on_client=on_client, **options)
    assert server is not None
    async with server:
        yield server


def raw(place: Path) -> sockets.socket:
    """A connection that says what it likes."""
    socket = sockets.socket(sockets.AF_UNIX)
    socket.settimeout(LIMIT)
    socket.connect(str(place / "a.sock"))
    return socket


def text(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def until_its_end(socket: sockets.socket) -> bytes:
    """All that the peer says before it closes."""
    reader, writer = await asyncio.open_unix_connection(sock=socket)
    try:
        with suppress(ConnectionResetError):
            return await reader.read()
        return b""
    finally:
        writer.close()


async def test_both_ends_ask_and_answer(place: Path) -> None:
    met: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    def on_client(client: Client) -> None:
        echoing(client)
        met.set_result(client)

    async with serving(place, on_client) as server:
        async with connect("a", directory=place) as client:
            client.respond("add", sum)
            assert await client.request("echo", {"x": 1}) == {"x": 1}
            theirs = await met
            assert await theirs.request("add", [1, 2]) == 3
            assert theirs.peer_pid == client.peer_pid == os.getpid()
            assert server.clients == (theirs,)
            assert server.client_by_id(0) is theirs
            assert server.client_by_id(1) is None
            assert server.client_by_id(-1) is None
            assert client.id == 0
            theirs.user_data = "mine"
        await theirs.wait_closed()
        assert client.error is theirs.error is None
        assert not server.clients


async def test_one_server_for_an_id(place: Path) -> None:
    async with serving(place):
        assert await listen("a", directory=place) is None
        other = await listen("b", directory=place)
        assert other is not None
        other.close()
    async with serving(place):
        pass


async def test_the_socket_is_for_its_owner_alone(place: Path) -> None:
    before = os.umask(0)
    try:
        async with serving(place) as server:
            assert os.stat(server.path).st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    async with serving(place, allow_uids=[12345]) as server:
        assert os.stat(server.path).st_mode & 0o777 == 0o666


@pytest.mark.parametrize(("keep_lock", "left"), [(True, ["a.lock"]), (False, [])])
async def test_what_a_server_leaves(place: Path, keep_lock: bool, left: list[str]) -> None:
    async with serving(place, keep_lock=keep_lock):
        assert sorted(os.listdir(place)) == ["a.lock", "a.sock"]
    assert os.listdir(place) == left


async def test_what_cannot_be_replaced_frees_the_lock(place: Path) -> None:
    (place / "a.sock").mkdir()
    with pytest.raises(OSError, match=r"a\.sock"):
        await listen("a", directory=place)
    lock = FileLock.try_acquire(str(place / "a.lock"))
    assert lock is not None
    lock.release()


@pytest.mark.parametrize("id", ["", "a/b", "a\0b", "x" * 200])
async def test_an_id_names_a_file(place: Path, id: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        connect(id, directory=place)
    with pytest.raises(ValueError, match="expected"):
        await listen(id, directory=place)


async def test_they_meet_where_node_would(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", f"{place}/not-there/")
    server = await listen("a", on_client=echoing)
    assert server is not None
    assert server.path == f"{place}/not-there/a.sock"
    async with server, connect("a") as client:
        assert await client.request("echo", 1) == 1


def test_when_it_is_tried_again() -> None:
    milliseconds = [50, 100, 150, 250, 400, 650, 1050, 1700, 2750]
    assert [round(1000 * delay) for delay in retry_delays()] == milliseconds


async def test_nobody_listens(place: Path) -> None:
    spun: list[None] = []
    client = connect("a", directory=place, spinup=lambda: spun.append(None))
    answer = client.request("echo")
    with pytest.raises(FileNotFoundError, match=r"a\.sock"):
        await client.wait_connected()
    with pytest.raises(StreamClosed) as caught:
        await answer
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert isinstance(client.error, FileNotFoundError)
    await client.wait_closed()
    assert len(spun) == 1
    assert client.peer_pid is None
    with pytest.raises(FileNotFoundError):
        await client.wait_connected()


@pytest.mark.parametrize("is_async", [False, True])
async def test_spinup_that_fails(place: Path, is_async: bool) -> None:
    def fail() -> None:
        raise RuntimeError("cannot spin up")

    async def fail_later() -> None:
        raise RuntimeError("cannot spin up")

    client = connect("a", directory=place, spinup=fail_later if is_async else fail)
    with pytest.raises(RuntimeError, match="cannot spin up"):
        await client.wait_connected()
    await client.wait_closed()
    assert isinstance(client.error, RuntimeError)


async def test_spinup_starts_the_server(place: Path) -> None:
    servers: list[Server] = []

    async def spinup() -> None:
        server = await listen("a", directory=place, on_client=echoing)
        assert server is not None
        servers.append(server)

    async with connect("a", directory=place, spinup=spinup) as client:
        assert await client.request("echo", "x" * 100_000) == "x" * 100_000
    async with servers[0], connect("a", directory=place, spinup=spinup) as client:
        assert await client.request("echo", 1) == 1
    assert len(servers) == 1


async def test_a_client_that_is_given_up_while_it_connects(place: Path) -> None:
    for give_up in (Client.end, Client.destroy):
        client = connect("a", directory=place)
        give_up(client)
        with pytest.raises(StreamClosed):
            await client.wait_connected()
        await client.wait_closed()
        assert client.error is None
    client = connect("a", directory=place)
    answer = client.request("echo")
    client.destroy(ValueError("enough"))
    with pytest.raises(StreamClosed, match="enough"):
        await answer
    with pytest.raises(ValueError, match="enough"):
        await client.wait_connected()


async def test_an_end_before_the_connection_waits_for_what_was_asked(place: Path) -> None:
    told: list[object] = []

    def on_client(client: Client) -> None:
        echoing(client)
        client.respond("tell", told.append)

    async with serving(place, on_client):
        client = connect("a", directory=place)
        answer = client.request("echo", 5)
        client.end()
        assert await answer == 5
        await client.wait_closed()
        client = connect("a", directory=place)
        client.notify("tell", 6)
        client.end()
        await client.wait_closed()
        async with connect("a", directory=place) as client:  # what came before it is dealt with
            await client.request("echo")
    assert told == [6]


async def test_an_end_waits_for_both_directions(place: Path) -> None:
    gate = asyncio.Event()

    async def wait(_params: object) -> str:
        await gate.wait()
        return "waited"

    met: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    def on_client(client: Client) -> None:
        client.respond("wait", wait)
        met.set_result(client)

    async with serving(place, on_client):
        client = connect("a", directory=place)
        client.respond("wait", wait)
        asked = client.request("wait")
        was_asked = (await met).request("wait")
        client.end()
        client.end()
        gate.set()
        assert await asked == await was_asked == "waited"
        await client.wait_closed()
        assert client.error is None
        with pytest.raises(StreamClosed):
            await client.request("wait")


async def test_a_peer_that_goes_holds_up_no_end(place: Path) -> None:
    """Though it had been asked, and cannot answer any more."""
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(place / "a.sock"))
        listener.listen()
        client = connect("a", directory=place)
        answer = client.request("wait", timeout=None)
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        theirs, _ = await loop.sock_accept(listener)
        with theirs:
            assert b"wait" in await loop.sock_recv(theirs, 1000)
            client.end()
    with pytest.raises(StreamClosed):
        await answer
    async with asyncio.timeout(LIMIT):
        await client.wait_closed()


async def test_a_client_that_goes_does_not_stay_on_the_list(place: Path) -> None:
    """And so does not keep the server from spinning down."""

    def on_client(client: Client) -> None:
        client.request("wait", timeout=None)
        client.end()

    async with serving(place, on_client, spindown_timeout=0.05) as server:
        with raw(place) as socket:
            socket.setblocking(False)
            assert b"wait" in await asyncio.get_running_loop().sock_recv(socket, 1000)
        async with asyncio.timeout(LIMIT):
            await server.wait_closed()
        assert server.clients == ()


async def test_a_cancelled_request_holds_up_no_end(place: Path) -> None:
    async with serving(place, lambda client: client.respond("wait", lambda _: asyncio.sleep(60))):
        client = connect("a", directory=place)
        answer = client.request("wait")
        await client.wait_connected()
        client.end()
        answer.cancel()
        await client.wait_closed()


async def test_a_peer_that_says_no_more_is_still_answered(place: Path) -> None:
    async def later(params: int) -> int:
        await asyncio.sleep(0.01)
        return params

    async with serving(place, lambda client: client.respond("later", later)):
        socket = raw(place)
        socket.sendall(b'{"method":"later","params":1,"id":1}\r\n{"method":"later","id":2}\n{"cut')
        socket.shutdown(sockets.SHUT_WR)
        replies = (await until_its_end(socket)).split(b"\n")
    assert [json.loads(reply)["id"] for reply in replies[:-1]] == [1, 2]
    assert replies[-1] == b""


async def failing_with(client: Client) -> None:
    async with client:
        client.request("wait")
        await client.wait_connected()
        _ = 1 / 0


async def test_what_a_peer_asked_that_has_left_is_given_up(place: Path) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()
    gate = asyncio.Event()

    async def wait(params: str) -> None:
        try:
            await gate.wait()
        finally:
            ended.put_nowait(params if gate.is_set() else f"gave up {params}")

    came: asyncio.Queue[Client] = asyncio.Queue()

    def on_client(client: Client) -> None:
        client.respond("wait", wait)
        came.put_nowait(client)

    async with serving(place, on_client):
        socket = raw(place)
        client = await came.get()
        for id in (0, 1):
            socket.sendall(text(method="wait", params=str(id), id=id))
        socket.close()
        assert await ended.get() == "gave up 1"
        assert not client.is_closed
        gate.set()
        assert await ended.get() == "0"
        await client.wait_closed()
        assert client.error is None


async def test_destroyed_with_an_error(place: Path) -> None:
    async with serving(place, lambda client: client.respond("wait", lambda _: asyncio.sleep(60))):
        client = connect("a", directory=place)
        await client.wait_connected()
        answer = client.request("wait")
        client.destroy(ValueError("mine"))
        with pytest.raises(StreamClosed, match="mine"):
            await answer
        await client.wait_closed()
        assert str(client.error) == "mine"
        client = connect("a", directory=place)
        with pytest.raises(ZeroDivisionError):
            await failing_with(client)
        assert client.is_closed


async def test_the_server_closes_on_its_clients(place: Path) -> None:
    async with serving(place, lambda client: client.respond("wait", lambda _: asyncio.sleep(60))):
        client = connect("a", directory=place)
        answer = client.request("wait")
        await client.wait_connected()
    with pytest.raises(StreamClosed):
        await answer
    await client.wait_closed()


async def test_ids_are_used_again_the_last_freed_first(place: Path) -> None:
    came: asyncio.Queue[Client] = asyncio.Queue()
    async with serving(place, came.put_nowait):
        pairs = []
        for _ in range(4):
            client = connect("a", directory=place)
            pairs.append((client, await came.get()))
        assert [theirs.id for _, theirs in pairs] == [0, 1, 2, 3]
        for number in (1, 3, 0):
            client, theirs = pairs[number]
            client.end()
            await theirs.wait_closed()
        ids = []
        for _ in range(4):
            pairs.append((connect("a", directory=place), await came.get()))
            ids.append(pairs[-1][1].id)
        assert ids == [0, 3, 1, 4]


async def test_an_async_on_client_sets_up_before_anything_is_read(place: Path) -> None:
    async def on_client(client: Client) -> None:
        echoing(client)
        await client.wait_closed()

    async with serving(place, on_client), connect("a", directory=place) as client:
        assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("is_async", [False, True])
async def test_on_client_that_fails_destroys_the_client(
    place: Path, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_client: Client) -> None:
        raise RuntimeError("no")

    async def fail_later(_client: Client) -> None:
        raise RuntimeError("no")

    async with serving(place, fail_later if is_async else fail):
        with pytest.raises(StreamClosed):
            await connect("a", directory=place).request("echo")
    assert "on_client failed" in caplog.text


@pytest.mark.parametrize("is_async", [False, True])
async def test_it_spins_down_once(place: Path, is_async: bool) -> None:
    spun: list[bool] = []

    def spindown() -> None:
        spun.append(os.path.exists(place / "a.sock"))

    async def later() -> None:
        spindown()

    server = await listen(
        *("a",),
        directory=place,
        spindown=later if is_async else spindown,
        spindown_timeout=0.01,
    )
    assert server is not None
    await server.wait_closed()
    assert spun == [True]
    assert server.is_closed
    assert os.listdir(place) == ["a.lock"]
    async with serving(place, spindown_timeout=0.01) as server:
        await server.wait_closed()


async def test_no_spindown_while_there_is_a_client(place: Path) -> None:
    spun: list[None] = []
    async with serving(place, spindown=lambda: spun.append(None), spindown_timeout=0.5) as server:
        clients = [connect("a", directory=place) for _ in range(2)]
        for client in clients:
            await client.wait_connected()
        for client in clients:
            await asyncio.sleep(0.4)
            assert await client.request("echo", 1) == 1
            assert not spun
            client.end()
        await server.wait_closed()
    assert spun == [None]


async def test_no_spindown_at_all(place: Path) -> None:
    async with serving(place, spindown=False, spindown_timeout=0.0) as server:
        await asyncio.sleep(0.05)
        assert not server.is_closed


async def test_a_spindown_that_fails_leaves_the_server_open(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fails = [True]
    closed = asyncio.Event()

    async def spindown() -> None:
        if fails.pop():
            raise RuntimeError("not now")
        closed.set()

    async with serving(place, spindown=spindown, spindown_timeout=0.01) as server:
        with pytest.raises(RuntimeError, match="not now"):
            await server.wait_closed()
        assert isinstance(server.error, RuntimeError)
        assert "spindown" in caplog.text
        fails.append(False)
        async with connect("a", directory=place) as client:
            assert await client.request("echo", 1) == 1
        await closed.wait()
        assert server.error is None


HOSTILE = [
    b"\n",
    b"not json\n",
    b"[]\n",
    b"null\n",
    b'{"id":-1}\n',
    b"\xff\n",
    b"[" * 100_000 + b"\n",
]


@pytest.mark.parametrize("lines", HOSTILE, ids=range(len(HOSTILE)))
async def test_a_line_that_is_no_message_ends_its_connection_only(
    place: Path, lines: bytes
) -> None:
    came: asyncio.Queue[Client] = asyncio.Queue()

    def on_client(client: Client) -> None:
        echoing(client)
        came.put_nowait(client)

    async with serving(place, on_client), connect("a", directory=place) as client:
        await client.wait_connected()
        await came.get()
        socket = raw(place)
        hostile = await came.get()
        socket.sendall(b'{"method":"echo","id":1}\n' + lines + b'{"method":"echo","id":2}\n')
        said = await until_its_end(socket)
        assert b'"id":2' not in said
        assert isinstance(hostile.error, ProtocolError)
        assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("is_whole", [False, True])
async def test_a_line_that_is_too_long_ends_the_connection(place: Path, is_whole: bool) -> None:
    came: asyncio.Queue[Client] = asyncio.Queue()
    async with serving(place, came.put_nowait, limits=Limits(line_size=1_000)):
        socket = raw(place)
        hostile = await came.get()
        socket.sendall(b"x" * 1_001 + b"\n" * is_whole)
        assert await until_its_end(socket) == b""
        assert isinstance(hostile.error, LimitExceeded)


async def test_lines_may_come_in_any_pieces(place: Path) -> None:
    async with serving(place):
        reader, writer = await asyncio.open_unix_connection(sock=raw(place))
        whole = b'{"method":"echo","params":"%s","id":1}\r\n' % (b"x" * 300)
        for number in range(0, len(whole), 7):
            writer.write(whole[number : number + 7])
            await writer.drain()
            await asyncio.sleep(0)
        assert json.loads(await reader.readline())["result"] == "x" * 300
        writer.close()


async def test_so_many_handlers_are_at_work_and_no_more(place: Path) -> None:
    running = 0
    most = 0

    async def handler(params: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return params

    limits = Limits(in_flight=5)
    async with (
        serving(place, lambda client: client.respond("a", handler), limits=limits),
        connect("a", directory=place) as client,
    ):
        answers = await asyncio.gather(*(client.request("a", number) for number in range(1_000)))
    assert answers == list(range(1_000))
    assert most == 5


async def test_who_does_not_read_is_asked_nothing_more(place: Path) -> None:
    answered = 0

    def big(_params: object) -> str:
        nonlocal answered
        answered += 1
        return "x" * 100_000

    limits = Limits(unsent_size=500_000)
    count = 200
    async with serving(place, lambda client: client.respond("big", big), limits=limits):
        reader, writer = await asyncio.open_unix_connection(sock=raw(place), limit=2**20)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        for number in range(count):
            writer.write(b'{"method":"big","id":%d}\n' % (number + 1))
        async with connect("a", directory=place) as client:
            for _ in range(20):  # meanwhile it serves others
                with pytest.raises(RemoteError):
                    await client.request("none")
        assert 5 <= answered < 20
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        for number in range(count):
            assert json.loads(await reader.readline())["id"] == number + 1
        writer.close()
    assert answered == count


async def test_who_reads_nothing_for_long_counts_as_dead(place: Path) -> None:
    came: asyncio.Queue[Client] = asyncio.Queue()

    def on_client(client: Client) -> None:
        client.respond("big", lambda _: "x" * 1_000_000)
        came.put_nowait(client)

    async with serving(place, on_client, limits=Limits(unsent_size=1_000_000, unread_time=0.1)):
        socket = raw(place)
        socket.sendall(b'{"method":"big","id":1}\n' * 10)
        client = await came.get()
        await client.wait_closed()
        assert isinstance(client.error, LimitExceeded)
        socket.close()


async def test_what_waits_for_a_peer_is_bounded(place: Path) -> None:
    came: asyncio.Queue[Client] = asyncio.Queue()
    async with serving(place, came.put_nowait, limits=Limits(unsent_most=1_000_000)):
        socket = raw(place)
        client = await came.get()
        for _ in range(100):
            client.notify("a", "x" * 100_000)
        await client.wait_closed()
        assert isinstance(client.error, LimitExceeded)
        socket.close()
    unmet = connect("nobody", directory=place, limits=Limits(unsent_most=1_000_000))
    for _ in range(11):
        unmet.notify("a", "x" * 100_000)
    assert isinstance(unmet.error, LimitExceeded)
    await unmet.wait_closed()


async def test_much_both_ways_at_once(place: Path) -> None:
    met: asyncio.Future[Client] = asyncio.get_running_loop().create_future()

    def on_client(client: Client) -> None:
        echoing(client)
        met.set_result(client)

    async with serving(place, on_client), connect("a", directory=place) as client:
        echoing(client)
        asked = [client.request("echo", "x" * 10_000) for _ in range(500)]
        theirs = await met
        asked += [theirs.request("echo", "x" * 10_000) for _ in range(500)]
        assert {len(each) for each in await asyncio.gather(*asked)} == {10_000}


async def test_a_hundred_clients_pipeline(place: Path) -> None:
    async with serving(place) as server:

        async def ask(number: int) -> None:
            async with connect("a", directory=place) as client:
                asked = [client.request("echo", [number, each]) for each in range(20)]
                assert await asyncio.gather(*asked) == [[number, each] for each in range(20)]

        await asyncio.gather(*map(ask, range(100)))
        while server.clients:
            await server.clients[0].wait_closed()


async def test_a_timeout_of_a_request(place: Path) -> None:
    async with (
        serving(place, lambda client: client.respond("wait", lambda _: asyncio.sleep(60))),
        connect("a", directory=place) as client,
    ):
        with pytest.raises(RequestTimeout):
            await client.request("wait", timeout=0.01)


async def test_a_killed_process_leaves_nothing_that_hinders(place: Path) -> None:
    program = """
import asyncio, sys
from protomux_wakeup.host.jitpc import listen
async def main():
    server = await listen("a", directory=sys.argv[1], spindown=False)
    print("listening" if server else "taken", flush=True)
    if server:
        await server.wait_closed()
asyncio.run(main())
"""

    async def started() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, place), stdout=asyncio.subprocess.PIPE
        )

    process = await started()
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listening\n"
        assert await listen("a", directory=place) is None
        client = connect("a", directory=place)
        await client.wait_connected()
        assert client.peer_pid == process.pid
        process.send_signal(signal.SIGKILL)
        await client.wait_closed()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (place / "a.sock").exists()
    async with serving(place), connect("a", directory=place) as client:
        assert await client.request("echo", 1) == 1


LEFT_OPEN = """
import asyncio, sys
from protomux_wakeup.host.jitpc import connect, listen
async def main():
    {body}
{run}
"""
BODIES = {
    "an idle client": """
    client = connect("a", directory=sys.argv[1])
    assert await client.request("echo", 1) == 1
    assert len(asyncio.all_tasks()) == 1
""",
    "a client that was asked": """
    client = connect("a", directory=sys.argv[1])
    client.respond("wait", lambda _: asyncio.sleep(60))
    await client.request("ask me")
    client.request("wait")
""",
    "a client that connects": """
    connect("nobody", directory=sys.argv[1]).request("echo")
""",
    "a server": """
    server = await listen("b", directory=sys.argv[1], keep_lock=False)
    client = connect("b", directory=sys.argv[1])
    await client.wait_connected()
""",
}


@pytest.mark.parametrize("run", ["asyncio.run(main())", "import uvloop; uvloop.run(main())"])
@pytest.mark.parametrize("body", BODIES)
async def test_what_is_left_open_ends_with_the_program(place: Path, body: str, run: str) -> None:
    if "uvloop" in run:
        pytest.importorskip("uvloop")

    def on_client(client: Client) -> None:
        echoing(client)

        def ask(_params: object) -> None:
            client.request("wait").add_done_callback(lambda answer: answer.exception())

        client.respond("ask me", ask)
        client.respond("wait", lambda _: asyncio.sleep(60))

    async with serving(place, on_client) as server:
        program = LEFT_OPEN.format(body=BODIES[body].strip(), run=run)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-X", "dev", "-c", program, place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert (process.returncode, out, errors) == (0, b"", b"")
        assert sorted(os.listdir(place)) == ["a.lock", "a.sock"]
        while server.clients:
            await server.clients[0].wait_closed()


async def test_lines_over_a_pair_of_sockets() -> None:
    one, other = LineConnection(), LineConnection()
    for connection, socket in zip((one, other), sockets.socketpair(), strict=True):
        connection.attach(socket)
    other.rpc.respond("echo", lambda params: params)
    ended: list[Exception | None] = []
    other.add_close_callback(ended.append)
    assert await one.rpc.request("echo", 1) == 1
    one.close()
    await one.wait_closed()
    await other.wait_closed()
    await other.wait_closed()
    other.add_close_callback(ended.append)
    await asyncio.sleep(0)
    assert ended == [None, None]
    one.abort()
    assert "closed" in repr(one)


async def test_a_connection_that_is_aborted_while_it_is_attached() -> None:
    here, there = sockets.socketpair()
    connection = LineConnection()
    connection.attach(here)
    connection.abort(ValueError("no"))
    await connection.wait_closed()
    assert isinstance(connection.error, ValueError)
    assert here.fileno() < 0
    there.close()


AS_ANOTHER = """
import asyncio, os, sys
from protomux_wakeup.host.jitpc import connect, listen
os.setgroups([]); os.setgid(12345); os.setuid(12345)
async def main():
    {body}
asyncio.run(main())
"""
FOREIGN_CLIENT = """
    client = connect("a", directory=sys.argv[1], allow_uids=[0])
    try:
        print(await client.request("echo", "hello"))
    except Exception as error:
        print(type(error).__name__)
"""
FOREIGN_SERVER = """
    server = await listen("a", directory=sys.argv[1], allow_uids=[0],
                          on_client=lambda client: client.respond("echo", lambda params: params))
    print("listening", flush=True)
    await server.wait_closed()
"""


@asynccontextmanager
async def another_user(place: Path, body: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", AS_ANOTHER.format(body=body.strip()), place),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@needs_root
@pytest.mark.parametrize("is_allowed", [False, True])
async def test_a_client_of_another_user(
    place: Path, is_allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    os.chmod(place, 0o777)
    came: list[Client] = []

    def on_client(client: Client) -> None:
        echoing(client)
        came.append(client)

    async with (
        serving(place, on_client, allow_uids=[12345] if is_allowed else [54321]),
        another_user(place, FOREIGN_CLIENT) as process,
    ):
        out, _ = await process.communicate()
    assert out == (b"hello\n" if is_allowed else b"StreamClosed\n")
    assert len(came) == is_allowed
    assert ("got uid 12345" in caplog.text) is not is_allowed


@needs_root
@pytest.mark.parametrize("is_allowed", [False, True])
async def test_a_server_of_another_user(place: Path, is_allowed: bool) -> None:
    os.chmod(place, 0o777)
    async with another_user(place, FOREIGN_SERVER) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listening\n"
        client = connect("a", directory=place, allow_uids=[12345] if is_allowed else [])
        asked = client.request("echo", "hello")
        if is_allowed:
            assert await asked == "hello"
            client.end()
        else:
            with pytest.raises(ForeignPeer, match="got uid 12345"):
                await client.wait_connected()
            with pytest.raises(StreamClosed):
                await asked
        await client.wait_closed()


def test_the_end_of_a_loop_closes_what_is_open(place: Path) -> None:
    async def meet() -> tuple[Server, Client]:
        server = await listen("a", directory=place)
        assert server is not None
        client = connect("a", directory=place)
        await client.wait_connected()
        return server, client

    with asyncio.Runner() as runner:
        server, client = runner.run(meet())
        assert not client.is_closed
    assert server.is_closed
    assert client.is_closed
    assert os.listdir(place) == ["a.lock"]


def test_a_loop_that_ends_without_a_word_is_forgotten() -> None:
    async def one() -> LineConnection:
        return LineConnection()

    def closed() -> int:
        return sum(loop.is_closed() for loop in _loops)

    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(one())
        loop.close()
    assert closed() == 1
    with asyncio.Runner() as runner:
        connection = runner.run(one())
    assert connection.is_closed
    assert closed() == 0


async def test_a_process_without_descriptors_accepts_later(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    came: asyncio.Queue[Client] = asyncio.Queue()
    async with serving(place, came.put_nowait):
        socket = raw(place)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
        try:
            for _ in range(3):  # ticks, in which it is told of the connection
                await asyncio.sleep(0)
            assert "cannot accept" in caplog.text
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        await came.get()
        socket.close()


async def test_a_server_that_closes_while_clients_come(place: Path) -> None:
    servers: list[Server] = []
    async with serving(place, lambda _: servers[0].close()) as server:
        servers.append(server)
        waiting = [raw(place) for _ in range(3)]
        await server.wait_closed()
    for socket in waiting:
        assert await until_its_end(socket) == b""
    server.close()


async def test_a_plain_spindown_that_fails(place: Path) -> None:
    def fail() -> None:
        raise RuntimeError("not now")

    async with serving(place, spindown=fail, spindown_timeout=0.01) as server:
        with pytest.raises(RuntimeError, match="not now"):
            await server.wait_closed()


async def test_a_spindown_may_close_the_server_itself(place: Path) -> None:
    servers: list[Server] = []

    def spindown() -> None:
        servers[0].close()

    async with serving(place, spindown=spindown, spindown_timeout=0.01) as server:
        servers.append(server)
        await server.wait_closed()


@pytest.mark.parametrize("line", [b"no json\n", b"x" * 2_000], ids=["no json", "too long"])
async def test_a_hostile_server(place: Path, line: bytes) -> None:
    with sockets.socket(sockets.AF_UNIX) as listener:
        listener.bind(str(place / "a.sock"))
        listener.listen()
        client = connect("a", directory=place, limits=Limits(line_size=1_000))
        answer = client.request("echo")
        await client.wait_connected()
        socket, _ = listener.accept()
        socket.sendall(line)
        with pytest.raises(StreamClosed):
            await answer
        await client.wait_closed()
        assert isinstance(client.error, (LimitExceeded, ProtocolError))
        socket.close()


async def test_a_responder_of_a_client_that_is_taken_back(place: Path) -> None:
    def on_client(client: Client) -> None:
        echoing(client)
        client.respond("stop", lambda _: client.unrespond("echo"))

    async with serving(place, on_client), connect("a", directory=place) as client:
        await client.request("stop")
        with pytest.raises(RemoteError, match="Unknown method: echo"):
            await client.request("echo")
