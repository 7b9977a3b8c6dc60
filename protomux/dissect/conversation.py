"""The frames of one stream, both ways, in order. Knows which channel speaks which protocol.

A number belongs to its sender, and to the protocol that it last opened it for, until the sender
closes it or the peer rejects it. What a channel of a known protocol says is taken apart; what
another says, or one whose open was not seen, stays as it is.

Whether an open, a reject or a close fits what both sides have done before is not judged here: a
mux knows that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Final, NamedTuple

from protomux.dissect import wakeup
from protomux.dissect.frames import CONTROL, Body, Control, bodies, frame
from protomux.dissect.tree import Dissection, Format, Node, Problem, dissect

__all__ = ["KNOWN", "Conversation", "Direction", "Protocol"]


class Direction(Enum):
    """Which way a frame went, seen from the side that wrote it down."""

    IN = "<"
    OUT = ">"

    @property
    def opposite(self) -> Direction:
        """The other one."""
        return Direction.IN if self is Direction.OUT else Direction.OUT


class Protocol(NamedTuple):
    """What a protocol sends.

    Attributes:
        handshake: format of what goes along with its open, None if that is nothing.
        messages: names and formats of its messages, by type.
    """

    handshake: Format | None
    messages: Sequence[tuple[str, Format]]


KNOWN: Final[Mapping[str, Protocol]] = MappingProxyType(
    {wakeup.PROTOCOL: Protocol(wakeup.handshake, wakeup.MESSAGES)}
)
"""The protocols of this package, by name."""


class Conversation:
    """Takes frames apart, one after the other."""

    def __init__(self, protocols: Mapping[str, Protocol] = KNOWN) -> None:
        self._protocols = protocols
        self._channels: dict[tuple[Direction, int], Protocol] = {}

    def read(self, direction: Direction, data: bytes) -> Dissection:
        """Return the tree of a frame that went this way. Raises nothing, whatever it is."""
        found = dissect(frame, data, name="frame")
        problem: Problem | None = None
        for body in bodies(found.root):
            if body.channel == CONTROL:
                wrong = self._control(direction, body, data)
            else:
                wrong = self._message(direction, body, data)
            problem = problem or wrong
        return Dissection(found.root, found.value, problem or found.problem)

    def _control(self, direction: Direction, body: Body, data: bytes) -> Problem | None:
        number = body.content.child("channel")
        if number is None:
            return None
        if body.type == Control.CLOSE:
            self._channels.pop((direction, number.value), None)
        elif body.type == Control.REJECT:
            self._channels.pop((direction.opposite, number.value), None)
        elif body.type == Control.OPEN:
            return self._open(direction, number.value, body.content, data)
        return None

    def _open(
        self, direction: Direction, number: int, content: Node, data: bytes
    ) -> Problem | None:
        name, handshake = content.child("protocol"), content.child("handshake")
        assert name is not None
        assert handshake is not None
        protocol = self._protocols.get(name.value)
        if protocol is None:
            self._channels.pop((direction, number), None)
            return None
        self._channels[direction, number] = protocol
        if protocol.handshake is None:
            return None
        return _refine(handshake, "handshake", protocol.handshake, data)

    def _message(self, direction: Direction, body: Body, data: bytes) -> Problem | None:
        protocol = self._channels.get((direction, body.channel))
        if protocol is None or body.type >= len(protocol.messages):
            return None
        return _refine(body.content, *protocol.messages[body.type], data)


def _refine(node: Node, name: str, format: Format, data: bytes) -> Problem | None:
    """Put the parts of a `format` in the place of the bytes that a node held."""
    end = node.end
    found = dissect(format, data, node.start, end, name=name)
    root = found.root
    node.name, node.value, node.children = name, root.value, root.children
    node.is_whole = root.is_whole
    if found.problem is not None:
        node.end = root.end
    elif root.end < end:
        rest = data[root.end : end]
        node.children.append(Node("ignored", root.end, end, rest, is_whole=True))
    return found.problem
