"""Many processes of one user, and one worker that holds sockets, keys and store for all.

Arrows run downwards only:

    backends                      a package: processes that run when there is something to do
    joining, visitor              taking part in a host; looking at one from outside
    service_client                a process's half of the service
    leader                        one process's part: takeover, calls
    leading, session              running the worker; being served by it
    coordination                  a client's connection to the coordinator
    coordinator, worker_process   the processes of a host's own (__main__ starts them)
    service                       the worker that is shipped
    worker                        what main(worker) gets
    calls, ports                  requests over a mux; the private sockets under it
    election, remains, messages   who leads; what is left of a host; what is said
    delivery, hints, database     what watchers get, and where that is kept
    addresses, links              who wants which peer; the streams to them
    jitpc: client, server, unix   just-in-time servers: both ends, and their sockets;
    loop_end                      what idles is closed with its event loop
    lines, rpc                    requests over lines of JSON
    pulse, processes              who is silent; ending who hangs, and nobody else
    locks, places                 locks of the kernel; whose a file is
    errors, limits, params
"""

from __future__ import annotations

from protomux_wakeup.host.errors import (
    ForeignPeer,
    HostNotRunning,
    LeaderLost,
    RemoteError,
    RequestTimeout,
    StoreFailed,
    WatcherReplaced,
    WorkerFailed,
)
from protomux_wakeup.host.joining import join
from protomux_wakeup.host.leader import Client
from protomux_wakeup.host.limits import Limits
from protomux_wakeup.host.service_client import Hint, ServiceClient
from protomux_wakeup.host.visitor import Visitor, visit
from protomux_wakeup.host.worker import Session, Worker

__all__ = [
    "Client",
    "ForeignPeer",
    "Hint",
    "HostNotRunning",
    "LeaderLost",
    "Limits",
    "RemoteError",
    "RequestTimeout",
    "ServiceClient",
    "Session",
    "StoreFailed",
    "Visitor",
    "WatcherReplaced",
    "Worker",
    "WorkerFailed",
    "join",
    "visit",
]
