"""Every attack there is, family by family."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from tests.attacks import batches, conversations, datagrams, handshakes, numbers, opens, wakeups
from tests.attacks.attack import Attack

__all__ = ["ATTACKS"]


def _attacks(family: ModuleType) -> list[Attack]:
    return [each for each in vars(family).values() if isinstance(each, Attack)]


ATTACKS: Final = tuple(
    each
    for family in (handshakes, conversations, numbers, opens, batches, wakeups, datagrams)
    for each in _attacks(family)
)
"""In the order in which they are made."""
