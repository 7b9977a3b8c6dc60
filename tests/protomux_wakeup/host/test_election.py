from __future__ import annotations

import asyncio
import os
from pathlib import Path

from protomux_wakeup.host.election import Election


async def test_the_next_in_the_queue_leads_in_a_later_term(place: Path) -> None:
    first, second = Election(str(place)), Election(str(place))
    leadership = await first.win()
    waiting = asyncio.create_task(second.win())
    await asyncio.sleep(0)
    assert not waiting.done()
    leadership.resign()
    next_one = await waiting
    assert next_one.term > leadership.term
    assert next_one.number == leadership.number
    next_one.resign()


async def test_terms_grow_though_the_clock_goes_back(place: Path) -> None:
    (place / "leader-0.lock").write_text(str(2**50))
    leadership = await Election(str(place)).win()
    assert leadership.term == 2**50 + 1
    leadership.resign()


async def test_what_is_no_term_is_none(place: Path) -> None:
    (place / "leader-0.lock").write_text("what is that")
    leadership = await Election(str(place)).win()
    assert leadership.term > 1_700_000_000_000
    leadership.resign()


async def test_who_does_not_answer_is_passed_by(place: Path) -> None:
    hung, first, second, late = (Election(str(place)) for _ in range(4))
    old = await hung.win()
    waiting = [asyncio.create_task(each.win()) for each in (first, second)]
    await asyncio.sleep(0)
    first.pass_by(first.number)
    second.pass_by(0)  # both noticed it, one a little later
    (done,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    leadership = done.result()
    assert (leadership.number, old.number) == (1, 0)
    assert leadership.term > old.term
    assert not old.stands()
    assert leadership.stands()
    # Who held the old lock does not get past the new one, nor does who comes now.
    old.resign()
    again, newcomer = asyncio.create_task(hung.win()), asyncio.create_task(late.win())
    await asyncio.sleep(0)
    assert sorted(os.listdir(place)) == ["leader-1.lock"]
    leadership.resign()
    terms = [leadership.term]
    queue = {again, newcomer, *waiting} - {done}
    while queue:
        (done,), queue = await asyncio.wait(queue, return_when=asyncio.FIRST_COMPLETED)
        assert done.result().number == 1
        terms.append(done.result().term)
        done.result().resign()
    assert terms == sorted(set(terms))


async def test_who_waits_for_the_old_lock_follows(place: Path) -> None:
    hung, follower, other = (Election(str(place)) for _ in range(3))
    old = await hung.win()
    waiting = asyncio.create_task(follower.win())
    await asyncio.sleep(0)
    other.pass_by(0)
    follower.look()  # it has heard that somebody leads by another lock
    leadership = await waiting
    assert leadership.number == 1
    old.resign()
    leadership.resign()


async def test_who_gives_up_keeps_nothing(place: Path) -> None:
    first, second = Election(str(place)), Election(str(place))
    leadership = await first.win()
    waiting = asyncio.create_task(second.win())
    await asyncio.sleep(0)
    leadership.resign()
    waiting.cancel()
    await asyncio.wait((waiting,))
    (await first.win()).resign()
