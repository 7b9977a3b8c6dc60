"""Workers for the tests of a host: what `join(..., worker="tests...:NAME")` names."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from protomux_wakeup import Wakeup
from protomux_wakeup.host import service
from protomux_wakeup.host.worker import Session, Worker

CAPABILITY = b"\x07" * 32
WRITER = b"\x01" * 32


class Oops(Exception):
    code = "EOOPS"


@contextmanager
def journal(worker: Worker) -> Iterator[Callable[[str], None]]:
    """Write into a journal, if there is one, that this worker is the only one, and what it does."""
    path = worker.options.get("journal")
    if path is None:
        yield lambda _what: None
        return
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(file, f"! {worker.term} {os.getpid()} is not alone\n".encode())

    def note(what: str) -> None:
        os.write(file, f"{what} {worker.term} {os.getpid()}\n".encode())

    note("start")
    try:
        yield note
    finally:
        note("end")
        os.close(file)


def stamps(worker: Worker, note: Callable[[str], None]) -> None:
    """Answer "stamp" with who this worker is."""

    def stamp(_params: Any, _session: Session) -> dict[str, int]:
        note("call")
        return {"term": worker.term, "pid": os.getpid()}

    worker.respond("stamp", stamp)


async def main(worker: Worker) -> None:
    """Answers what tests ask."""

    async def for_ever(_params: Any, session: Session) -> None:
        session.notify("begun")
        await asyncio.get_running_loop().create_future()

    async def slowly(params: Any, session: Session) -> Any:
        session.notify("begun")
        await session.request("go on", timeout=None)
        return params

    def fail(params: Any, _session: Session) -> None:
        raise Oops(params)

    async def long_later(params: int, _session: Session) -> str:
        return "a" * params

    def tell(params: Any, session: Session) -> None:
        for each in worker.sessions:
            each.notify("told", [session.client_id, params])

    worker.respond("add", lambda params, _session: sum(params))
    worker.respond("for ever", for_ever)
    worker.respond("slowly", slowly)
    worker.respond("fail", fail)
    worker.respond("tell", tell)
    worker.respond("long", lambda params, _session: "a" * params)
    worker.respond("long later", long_later)
    worker.respond("clients", lambda *_: [each.client_id for each in worker.sessions])
    with journal(worker) as note:
        stamps(worker, note)
        await worker.serve()


async def serves(worker: Worker) -> None:
    """The service, with a journal."""
    with journal(worker) as note:
        stamps(worker, note)
        await service.main(worker)


async def wakes(worker: Worker) -> None:
    """Speaks the wakeup protocol on the app ports."""
    wakeup = Wakeup()
    wakeup.session(
        CAPABILITY,
        on_lookup=lambda _lookup, peer, session: session.announce(peer, [(WRITER, 42)]),
    )
    worker.on_session = lambda session: wakeup.add_stream(session.mux)
    await worker.serve()
    wakeup.destroy()


async def lingers(worker: Worker) -> None:
    """Leaves a task behind, which takes a while to end."""

    def note(what: str) -> None:
        with open(worker.options["journal"], "a") as file:
            print(what, worker.term, os.getpid(), file=file)

    async def work() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            time.sleep(0.3)  # noqa: ASYNC251 - as one that flushes a file
            note("flushed")

    note("start")
    task = asyncio.create_task(work())
    await worker.serve()
    assert not task.done()


async def raises(_worker: Worker) -> None:
    raise Oops("there is nothing here to work on")


async def returns(_worker: Worker) -> None:
    pass


async def hangs_when_ready(worker: Worker) -> None:
    """The first one stops itself, as soon as it has said that it is ready."""
    with suppress(FileExistsError):
        os.close(os.open(worker.options["mark"], os.O_CREAT | os.O_EXCL))
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, os.kill, os.getpid(), signal.SIGSTOP)
    await worker.serve()


async def hangs(worker: Worker) -> None:
    await asyncio.get_running_loop().create_future()


not_a_function = 7
