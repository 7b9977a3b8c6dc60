"""Dissected frames and packets as text and as JSON.

Knows trees and how they look, not where they come from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from protomux.dissect import Direction, Dissection, Node, Problem, udx
from protomux.dissect.frames import Body, bodies
from protomux_wakeup.cli.report import Json
from protomux_wakeup.cli.values import count_of

__all__ = [
    "ARROWS",
    "brief",
    "outline",
    "packet_fields",
    "packet_line",
    "problem_fields",
    "tree_fields",
]

ARROWS: Final = {Direction.IN: "◀──", Direction.OUT: "──▶"}

_SHOWN: Final = 32
"""Bytes, or characters, of a value that people are shown; the keys and proofs have that many."""
_MOST_LINES: Final = 1000
"""Parts of a frame that people are shown; what is not whole comes on top."""
_PACKET_PARTS: Final = ("type", "stream_id", "window", "seq", "ack")
_BRIEF: Final = 4
"""Messages of a batch that are named where it is told in one line."""


def outline(found: Dissection) -> Iterator[str]:
    """Yield a line for each part of a frame: offsets, name, value; then what is wrong, if so."""
    width = len(str(found.root.end))
    left_out = 0
    for number, (depth, node) in enumerate(found.root.walk()):
        if number >= _MOST_LINES and node.is_whole:
            left_out += 1
            continue
        place = f"{node.start:>{width}}..{node.end:<{width}}"
        value = "" if node.children or not node.is_whole else f" {_value(node.value)}"
        broken = "" if node.is_whole else " …"
        yield f"{place}  {'  ' * depth}{node.name}{value}{broken}"
    if left_out:
        yield f"… {count_of(left_out, 'more part')}, which --json shows"
    if found.problem is not None:
        yield f"! {found.problem}"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bytes):
        more = "" if len(value) <= _SHOWN else f"… ({len(value)} bytes)"
        return (value[:_SHOWN].hex() or '""') + more
    if isinstance(value, str):  # quoted: what a peer sends must not move the cursor
        more = "" if len(value) <= _SHOWN else f"… ({len(value)} characters)"
        return json.dumps(value[:_SHOWN]) + more
    return json.dumps(value)


def tree_fields(root: Node) -> dict[str, Json]:
    """Return a tree for scripts; bytes are hex digits."""
    top: dict[str, Json] = {}
    parents: list[dict[str, Any]] = []
    for depth, node in root.walk():
        found: dict[str, Any] = {"name": node.name, "start": node.start, "end": node.end}
        if not node.is_whole:
            found["whole"] = False
        if node.children:
            found["children"] = []
        elif node.is_whole:
            value = node.value
            found["value"] = value.hex() if isinstance(value, bytes) else value
        del parents[depth:]
        if parents:
            parents[-1]["children"].append(found)
        else:
            top = found
        parents.append(found)
    return top


def problem_fields(problem: Problem | None) -> Json:
    """Return what is wrong, for scripts."""
    return None if problem is None else {"offset": problem.offset, "reason": problem.reason}


def brief(found: Dissection) -> str:
    """Return a frame in one line."""
    said = [_brief_body(body) for body in islice(bodies(found.root), _BRIEF + 1)]
    if len(said) > _BRIEF:
        said[_BRIEF:] = ["…"]
    if not said and found.problem is None:
        said = ["empty"] if found.root.end == found.root.start else ["a batch of nothing"]
    if found.problem is not None:
        said.append(f"wrong at {found.problem}")
    return ", ".join(said)


def _brief_body(body: Body) -> str:
    content = body.content
    if body.channel:
        return f"{body.channel}: {_brief_message(body.type, content)}"
    number = _child_value(content, "channel")
    if content.name == "open":
        id = _child_value(content, "id")
        named = "" if id is None else f" {id[:6].hex()}…"
        return f"open {number} {_value(_child_value(content, 'protocol'))}{named}"
    if content.name == "ignored":
        return f"control {body.type}"
    return f"{content.name} {number}"


def _brief_message(type: int, content: Node) -> str:
    match content.name:
        case "payload":
            return f"type {type}, {count_of(content.end - content.start, 'byte')}"
        case "announce":
            return f"announce of {count_of(_child_value(content, 'count') or 0, 'log')}"
        case "info":
            return "active" if _child_value(content, "active") else "inactive"
    return content.name


def _child_value(node: Node, name: str) -> Any:
    child = node.child(name)
    return None if child is None else child.value


def packet_fields(found: Dissection, size: int) -> dict[str, Json]:
    """Return what a UDX packet of `size` bytes says, for scripts; None for what could not be read.

    Of the packet as many bytes were dissected as there were.
    """
    root = found.root
    said = {name: _child_value(root, name) for name in _PACKET_PARTS}
    ranges = [node for node in root.children if node.name == "range" and node.is_whole]
    payload, padding = root.child("payload"), root.child("padding")
    sacks = [[_child_value(each, "start"), _child_value(each, "end")] for each in ranges]
    padded = 0 if padding is None else padding.end - padding.start
    return {
        "size": size,
        "flags": None if said["type"] is None else udx.flags(said["type"]),
        **said,
        "sacks": None if payload is None else sacks,
        "padding": None if payload is None else padded,
        "payload_size": None if payload is None else size - payload.start,
    }


def packet_line(fields: Mapping[str, Any]) -> str:
    """Return a UDX packet in one line."""
    if fields["flags"] is None:
        return count_of(fields["size"], "byte")
    names = [name.upper() if name.isalpha() else name for name in fields["flags"]]
    said = ["+".join(names) or "ACK"]
    said += [
        f"{name.replace('_id', '')} {fields[name]}"
        for name in ("stream_id", "window", "seq", "ack")
        if fields[name] is not None
    ]
    if fields["sacks"]:
        said.append("sacks " + " ".join(f"{start}..{end}" for start, end in fields["sacks"]))
    if fields["padding"]:
        said.append(f"padding {fields['padding']}")
    if fields["payload_size"]:
        said.append(f"payload {count_of(fields['payload_size'], 'byte')}")
    return ", ".join(said)
