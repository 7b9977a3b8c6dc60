"""Python imports this by its name at the start of every process that has it on its path."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import count

from protomux_wakeup import Peer, Session

_kind, _, _number = os.environ["SABOTAGE"].partition(":")
_numbers = count()
_announce = Session.announce


def _spoiled(session: Session, peer: Peer, writers: Iterable[tuple[bytes, int]]) -> bool:
    if next(_numbers) != int(_number):
        return _announce(session, peer, writers)
    (key, length), *rest = writers
    if _kind == "lose":
        return True
    if _kind == "repeat":
        _announce(session, peer, [(key, length), *rest])
    elif _kind == "length":
        length += 1
    elif _kind == "key":
        key = bytes(32)
    return _announce(session, peer, [(key, length), *rest])


Session.announce = _spoiled  # type: ignore[assignment,method-assign]
