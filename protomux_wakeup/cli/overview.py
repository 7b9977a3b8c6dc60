"""A host at one moment: the fields for scripts, a picture for people. Knows who is asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from protomux_wakeup.cli.report import Fields, Json
from protomux_wakeup.host import HostNotRunning, LeaderLost, RemoteError, RequestTimeout, Visitor
from protomux_wakeup.host.messages import Known, Present

__all__ = ["Overview", "describe", "fields_of_client", "look", "table"]

WORKER_TIME: Final = 3.0
"""Seconds that the worker has for its answer; without one, the rest is shown."""

_SHORT: Final = 12
"""Hex digits of a key or a topic that are shown in a table."""


class _Topic(msgspec.Struct):
    topic: str
    peers: int
    hints: int
    watchers: int
    announced: int


class _Peer(msgspec.Struct):
    public_key: str
    address: str


class _Link(msgspec.Struct):
    address: str
    is_open: bool
    error: str | None


class _Service(msgspec.Struct):
    """What the service answers to "status"; a worker of another kind does not."""

    public_key: str
    topics: list[_Topic]
    peers: list[_Peer]
    links: list[_Link]
    listening: list[str]


@dataclass(frozen=True, slots=True)
class Overview:
    """Who has joined a host, and what its worker does.

    Attributes:
        name: of the host.
        known: what the coordinator says.
        worker_pid: None where the worker was not reached.
        service: what the worker says; None where it says nothing.
        problem: why; None where it does.
    """

    name: str
    known: Known
    worker_pid: int | None
    service: _Service | None
    problem: str | None

    @property
    def fields(self) -> Fields:
        """All of it, for scripts."""
        service: Json = None if self.service is None else msgspec.to_builtins(self.service)
        leads = any(client.is_leader for client in self.known.clients)
        return {
            "name": self.name,
            "coordinator_pid": self.known.pid,
            "leader_id": self.known.leader.leader_id if self.known.leader and leads else None,
            "worker_pid": self.worker_pid,
            "clients": [fields_of_client(client) for client in self.known.clients],
            "service": service,
            "problem": self.problem,
        }

    @property
    def picture(self) -> RenderableType:
        """The most of it, for people."""
        leaders = [client for client in self.known.clients if client.is_leader]
        lines: list[tuple[str, str]] = [
            ("host", self.name),
            ("leader", ", ".join(map(describe, leaders)) or "none at the moment"),
            ("worker", "not reached" if self.worker_pid is None else f"pid {self.worker_pid}"),
        ]
        if self.problem is not None:
            lines.append(("problem", self.problem))
        service = self.service
        if service is not None:
            lines.append(("public key", service.public_key))
            lines.extend(("listening", address) for address in service.listening)
        head = Table.grid(padding=(0, 2))
        head.add_column(style="wakeup.label")
        head.add_column(overflow="fold")
        for label, value in lines:
            head.add_row(label, _plain(value))
        tables = [_clients(self.known)]
        if service is not None:
            tables += [_topics(service), _peers(service), _links(service)]
        parts: list[RenderableType] = [head]
        for table in tables:
            if table.row_count:
                parts += ["", table]
        return Group(*parts)


async def look(visitor: Visitor, name: str) -> Overview:
    """Return what there is to see of the host `name`.

    Raises HostNotRunning where nobody has joined it, StreamClosed where the coordinator has gone.
    """
    known = await visitor.known()
    if not known.clients:
        raise HostNotRunning(f"the host {name!r} is not running")
    service, problem = None, None
    try:
        answer: Any = await visitor.call("status", timeout=WORKER_TIME)
        service = msgspec.convert(answer, _Service)
    except (LeaderLost, RequestTimeout):
        problem = "the worker does not answer"
    except (RemoteError, msgspec.ValidationError):
        problem = "the worker is not the service, but one of an application"
    return Overview(name, known, visitor.worker_pid, service, problem)


def fields_of_client(client: Present) -> dict[str, Json]:
    """Return `client` for scripts."""
    return {
        "client_id": client.client_id,
        "pid": client.pid,
        "program": client.program,
        "is_leader": client.is_leader,
        "is_keeper": client.is_keeper,
    }


def describe(client: Present) -> str:
    """Return `client` for people, in ASCII: any program may call itself anything."""
    return f"{ascii(client.program)[1:-1]}, pid {client.pid}"


def _clients(known: Known) -> Table:
    shown = table("process", ">pid", "leads", "keeper", "client")
    for client in known.clients:
        leads, keeps = ("yes" if flag else "" for flag in (client.is_leader, client.is_keeper))
        shown.add_row(
            _plain(client.program), str(client.pid), leads, keeps, _plain(client.client_id)
        )
    return shown


def _topics(service: _Service) -> Table:
    shown = table("topic", ">peers", ">hints", ">watchers", ">announced")
    for topic in service.topics:
        numbers = (topic.peers, topic.hints, topic.watchers, topic.announced)
        shown.add_row(_key(topic.topic), *map(str, numbers))
    return shown


def _peers(service: _Service) -> Table:
    shown = table("peer", "address")
    for peer in service.peers:
        shown.add_row(_key(peer.public_key), _plain(peer.address))
    return shown


def _links(service: _Service) -> Table:
    shown = table("connects to", "state")
    for link in service.links:
        state = "open" if link.is_open else link.error or "connecting"
        shown.add_row(_plain(link.address), _plain(state))
    return shown


def table(*columns: str) -> Table:
    """Return an empty table; a column with > is of numbers."""
    empty = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        justify: Any = "right" if column.startswith(">") else "left"
        empty.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    return empty


def _key(digits: str) -> Text:
    return Text(ascii(digits[:_SHORT])[1:-1], "wakeup.key")


def _plain(text: str) -> Text:
    """Return `text` so that any terminal can show it, and it does nothing there."""
    return Text(ascii(text)[1:-1])
