"""Where the command meets peers: an address without one ends the run. Knows no topic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Unpack

from protomux.streams import SecretStream, SecretStreamOptions, Server
from protomux_wakeup import endpoint
from protomux_wakeup.address import Address
from protomux_wakeup.cli.process import Failure
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import short

__all__ = ["allow_only", "connect", "listening"]


async def connect(address: Address, **options: Unpack[SecretStreamOptions]) -> SecretStream:
    """As `protomux_wakeup.endpoint.connect`; raises Failure where no stream comes about."""
    try:
        return await endpoint.connect(address, **options)
    except endpoint.EndpointError as error:
        raise Failure(str(error)) from error


@asynccontextmanager
async def listening(
    on_stream: Callable[[SecretStream], object],
    address: Address,
    **options: Unpack[SecretStreamOptions],
) -> AsyncIterator[Server]:
    """As `protomux_wakeup.endpoint.listening`; raises Failure where it cannot listen."""
    try:
        async with endpoint.listening(on_stream, address, **options) as server:
            yield server
    except endpoint.EndpointError as error:
        raise Failure(str(error)) from error


def allow_only(keys: Collection[bytes], report: Reporter) -> Callable[[bytes], bool] | None:
    """Return a firewall that lets in peers with one of `keys`, and says whom it refused.

    None, which lets everybody in, where there are no keys.
    """
    if not keys:
        return None

    def is_refused(key: bytes) -> bool:
        if key in keys:
            return False
        report.say(
            "refused",
            f"{short(key)} is not on the --firewall list",
            {"peer": key.hex()},
            details=[f"public key {key.hex()}"],
        )
        return True

    return is_refused
