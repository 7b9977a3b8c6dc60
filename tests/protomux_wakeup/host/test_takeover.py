from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from .takeover import KINDS, Kind, Takeover


@pytest.mark.parametrize("kinds", [KINDS[:6], KINDS[6:]], ids=["killed", "stopped"])
async def test_whoever_goes_is_replaced_and_nothing_is_lost(
    place: Path, kinds: Sequence[Kind]
) -> None:
    """One round of each kind; `python -m ...takeover` has as many as one likes."""
    await Takeover(place, 4, seed=7).run(kinds)
