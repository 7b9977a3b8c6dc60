"""What happens to two streams, drawn from one number: paths, writes, pauses, ends, moves, destroys.

A `Schedule` is plain data: it is drawn by a `Random`, which may be Hypothesis', is written as one
line, and is played in virtual time under the eyes of a referee for each side.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from math import inf
from random import Random
from typing import Any, Final

from protomux.udx.recovery import MAX_TIMEOUTS, MOST_TIMEOUT
from protomux.udx.stream import WINDOW, Life
from tests.protomux.udx.simulation import Path, Simulation

__all__ = ["Action", "Played", "Schedule", "draw", "play"]

_PATIENCE: Final = 900.0
"""Seconds after the last action within which all must be over. What takes longest is a path that
loses a fifth each way, on which the timeout is often doubled, and then giving up, which takes at
most the second."""

_GIVING_UP: Final = (MAX_TIMEOUTS + 2) * MOST_TIMEOUT


@dataclass(frozen=True)
class Action:
    """Something that an application, or a peer's address, does.

    Attributes:
        at: seconds after the begin.
        side: 0 or 1.
        what: "write", "message" or "read" so many bytes; "end", "pause", "resume", "destroy"; "keep
            alive" every so many seconds; "move": the other side is somewhere else, and `paths` lead
            there and back, by this version of IP; "reroute": it is reached by the first of them.
        amount: see `what`.
    """

    at: float
    side: int
    what: str
    amount: int = 0
    paths: tuple[Path, Path] | None = None


@dataclass(frozen=True)
class Schedule:
    """All that happens to two streams.

    Attributes:
        seed: of what the paths do to each datagram.
        there, back: the paths at first.
        windows: bytes that the sides have room for.
        actions: in the order of their times.
    """

    seed: int
    there: Path
    back: Path
    windows: tuple[int, int]
    actions: tuple[Action, ...]

    def __str__(self) -> str:
        """Return it as one line, for `parse`."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read what `str` has written."""
        found = json.loads(text)
        actions = []
        for each in found["actions"]:
            paths = each.pop("paths")
            actions.append(Action(**each, paths=paths and (_path(paths[0]), _path(paths[1]))))
        return cls(
            found["seed"],
            _path(found["there"]),
            _path(found["back"]),
            (found["windows"][0], found["windows"][1]),
            tuple(actions),
        )


def _path(found: dict[str, Any]) -> Path:
    return Path(**{**found, "blackout": tuple(found["blackout"])})


@dataclass(frozen=True)
class Played:
    """What came of a schedule.

    Attributes:
        ending: "ended" in order, "destroyed" by an application, or "given up".
        seconds: of virtual time.
        packets, lost: datagrams that went out, and those of them that did not arrive.
        size: bytes that arrived in order.
    """

    ending: str
    seconds: float
    packets: int
    lost: int
    size: int


# Drawing


def draw(random: Random) -> Schedule:
    """Return a schedule; all of it follows from what `random` says."""
    seed = random.randrange(2**32)
    paths = _draw_path(random), _draw_path(random)
    if random.random() < 0.3:
        paths = paths[0], paths[0]
    windows = _draw_window(random), _draw_window(random)
    actions: list[Action] = []
    for side in (0, 1):
        _draw_life(random, side, actions)
    if random.random() < 0.2:
        for _ in range(random.choice((1, 1, 2, 3))):
            to = _draw_path(random), _draw_path(random)
            what, ip = random.choice(("move", "move", "reroute")), random.choice((4, 6))
            actions.append(Action(_draw_time(random), random.randrange(2), what, ip, to))
    if random.random() < 0.1:
        actions.append(Action(_draw_time(random), random.randrange(2), "destroy"))
    actions.sort(key=lambda action: action.at)
    return Schedule(seed, *paths, windows, tuple(actions))


def _draw_path(random: Random) -> Path:
    """Every part is left out more often than not, so that what is there can be told apart."""

    def maybe(part: float, value: Callable[[], float], other: float = 0.0) -> float:
        return value() if random.random() < part else other

    rate = maybe(0.5, lambda: random.choice((12_500_000, 1_250_000, 125_000, 30_000)), inf)
    begin = maybe(0.2, lambda: _draw_time(random), inf)
    length = random.choice((0.1, 0.5, 2.0, 5.0, 5.0, 20.0, 60.0, 200.0))
    return Path(
        delay=random.choice((0.0, 0.0005, 0.01, 0.02, 0.05, 0.1, 0.2)),
        jitter=maybe(0.4, lambda: random.choice((0.001, 0.01, 0.05, 0.2))),
        loss=maybe(0.6, lambda: random.choice((0.01, 0.02, 0.05, 0.1, 0.2))),
        duplication=maybe(0.3, lambda: random.choice((0.01, 0.1, 0.5))),
        late=maybe(0.3, lambda: random.choice((0.01, 0.1, 0.3))),
        lateness=random.choice((0.002, 0.02, 0.1, 0.5)),
        rate=rate,
        queue=random.choice((6_000, 20_000, 100_000)) if rate < inf else inf,
        largest=random.choice((1500, 1500, 1420, 1280, 1200)),
        blackout=(begin, begin + length),
    )


