"""The table of who waits for whom."""

from __future__ import annotations

from protomux.pairing import PairingTable, RemoteChannel


def table() -> PairingTable[str]:
    return PairingTable()


def test_a_place_is_forgotten_when_nobody_waits_there() -> None:
    places = table()
    place = places.at("foo", b"id", ("bar",))
    assert places.find("bar", b"id") is places.find("foo", b"id") is place
    place.expect_answer(1, "own")
    places.forget_if_idle(place)
    assert len(places) == 2
    assert place.answer(1) == "own"
    places.forget_if_idle(place)
    assert len(places) == 0
    assert places.find("foo", b"id") is None
    places.at("foo", None)
    places.clear()
    assert len(places) == 0


def test_places_that_an_alias_joins_become_one() -> None:
    places = table()
    bar, foo = places.at("bar", None), places.at("foo", None)
    bar.wait(RemoteChannel(1, "bar", b""))
    bar.expect_answer(1, "own")
    bar.offers = bar.opened = 1
    bar.last = "own"
    joined = places.at("foo", None, ("bar", "baz"))
    assert joined is foo is bar.current is foo.current
    assert joined.keys == (("foo", None), ("bar", None), ("baz", None))
    assert (joined.offers, joined.opened, joined.last) == (1, 1, "own")
    assert joined.answer_first() == (1, "own")
    assert not joined.expects_answer
    waiting = joined.take_incoming(False)
    assert waiting is not None
    assert waiting.number == 1
    again = places.at("qux", None, ("foo",))
    assert bar.current is again
    assert places.find("bar", None) is again


def test_a_forgotten_name_that_leads_elsewhere_stays() -> None:
    places = table()
    old = places.at("foo", None)
    new = places.at("bar", None, ("foo",))
    places.forget_if_idle(old)
    assert places.find("foo", None) is new


def test_reservations_keep_the_first_and_give_up_the_rest() -> None:
    place = table().at("foo", None)
    assert not place.reserve()
    remotes: list[RemoteChannel[str]] = [RemoteChannel(number, "foo", b"") for number in (1, 2, 3)]
    for remote in remotes:
        place.wait(remote)
    assert place.reserve()
    assert place.take_unreserved() == remotes[1:]
    assert not place.reserve()
    assert place.take_incoming(True) is remotes[0]
    assert place.take_incoming(False) is None
    assert place.is_idle
