"""Inputs that are scripts: what happens, one step after the other. Knows no target.

The first byte says how the scene is set, the steps follow: one byte op, u16 LE size, data. What an
op means is the target's affair. Every input reads as some script, so a fuzzer wastes none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Final, NamedTuple, TypeVar

__all__ = ["MAX_STEPS", "Script", "Step", "crossed", "mutated", "parse", "render"]

MAX_STEPS: Final = 48
"""Steps beyond it are not read: more of the same."""

_HEAD: Final = 3

OpT = TypeVar("OpT", bound=IntEnum)


class Step(NamedTuple):
    """One step; `at(i)` is a byte of its data, 0 where there is none."""

    op: int
    data: bytes = b""

    def at(self, index: int) -> int:
        return self.data[index] if index < len(self.data) else 0

    def among(self, ops: type[OpT]) -> OpT:
        """What the op means to a target; bit 7 is free for something else."""
        return ops((self.op & 0x7F) % len(ops))


class Script(NamedTuple):
    """How the scene is set, and what happens."""

    scene: int
    steps: list[Step]


def parse(data: bytes) -> Script:
    """Read a script; what is cut short is as long as it is."""
    steps: list[Step] = []
    position = 1
    while position < len(data) and len(steps) < MAX_STEPS:
        size = int.from_bytes(data[position + 1 : position + _HEAD], "little")
        begin = position + _HEAD
        steps.append(Step(data[position], data[begin : begin + size]))
        position = begin + size
    return Script(data[0] if data else 0, steps)


def render(scene: int, steps: Iterable[Step]) -> bytes:
    """Return the bytes of a script."""
    parts = [bytes([scene])]
    for step in steps:
        data = step.data[:0xFFFF]
        parts += (bytes([step.op]), len(data).to_bytes(2, "little"), data)
    return b"".join(parts)


def mutated(data: bytes, most: int, seed: int, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """Return a script that differs from `data` in a step or two; `mutate` changes plain bytes."""
    choice = random.Random(seed)
    scene, steps = parse(data)
    for _ in range(choice.choice((1, 1, 1, 2, 3))):
        scene = _change(scene, steps, choice, mutate)
    return render(scene, steps)[:most]


def _change(
    scene: int,
    steps: list[Step],
    choice: random.Random,
    mutate: Callable[[bytes, int], bytes],
) -> int:
    """Change one thing of a script; return its scene."""
    kind = choice.randrange(12)
    index = choice.randrange(len(steps) + 1)
    if kind == 0:
        return choice.randrange(256)
    if kind <= 2 or index == len(steps):
        data = bytes(choice.randrange(8) for _ in range(choice.randrange(6)))
        steps.insert(index, Step(choice.randrange(32), data))
        return scene
    op, data = steps[index]
    if kind == 3:
        del steps[index]
    elif kind == 4:
        steps.insert(choice.randrange(len(steps) + 1), steps[index])
    elif kind == 5:
        other = choice.randrange(len(steps))
        steps[index], steps[other] = steps[other], steps[index]
    elif kind == 6:
        steps[index] = Step(choice.randrange(256), data)
    elif kind == 7:
        cut = choice.randrange(len(data) + 1)
        steps[index : index + 1] = [Step(op, data[:cut]), Step(op, data[cut:])]
    else:
        steps[index] = Step(op, mutate(data, len(data) + 16))
    return scene


def crossed(first: bytes, second: bytes, most: int, seed: int) -> bytes:
    """Return a script that begins as `first` and goes on as `second`."""
    choice = random.Random(seed)
    scene, steps = parse(first)
    _, others = parse(second)
    begin = steps[: choice.randrange(len(steps) + 1)]
    return render(scene, begin + others[choice.randrange(len(others) + 1) :])[:most]