def _draw_window(random: Random) -> int:
    return WINDOW if random.random() < 0.7 else random.choice((200_000, 30_000, 5_000, 1_000))


def _draw_time(random: Random) -> float:
    """Most things happen early, when there is most to go wrong; some after a silence."""
    return round(random.choice((0.0, 0.05, 0.3, 2.0, 20.0)) * random.random(), 4)


def _draw_life(random: Random, side: int, actions: list[Action]) -> None:
    """Append what one application does: it ends its half at last, and reads all that comes."""
    last = 0.0

    def add(at: float, what: str, amount: int = 0) -> float:
        nonlocal last
        last = max(last, at)
        actions.append(Action(at, side, what, amount))
        return at

    for _ in range(random.choice((0, 1, 1, 1, 2, 3, 6))):
        most = random.choice((1, 100, 3_000, 30_000, 30_000, 100_000))
        add(_draw_time(random), "write", 1 + random.randrange(most))
    if random.random() < 0.2:
        for _ in range(random.randrange(1, 6)):
            add(_draw_time(random), "message", random.randrange(1_000))
    if random.random() < 0.3:
        at = add(_draw_time(random), "pause")
        for _ in range(random.randrange(4)):
            at = add(at + _draw_time(random), "read", 1 + random.randrange(20_000))
        add(at + _draw_time(random), "resume")
    if random.random() < 0.15:
        add(_draw_time(random), "keep alive", random.randrange(1, 20))
    add(last + random.choice((0.0, 0.0, 0.0, 0.1, 3.0, 30.0)), "end")


# Playing


class _Actor:
    """Does what the schedule says."""

    def __init__(self, schedule: Schedule) -> None:
        self.simulation = Simulation(
            schedule.seed, schedule.there, schedule.back, windows=schedule.windows
        )
        self.sides = self.simulation.a, self.simulation.b
        self.content = Random(schedule.seed)
        self.was_destroyed = False
        self.last = max((action.at for action in schedule.actions), default=0.0)
        self.messages: tuple[list[bytes], list[bytes]] = [], []
        for action in schedule.actions:
            self.simulation.at(action.at, partial(self.do, action))

    def do(self, action: Action) -> None:
        side = self.sides[action.side]
        stream, now = side.stream, self.simulation.now
        if stream.life is not Life.OPEN:
            if action.what == "resume":
                side.is_reading = True
            return
        match action.what:
            case "write":
                side.write(self.content.randbytes(action.amount))
            case "message":
                data = self.content.randbytes(action.amount)
                self.messages[action.side].append(data)
                stream.send_message(data)
            case "end":
                stream.end()
            case "pause":
                side.is_reading = False
            case "read":
                side.read(action.amount)
            case "resume":
                side.read_all()
            case "keep alive":
                stream.set_keep_alive(action.amount, now)
            case "destroy":
                self.was_destroyed = True
                side.destroy()
            case "move":
                assert action.paths is not None
                side.move(*action.paths, ip_version=action.amount)
            case "reroute":
                assert action.paths is not None
                side.reroute(action.paths[0], action.amount)
            case _:
                raise ValueError(f"expected something to do, got {action.what!r}")
        side.flush()

    def is_over(self) -> bool:
        """Nothing more will come of it."""
        if self.simulation.now < self.last or any(side.is_busy for side in self.sides):
            return False
        # Who waits for one that is gone, and has nothing to say to it, waits for ever.
        lives = [side.stream.life for side in self.sides]
        return Life.CLOSED in lives or all(life is Life.LINGERING for life in lives)

    def check_end(self) -> str:
        """Look at how it ended, and return what to call that."""
        a, b = self.sides
        for side, other, sent in zip((a, b), (b, a), reversed(self.messages), strict=True):
            assert len(side.closings) <= 1, f"{side.stream!r} was closed {side.closings}"
            assert all(message in sent for message in side.messages), "a message nobody has sent"
            if side.closings == [None] and not self.was_destroyed:
                assert side.received == other.written, f"{side.stream!r} ended without all bytes"
                assert side.ends == 1
        if self.was_destroyed:
            return "destroyed"
        if a.closings == b.closings == [None]:
            return "ended"
        # One side has given up, and the other too, or waits for ever. That there was a reason was
        # looked at by the referee, when it happened.
        return "given up"


def play(schedule: Schedule) -> Played:
    """Let it happen; AssertionError as soon as something is not by the rules."""
    actor = _Actor(schedule)
    simulation = actor.simulation
    paths = [schedule.there, schedule.back]
    paths += [path for action in schedule.actions for path in action.paths or ()]
    dark = max((path.blackout[1] for path in paths if path.blackout[0] < inf), default=0.0)
    limit = max(actor.last, dark) + _GIVING_UP + _PATIENCE
    simulation.run(actor.is_over, most=limit)
    return Played(
        actor.check_end(),
        simulation.now,
        sum(side.sent for side in actor.sides),
        sum(side.lost for side in actor.sides),
        sum(len(side.received) for side in actor.sides),
    )
