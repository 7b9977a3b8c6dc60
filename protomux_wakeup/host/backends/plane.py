"""The engine whose backends run in a cluster: Jamsocket's, Plane's, or our own server elsewhere.

A backend there outlives us. What the cluster has answered is kept in a file, so that the next
manager finds it; where there was no time to write that, it is asked for by its key. Such a backend
has no stdin: news are posted to it, as {"news": [[topic, key, length], ...]} with topic and key in
hex, at "hints" under its address, as soon as it is ready; any 2xx acknowledges them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Collection
from functools import partial
from pathlib import Path

from protomux.errors import ProtocolError
from protomux_wakeup.host.backends.cluster import (
    Backoff,
    Cluster,
    ClusterLimits,
    Malformed,
    Refused,
    check_base,
    check_token,
)
from protomux_wakeup.host.backends.dialects import Dialect, read_response
from protomux_wakeup.host.backends.engine import EngineError, Launch, Listener
from protomux_wakeup.host.backends.remote import RemoteBackend
from protomux_wakeup.host.backends.types import BackendStatus, ConnectResponse, decode, encode
from protomux_wakeup.host.places import private_directory

__all__ = ["PlaneEngine"]

_log = logging.getLogger("protomux_wakeup.host")

_TERM = "term"


class PlaneEngine:
    """An `Engine`; see there. Launches have no command: the cluster knows what it runs.

    `ClusterLimits` says how long it waits. A backend that the cluster does not know any more, or of
    which nothing is heard for too long, is lost.
    """

    def __init__(
        self,
        base: str,
        dialect: Dialect,
        directory: str | os.PathLike[str],
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        limits: ClusterLimits = ClusterLimits(),
    ) -> None:
        """Speak `dialect` to the cluster at `base` ("https://api.jamsocket.com").

        Args:
            base: its address, of http or https.
            dialect: see `jamsocket` and `plane`.
            directory: for what is kept of backends; made, for us alone, where there is none.
            token: that the cluster asks for. Goes to no other host, and over TLS alone, but for
                this machine.
            tls: which certificates are good; those of the system where it is None.
            limits: bounds.

        Raises ValueError for an address or a token that is none.
        """
        check_token(token)
        self._base = check_base(base, has_token=token is not None)
        self._dialect = dialect
        self._directory = Path(directory)
        self._token = token
        self._tls = tls
        self._limits = limits
        self._cluster: Cluster | None = None
        self._backends: list[RemoteBackend] = []

    def __repr__(self) -> str:
        return f"<PlaneEngine {self._base}>"

    async def open(self, term: int) -> None:
        """See `Engine`. Raises EngineError for a term that is lower than one before."""
        try:
            private_directory(self._directory)
            self._check(term)
            self._write(_TERM, str(term).encode())
        except OSError as error:
            raise EngineError(f"cannot keep anything of backends: {error}") from error
        if self._cluster is None:
            self._cluster = Cluster(
                self._base, token=self._token, tls=self._tls, limits=self._limits
            )

    async def start(self, launch: Launch, listener: Listener) -> RemoteBackend:
        """See `Engine`. The first states are those that the cluster has before `starting`.

        Where this raises after the cluster was reached, a backend may run there all the same, until
        it is idle or the next one of its key is asked for.
        """
        cluster = self._connected()
        self._check(launch.term)
        response = await self._connect(cluster, launch)
        if self._cluster is not cluster:
            raise EngineError("the engine was closed while a backend was started")
        self._keep(launch.backend_id, response)
        return self._run(cluster, launch, listener, response)

    async def adopt(self, launch: Launch, listener: Listener, seen: BackendStatus) -> RemoteBackend:
        """See `Engine`. Never None: where nothing is known of it, it will be `terminated`, lost."""
        cluster = self._connected()
        return self._run(cluster, launch, listener, self._kept(launch.backend_id), seen)

    async def log(self, backend_id: str) -> bytes:
        """Return nothing: what it writes stays in the cluster."""
        return b""

    async def settle(self, backend_ids: Collection[str]) -> None:
        """Nothing: the cluster keeps what it likes."""

    async def forget(self, backend_id: str) -> None:
        """See `Engine`: drop what is kept of it."""
        self._path(backend_id).unlink(missing_ok=True)

    async def close(self) -> None:
        """See `Engine`."""
        cluster, self._cluster = self._cluster, None
        for backend in self._backends:
            await backend.close()
        self._backends.clear()
        if cluster is not None:
            await cluster.close()

    def _connected(self) -> Cluster:
        if self._cluster is None:
            raise RuntimeError("expected an engine that is open")
        return self._cluster

    def _run(
        self,
        cluster: Cluster,
        launch: Launch,
        listener: Listener,
        response: ConnectResponse | None,
        seen: BackendStatus | None = None,
    ) -> RemoteBackend:
        backend = RemoteBackend(
            launch,
            listener,
            cluster,
            self._dialect,
            response=response,
            seen=seen,
            limits=self._limits,
            on_found=partial(self._keep, launch.backend_id),
        )
        self._backends = [each for each in self._backends if not each.is_over]
        self._backends.append(backend)
        return backend

    async def _connect(self, cluster: Cluster, launch: Launch) -> ConnectResponse:
        """Ask for a backend until there is an answer: with a key that does no harm."""
        request = self._dialect.request(launch, True)
        backoff = Backoff(self._limits)
        failure: EngineError | None = None
        try:
            async with asyncio.timeout(self._limits.start_time):
                while self._cluster is cluster:
                    try:
                        return read_response(await cluster.ask(self._dialect.connect, request))
                    except Malformed:
                        raise
                    except EngineError as error:
                        if isinstance(error, Refused) and error.is_final:
                            raise
                        _log.info("backend %s: %s", launch.backend_id, error)
                        failure = error
                    await asyncio.sleep(backoff.next(failure))
        except TimeoutError:
            seconds = self._limits.start_time
            raise EngineError(f"the cluster has started none in {seconds:g} s: {failure}") from None
        except ProtocolError as error:
            raise Malformed(f"the cluster has answered what is no backend: {error}") from None
        raise EngineError("the engine was closed while a backend was started")

    # What is kept.

    def _check(self, term: int) -> None:
        """Raise EngineError where there was a later term."""
        try:
            latest = int((self._directory / _TERM).read_bytes())
        except (FileNotFoundError, ValueError):
            return
        if term < latest:
            raise EngineError(f"expected a term of {latest} or later, got {term}")

    def _path(self, backend_id: str) -> Path:
        return self._directory / f"{backend_id}.json"

    def _keep(self, backend_id: str, response: ConnectResponse) -> None:
        try:
            self._write(self._path(backend_id).name, encode(response))
        except OSError as error:  # it is found by its key, then
            _log.warning("cannot keep where backend %s is: %s", backend_id, error)

    def _kept(self, backend_id: str) -> ConnectResponse | None:
        try:
            data = self._path(backend_id).read_bytes()
            return decode(data, ConnectResponse)
        except FileNotFoundError:
            return None
        except (OSError, ProtocolError) as error:
            _log.warning("cannot read where backend %s is: %s", backend_id, error)
            return None

    def _write(self, name: str, data: bytes) -> None:
        """Write a file for our eyes only, whole or not at all."""
        draft = self._directory / f".{name}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        draft.replace(self._directory / name)
