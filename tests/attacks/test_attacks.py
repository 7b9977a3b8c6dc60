"""Each attack at a small size against the Python victim, beside an honest peer.

One victim serves all of them, so what one attack leaves behind or breaks is seen at once. Its
bounds are small, for the attacks to reach them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.attacks.attack import MARK, Attack, Fate
from tests.attacks.catalogue import ATTACKS
from tests.attacks.connection import Connection
from tests.attacks.honest import Honest
from tests.attacks.process import VictimProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMITS: Final[dict[str, Any]] = {
    "channels": 8000,
    "waiting_opens": 1000,
    "waiting_size": 2**20,
    "waiting_time": 1.0,
    "unsent_most": 2**18,
    "handshake_time": 1.0,
    "handshakes": 30,
    "proof_time": 1.0,
    "streams": 50,
    "lookups": [2000, 1000],
    "paused_time": 2.0,
}
ERRORS: Final = {
    "EncodingError",
    "HandshakeError",
    "LimitExceeded",
    "ProtocolError",
}
IMPATIENT, PATIENT = 1.0, 10.0
"""Seconds without an answer that count as paused; long where that is no good answer."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def victims() -> AsyncIterator[list[VictimProcess]]:
    """The victim, as the only one of a list: a test that finds it dead puts another there."""
    victims = [await VictimProcess.start("python", LIMITS)]
    yield victims
    await victims[0].end()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_held(attack: Attack, victims: list[VictimProcess]) -> None:
    async with asyncio.timeout(60):
        try:
            await _check(attack, victims[0])
        except BaseException:
            await victims[0].end()
            victims[0] = await VictimProcess.start("python", LIMITS)
            raise


async def _check(attack: Attack, victim: VictimProcess) -> None:
    target = victim.target(IMPATIENT if Fate.PAUSED in attack.fates else PATIENT)
    secret = target.secrets.capability
    before = await victim.status()
    honest = await Honest.join(target.host, target.port, secret)
    asking = asyncio.ensure_future(honest.ask_on())

    outcome = await attack.make(target, attack.small)

    newcomer = await Honest.join(target.host, target.port, secret)
    assert not asking.done(), "the honest peer was cut"
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await honest.ask()
    for peer in (honest, newcomer):
        assert peer.wrong == 0
        peer.leave()
    status, left = await victim.clean(before, seconds=15)
    errors = status.errors_since(before)
    assert left == {}, (outcome, errors)
    assert outcome.fate in attack.fates, (outcome, errors)
    assert errors.keys() <= ERRORS
    if outcome.fate is Fate.DESTROYED:
        assert errors
    for hash, most in target.forbidden.items():
        assert status["heard"].get(hash.hex(), 0) <= most


async def test_hooks_that_hear_the_unproven_would_be_seen(victims: list[VictimProcess]) -> None:
    """The victim counts what it hears: a genuine lookup is found there."""
    target = victims[0].target(PATIENT)
    connection: Connection = await target.connect()
    hash = MARK + bytes(24)
    await target.join(connection)
    await connection.send(b"\x01\x00\x01" + hash)
    await connection.until(lambda: connection.messages > 0)
    target.leave()
    assert (await victims[0].status())["heard"][hash.hex()] == 1
