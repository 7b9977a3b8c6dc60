"""Every format of the wire, declared twice: by the fast codec, and by `protomux.dissect`.

Knows how to make values and change bytes, and how to compare what the two make of them. `agree`
does it a million times, the tests with what Hypothesis thinks of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias

from protomux import dissect, encoding
from protomux.dissect import compact, frames, udx, wakeup
from protomux.dissect.tree import plain
from protomux.encoding import Encoding
from protomux.errors import EncodingError, ProtocolError
from protomux.frames import (
    CONTROL,
    SWITCH,
    Control,
    close_body,
    decode_open,
    encode_batch,
    encode_frame,
    iter_batch,
    open_body,
    reject_body,
)
from protomux.udx.packet import Packet, Type, decode_packet, encode_packet
from protomux_wakeup import messages

__all__ = ["ALL_CASES", "CASES", "Case", "Disagreement", "mutated"]

Found: TypeAlias = tuple[Any, int] | None
"""A value and where it ends; None: refused."""


class Disagreement(AssertionError):
    """The two do not say the same of some bytes."""

    def __init__(self, name: str, data: bytes, fast: object, slow: object) -> None:
        super().__init__(f"{name} of {data.hex()}: fast {fast!r}, dissected {slow!r}")


class Case(NamedTuple):
    """One format, declared twice.

    Attributes:
        name: of the format.
        make: returns a random value, as `encode` takes it.
        encode, decode: of the fast codec; `decode` gives the value in the form to compare.
        format: of `protomux.dissect`.
        to_format: turns a value into what the format builds from.
        from_format: turns what the format found into the form to compare.
    """

    name: str
    make: Callable[[Random], Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes, int, int], tuple[Any, int]]
    format: dissect.Format
    to_format: Callable[[Any], Any]
    from_format: Callable[[Any], Any]

    def check_value(self, value: Any) -> bytes:
        """Let both write and read `value`; return its bytes."""
        data = self.encode(value)
        try:
            built = dissect.build(self.format, self.to_format(value)).hex()
        except EncodingError as error:
            built = str(error)
        if built != data.hex():
            raise Disagreement(self.name, data, "wrote this", built)
        found = self.check_bytes(data)
        if found is None or found[1] != len(data):
            raise Disagreement(self.name, data, value, found)
        return data

    def check_bytes(self, data: bytes, start: int = 0, end: int | None = None) -> Found:
        """Let both read `data[start:end]`; return what they found."""
        end = len(data) if end is None else end
        fast, slow = self._read(data, start, end), self._dissect(data, start, end)
        if fast != slow:
            raise Disagreement(self.name, data[start:end], fast, slow)
        return fast

    def _read(self, data: bytes, start: int, end: int) -> Found:
        try:
            return self.decode(data, start, end)
        except (EncodingError, ProtocolError):
            return None

    def _dissect(self, data: bytes, start: int, end: int) -> Found:
        found = dissect.dissect(self.format, data, start, end)
        if found.problem is None:
            return self.from_format(plain(found.value)), found.end
        if not start <= found.problem.offset <= end:
            raise Disagreement(self.name, data[start:end], "a problem inside", found.problem)
        return None


# ---------------------------------------------------------------- values


def _uint(random: Random) -> int:
    return random.getrandbits(random.choice((3, 8, 16, 17, 32, 33, 53)))


def _int(random: Random) -> int:
    return random.getrandbits(random.choice((3, 8, 16, 32, 52))) - random.choice((0, 0, 2**52))


def _octets(random: Random) -> bytes:
    return random.randbytes(random.choice((0, 1, 2, 5, 17, 33, 260)))


def _key(random: Random) -> bytes:
    return random.randbytes(32)


def _text(random: Random) -> str:
    alphabet = random.choice(("wakeup/", "äöü€", "日本語", "\U0001f600\x00é"))
    return "".join(random.choices(alphabet, k=random.choice((0, 1, 3, 8, 40))))


def _json(random: Random, depth: int = 0) -> Any:
    kind = random.randrange(7 if depth < 2 else 5)
    if kind == 5:
        return [_json(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 6:
        return {_text(random): _json(random, depth + 1) for _ in range(random.randrange(3))}
    return (None, True, _int(random), random.random() * 1e9, _text(random))[kind]


def _writers(random: Random) -> list[messages.Writer]:
    return [messages.Writer(_key(random), _uint(random)) for _ in range(random.randrange(4))]


Said: TypeAlias = tuple[Any, ...]
"""A body: ("message", channel, type, payload), ("open", number, protocol, id, handshake),
("reject", number), ("close", number) or ("other", type, payload)."""


def _body(random: Random) -> Said:
    match random.randrange(6):
        case 0:
            id = random.choice((None, _key(random), b"\x00"))
            return "open", _uint(random), _text(random), id, _octets(random)
        case 1:
            return "reject", _uint(random)
        case 2:
            return "close", _uint(random)
        case _:
            return "message", _uint(random) + 1 & 2**53 - 1 or 1, _uint(random), _octets(random)


def _batch(random: Random) -> list[Said]:
    said = [_body(random) for _ in range(random.randrange(1, 5))]
    return said + random.choices(said, k=random.randrange(2))


# ---------------------------------------------------------------- frames, by the fast codec


def _encode_body(said: Said) -> tuple[int, bytes]:
    match said:
        case "open", number, protocol, id, handshake:
            return CONTROL, open_body(number, protocol, id, handshake)
        case "reject", number:
            return CONTROL, reject_body(number)
        case "close", number:
            return CONTROL, close_body(number)
        case _, channel, type, payload:
            return channel, encoding.uint.encode(type) + payload
    raise AssertionError(said)


def _encode_frame(said: Said) -> bytes:
    return encode_frame(*_encode_body(said))


def _encode_batch(said: Sequence[Said]) -> bytes:
    return encode_batch([_encode_body(each) for each in said])


def _decode_body(channel: int, type: int, data: bytes, position: int, end: int) -> list[Said]:
    if channel != CONTROL:
        return [("message", channel, type, data[position:end])]
    if type == Control.BATCH:
        raise ProtocolError("a batch inside a batch")
    if type == Control.OPEN:
        number, protocol, id, handshake = decode_open(data, position, end)
        return [("open", number, protocol, id, data[handshake:end])]
    if type in (Control.REJECT, Control.CLOSE):
        kind = "reject" if type == Control.REJECT else "close"
        return [(kind, encoding.uint.decode(data, position, end)[0])]
    return [("other", type, data[position:end])]


def _decode_frame(data: bytes, start: int, end: int) -> tuple[list[Said], int]:
    if start == end:
        return [], end
    channel, position = encoding.uint.decode(data, start, end)
    type, position = encoding.uint.decode(data, position, end)
    if (channel, type) != (CONTROL, Control.BATCH):
        return _decode_body(channel, type, data, position, end), end
    return [
        said
        for to, type, begin, stop in iter_batch(data, position, end)
        if type != SWITCH
        for said in _decode_body(to, type, data, begin, stop)
    ], end


# ---------------------------------------------------------------- frames, dissected

_CONTROLS: Final = {"open": 1, "reject": 2, "close": 3}


def _to_body(said: Said) -> tuple[int, dict[str, Any]]:
    match said:
        case "open", number, protocol, id, handshake:
            content = {"channel": number, "protocol": protocol, "id": id, "handshake": handshake}
            return CONTROL, {"type": 1, "content": content}
        case "message", channel, type, payload:
            return channel, {"type": type, "payload": payload}
        case kind, number:
            return CONTROL, {"type": _CONTROLS[kind], "content": {"channel": number}}
    raise AssertionError(said)


def _to_frame(said: Said) -> Any:
    channel, body = _to_body(said)
    return {"channel": channel, "body": body}


def _to_batch(said: Sequence[Said]) -> Any:
    parts = [_to_body(each) for each in said]
    entries: list[dict[str, Any]] = []
    current = parts[0][0]
    for channel, body in parts:
        if channel != current:
            entries.append({"switch": channel})
            current = channel
        entries.append({"body": body})
    batch = {"channel": parts[0][0], "entries": entries}
    return {"channel": CONTROL, "body": {"type": 0, "content": batch}}


def _from_body(channel: int, body: dict[str, Any]) -> Iterator[Said]:
    if channel != CONTROL:
        yield "message", channel, body["type"], body["payload"]
        return
    type, content = body["type"], body["content"]
    if type == 0:
        current = content["channel"]
        for entry in content["entries"]:
            if "switch" in entry:
                current = entry["switch"]
            else:
                yield from _from_body(current, entry["body"])
    elif type == 1:
        yield "open", content["channel"], content["protocol"], content["id"], content["handshake"]
    elif type in (2, 3):
        yield "reject" if type == 2 else "close", content["channel"]
    else:
        yield "other", type, content


def _from_frame(found: Any) -> list[Said]:
    return [] if found is None else list(_from_body(found["channel"], found["body"]))


# ---------------------------------------------------------------- packets of UDX


def _word(random: Random) -> int:
    return random.getrandbits(random.choice((1, 32)))


def _packet(random: Random) -> Packet:
    stream_id, window, seq, ack = (_word(random) for _ in range(4))
    if random.random() < 0.5:
        ranges = [(_word(random), _word(random)) for _ in range(random.randrange(1, 5))]
        return Packet(Type.SACK, stream_id, window, seq, ack, ranges)
    type = random.getrandbits(8) & ~Type.SACK
    return Packet(type, stream_id, window, seq, ack, [], _octets(random))


def _decode_packet(data: bytes, start: int, end: int) -> tuple[Packet, int]:
    packet = decode_packet(data[start:end])
    if packet is None:
        raise ProtocolError("no packet")
    return packet, end


def _to_packet(packet: Packet) -> dict[str, Any]:
    ranges = [{"start": start, "end": end} for start, end in packet.sacks]
    said = {**packet._asdict(), "offset": 0, "ranges": ranges, "padding": b""}
    return {name: said[name] for name in said if name != "sacks"}


def _from_packet(found: dict[str, Any]) -> Packet:
    ranges = [(each["start"], each["end"]) for each in found["ranges"]]
    return Packet(**{**_known(found), "sacks": ranges})


def _known(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in Packet._fields if name in found}


# ---------------------------------------------------------------- the formats


def _same(value: Any) -> Any:
    return value


def _case(
    make: Callable[[Random], Any],
    fast: tuple[str, Encoding[Any]],
    format: dissect.Format,
    to_format: Callable[[Any], Any] = _same,
    from_format: Callable[[Any], Any] = _same,
) -> Case:
    name, codec = fast
    return Case(name, make, codec.encode, codec.decode, format, to_format, from_format)


CASES: Final = (
    _case(_uint, ("uint", encoding.uint), compact.uint),
    _case(_int, ("int", encoding.int_), compact.int_),
    _case(_octets, ("buffer", encoding.buffer), compact.buffer),
    _case(
        lambda random: _octets(random) or None,
        ("optional buffer", encoding.optional_buffer),
        compact.optional_buffer,
    ),
    _case(_text, ("string", encoding.string), compact.string),
    _case(_key, ("fixed32", encoding.fixed32), compact.fixed32),
    _case(lambda random: random.randbytes(64), ("fixed64", encoding.fixed64), compact.fixed64),
    _case(lambda random: random.random() < 0.5, ("bool", encoding.bool_), compact.bool_),
    _case(_octets, ("raw", encoding.raw), compact.raw),
    _case(_json, ("json", encoding.json), compact.json),
    _case(
        lambda random: [_text(random) for _ in range(random.randrange(5))],
        ("array of string", encoding.array(encoding.string)),
        compact.array(compact.string),
    ),
    _case(
        lambda random: messages.Handshake(_uint(random), _key(random), random.random() < 0.5),
        ("handshake", messages.handshake),
        wakeup.handshake,
        lambda value: {**value._asdict(), "flags": int(value.active)},
        lambda found: (found["version"], found["capability"], found["active"]),
    ),
    _case(
        lambda random: messages.Lookup(random.choice((None, _key(random)))),
        ("lookup", messages.lookup),
        wakeup.lookup,
        lambda value: {"flags": int(value.hash is not None), "hash": value.hash},
        lambda found: (found["hash"],),
    ),
    _case(
        _writers,
        ("announce", messages.announce),
        wakeup.announce,
        lambda value: [writer._asdict() for writer in value],
        lambda found: [(each["key"], each["length"]) for each in found],
    ),
    _case(
        lambda random: messages.Info(random.random() < 0.5),
        ("info", messages.info),
        wakeup.info,
        lambda value: {"flags": int(value.active)},
        lambda found: (found["active"],),
    ),
    Case("frame", _body, _encode_frame, _decode_frame, frames.frame, _to_frame, _from_frame),
    Case("batch", _batch, _encode_batch, _decode_frame, frames.frame, _to_batch, _from_frame),
)
"""Every format of a stream that both sides declare."""

ALL_CASES: Final = (
    *CASES,
    Case("packet", _packet, encode_packet, _decode_packet, udx.packet, _to_packet, _from_packet),
)
"""Those, and that of a datagram."""

_EDGES: Final = bytes((0, 1, 2, 3, 0x1F, 0x20, 0x7F, 0x80, 0xC0, 0xFC, 0xFD, 0xFE, 0xFF))


def mutated(random: Random, data: bytes) -> bytes:
    """Return `data` with one to three changes."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(changed) + 1)
        match random.randrange(6):
            case 0:
                del changed[place:]
            case 1:
                del changed[place : place + random.randrange(1, 9)]
            case 2:
                changed[place:place] = random.choices(_EDGES, k=random.randrange(1, 9))
            case 3:
                changed[place : place + 1] = random.randbytes(1)
            case 4:
                changed[place : place + 1] = bytes((random.choice(_EDGES),))
            case _:
                begin = random.randrange(len(changed) + 1)
                changed[place:place] = changed[begin : begin + random.randrange(1, 40)]
    return bytes(changed)
