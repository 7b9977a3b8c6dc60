"""Joining a host, with a worker of the application's or with the service. Knows both, and no more.

With a `worker` the application gets a `Client`, and says itself what is asked there; without one
the worker is the service that this library ships, and the application gets its `ServiceClient`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, overload

from protomux_wakeup.host.leader import Client
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.service_client import ServiceClient

__all__ = ["join"]

SERVICE: Final = "protomux_wakeup.host.service:main"
"""The worker of those who bring none."""


@overload
def join(
    name: str,
    worker: str,
    *,
    options: Mapping[str, Any] | None = None,
    on_connect: Callable[[Client], object] | None = None,
    on_leader_change: Callable[[Client], object] | None = None,
    directory: str | os.PathLike[str] | None = None,
    is_keeper: bool = False,
    program: str | None = None,
    limits: Limits = Limits(),
) -> Client: ...


@overload
def join(
    name: str,
    worker: None = None,
    *,
    watcher: str | None = None,
    state: str | os.PathLike[str] | None = None,
    on_leader_change: Callable[[Client], object] | None = None,
    directory: str | os.PathLike[str] | None = None,
    is_keeper: bool = False,
    program: str | None = None,
    limits: Limits = Limits(),
) -> ServiceClient: ...


def join(
    name: str,
    worker: str | None = None,
    *,
    watcher: str | None = None,
    state: str | os.PathLike[str] | None = None,
    options: Mapping[str, Any] | None = None,
    on_connect: Callable[[Client], object] | None = None,
    on_leader_change: Callable[[Client], object] | None = None,
    directory: str | os.PathLike[str] | None = None,
    is_keeper: bool = False,
    program: str | None = None,
    limits: Limits = Limits(),
) -> Client | ServiceClient:
    """Return a client of the host `name`, which joins as an async context manager.

    ```python
    async with host.join("notes", watcher="indexer") as client:
        await client.watch(capability)
        async for hint in client.hints():
            ...

    async with host.join("sums", worker="sums.worker:main") as client:
        print(await client.call("add", [1, 2]))
    ```

    What entering may raise is said by `Client`. All processes of this user that join the host share
    one worker, so they have to name the same one: who names another gets WorkerFailed.

    Args:
        name: of the host.
        worker: "package.module:function": an async function of one argument, a `Worker`. None is
            the service.
        watcher: for the service: the name under which is kept what this process has acknowledged;
            see `ServiceClient`.
        state: for the service: the directory of its file, see `service.state_directory`; that of
            the process that leads counts.
        options: JSON for a worker of one's own, as `worker.options`; those of the process that
            leads count.
        on_connect: for a worker of one's own: on_connect(client), plain or async, for every worker
            that the client gets to, before any call goes there but its own.
        on_leader_change: on_leader_change(client), plain or async, when another leader has taken
            over, after on_connect; with the service, it gets `ServiceClient.client`.
        directory: where the host's directory is; see `places.host_path`.
        is_keeper: this process is there to keep the host up, and may be asked to leave.
        program: what this process is called where a host's processes are listed; by the name of its
            command without it.
        limits: how long is waited for others.

    Raises TypeError for an argument of the one kind of worker that is given for the other.
    """
    foreign: dict[str, object] = (
        {"options": options, "on_connect": on_connect}
        if worker is None
        else {"watcher": watcher, "state": state}
    )
    for argument, value in foreign.items():
        if value is not None:
            whose = "a worker of one's own" if worker is None else "the service"
            raise TypeError(f"expected {argument} for {whose} only")
    if state is not None:
        options = {"state": os.path.abspath(state)}
    client = Client(
        name,
        SERVICE if worker is None else worker,
        options=options or {},
        on_connect=on_connect,
        on_leader_change=on_leader_change,
        directory=directory,
        is_keeper=is_keeper,
        program=program,
        limits=limits,
    )
    return ServiceClient(client, watcher) if worker is None else client
