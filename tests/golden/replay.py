"""Reads golden vectors, and plays the recorded calls of a script against this library.

Knows how the generator writes things down (see `originals.mjs`), and nothing of what is right.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest

from protomux import Channel, Protomux, encoding
from protomux.crypto import hash
from protomux.encoding import Encoding
from protomux.frames import CONTROL, SWITCH, Control, encode_frame, iter_batch
from protomux.streams.base import FrameReceiver

Vector: TypeAlias = dict[str, Any]

FILES: Final = ("crypto", "encodings", "frames", "noise", "secretstream", "wakeup")

_VECTORS: Final = Path(__file__).parent / "vectors"
_PATTERN: Final = bytes((7 * i + (i >> 8)) & 255 for i in range(65536))
_ENCODINGS: Final[dict[str, Encoding[Any]]] = {
    "uint": encoding.uint,
    "int": encoding.int_,
    "fixed32": encoding.fixed32,
    "fixed64": encoding.fixed64,
    "buffer": encoding.buffer,
    "optional_buffer": encoding.optional_buffer,
    "string": encoding.string,
    "bool": encoding.bool_,
    "raw": encoding.raw,
    "json": encoding.json,
}
ENCODING_TYPES: Final = {*_ENCODINGS, "fixed", "array"}
_BYTES_TYPES: Final = {"fixed", "fixed32", "fixed64", "buffer", "optional_buffer", "raw"}


def load(name: str) -> dict[str, Any]:
    """Return a vector file: its sections by name, and the `versions` of the originals."""
    found: dict[str, Any] = json.loads((_VECTORS / f"{name}.json").read_text("ascii"))
    return found


def vectors(file: str, section: str, *labels: str) -> list[Any]:
    """Return a section as parameters, each named by its place and some of its fields."""

    def label(name: str, value: Any) -> str:
        if name == "encoding":
            return spec_name(value)
        return value if isinstance(value, str) else json.dumps(value).replace('"', "")

    return [
        pytest.param(
            vector,
            id="-".join([str(index), *(label(name, vector[name]) for name in labels)])[:60],
        )
        for index, vector in enumerate(load(file)[section])
    ]


def codec(spec: Vector) -> Encoding[Any]:
    """Return the encoding that a vector names."""
    if spec["type"] == "array":
        return encoding.array(codec(spec["of"]))
    if spec["type"] == "fixed":
        return encoding.fixed(spec["size"])
    return _ENCODINGS[spec["type"]]


def spec_name(spec: Vector) -> str:
    """Return an encoding's name for people."""
    inner = spec_name(spec["of"]) if "of" in spec else spec.get("size", "")
    return f"{spec['type']}({inner})" if inner != "" else str(spec["type"])


def pattern(size: int) -> bytes:
    """Return the bytes that stand as {"pattern": size}."""
    return (_PATTERN * (size // len(_PATTERN) + 1))[:size]


def octets(value: Any) -> bytes:
    """Return bytes that go in: hex, or a pattern."""
    return pattern(value["pattern"]) if isinstance(value, dict) else bytes.fromhex(value)


def value_of(spec: Vector, value: Any) -> Any:
    """Return a value that goes in, as the encoding of `spec` takes it."""
    kind = spec["type"]
    if kind == "json" or value is None:
        return value
    if kind in _BYTES_TYPES:
        return octets(value)
    if isinstance(value, dict):
        item, count = value["repeat"]
        return item * count if kind == "string" else [value_of(spec["of"], item)] * count
    return [value_of(spec["of"], item) for item in value] if kind == "array" else value


def plain(value: Any) -> Any:
    """Write down a value as the generator does."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(item) for item in value] if isinstance(value, list) else value


def output(data: bytes) -> Any:
    """Write down bytes that come out as the generator does."""
    return data.hex() if len(data) <= 400 else {"length": len(data), "hash": hash(data).hex()}


def bodies(frame: bytes) -> list[tuple[int, bytes]]:
    """Return the (channel, body) pairs of a frame, batched or not."""
    channel, start = encoding.uint.decode(frame, 0, len(frame))
    type, after = encoding.uint.decode(frame, start, len(frame))
    if (channel, type) == (CONTROL, Control.BATCH):
        return [
            (to, encoding.uint.encode(type) + frame[a:b])
            for to, type, a, b in iter_batch(frame, after, len(frame))
            if type != SWITCH
        ]
    return [(channel, frame[start:])]


def unbatched(frame: str) -> str:
    """Return the hex of a frame, one that is a batch of a single message as a plain one.

    The originals write such batches. Here a message that is alone always travels as itself.
    """
    parts = bodies(bytes.fromhex(frame))
    return encode_frame(*parts[0]).hex() if len(parts) == 1 else frame


async def settle() -> None:
    """Let everything happen that happens without input."""
    for _ in range(8):
        await asyncio.sleep(0)


class RecordingStream:
    """A `FramedStream` that keeps what is written, and is told what it receives."""

    def __init__(self, is_initiator: bool, handshake_hash: bytes) -> None:
        self.is_initiator = is_initiator
        self.handshake_hash: bytes | None = handshake_hash
        self.remote_public_key: bytes | None = bytes(32)
        self.receiver: FrameReceiver | None = None
        self.frames: list[bytes] = []
        self.is_gone = False

    def set_receiver(self, receiver: FrameReceiver) -> None:
        self.receiver = receiver

    def receive(self, frame: bytes) -> None:
        if not self.is_gone:
            assert self.receiver is not None
            self.receiver.frame_received(frame)

    def take(self) -> list[bytes]:
        frames, self.frames = self.frames, []
        return frames

    def write(self, frame: bytes) -> bool:
        self.frames.append(frame)
        return True

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None:
        self.abort()

    def abort(self, error: Exception | None = None) -> None:
        if not self.is_gone:
            self.is_gone = True
            assert self.receiver is not None
            asyncio.get_running_loop().call_soon(self.receiver.connection_lost, error)

    async def wait_closed(self) -> None: ...


class Script:
    """Plays a script of `frames.json`; the twin of the class of that name in `frames.mjs`."""

    def __init__(self) -> None:
        self.stream = RecordingStream(True, bytes(64))
        self.mux = Protomux(self.stream)
        self.channels: dict[str, Channel] = {}
        self.specs: dict[str, list[Vector | None]] = {}
        self.events: list[Any] = []
        self.hold = asyncio.Event()

    async def step(self, call: Vector) -> Vector:
        """Make one call; return what the generator notes of it."""
        await self.fill_or_offer(call) if "count" in call else self.call(call)
        await settle()
        found: Vector = {}
        if frames := self.stream.take():
            if "frames_hash" in call:
                found["frames_hash"] = hash(*frames).hex()
            else:
                found["frames"] = [output(frame) for frame in frames]
        if self.events:
            found["events"], self.events = self.events, []
        if self.stream.is_gone:
            found["destroyed"] = True
        return found

    async def fill_or_offer(self, call: Vector) -> None:
        for i in range(call["count"]):
            if call["do"] == "fill":
                channel = self.mux.create_channel(call["protocol"], i.to_bytes(2, "little"))
                assert channel is not None
                channel.open()
            else:
                name = encoding.string.encode(call["protocol"])
                self.stream.receive(b"\x00\x01" + encoding.uint.encode(i + 1) + name + b"\x00")
            await settle()  # else they all would travel in one batch

    def call(self, call: Vector) -> None:
        getattr(self, call["do"])(call)

    def create(self, call: Vector) -> None:
        name, handshake = call["channel"], call.get("handshake")
        specs = call.get("messages", [])
        if isinstance(specs, dict):
            spec, count = specs["repeat"]
            specs = [spec] * count

        def hook(type: int) -> Callable[[Any, Channel], None]:
            def on_message(value: Any, channel: Channel) -> None:
                self.events.append(["message", name, type, plain(value)])
                if call.get("echo"):
                    channel.messages[type].send(value)

            return on_message

        channel = self.mux.create_channel(
            call["protocol"],
            bytes.fromhex(call["id"]) if call.get("id") else None,
            aliases=call.get("aliases", ()),
            unique=call.get("unique", True),
            handshake=codec(handshake) if handshake else None,
            messages=[spec and (codec(spec), hook(type)) for type, spec in enumerate(specs)],
            on_open=lambda value, _: self.events.append(["open", name, plain(value)]),
            on_close=lambda is_remote, _: self.events.append(["close", name, is_remote]),
            on_destroy=lambda _: self.events.append(["destroy", name]),
        )
        if channel is None:
            self.events.append(["refused", name])
            return
        self.channels[name], self.specs[name] = channel, specs

    def open(self, call: Vector) -> None:
        self.channels[call["channel"]].open(call.get("handshake"))

    def send(self, call: Vector) -> None:
        name, type = call["channel"], call["type"]
        spec = self.specs[name][type]
        assert spec is not None
        self.channels[name].messages[type].send(value_of(spec, call["value"]))

    def close(self, call: Vector) -> None:
        self.channels[call["channel"]].close()

    def cork(self, call: Vector) -> None:
        self.mux.cork()

    def uncork(self, call: Vector) -> None:
        self.mux.uncork()

    def pair(self, call: Vector) -> None:
        async def on_pair(id: bytes | None) -> None:
            self.events.append(["pair", call["protocol"], plain(id)])
            for answer in call.get("answer", []):
                self.call(answer)
            if call.get("hold"):
                await self.hold.wait()

        id = bytes.fromhex(call["id"]) if "id" in call else None
        self.mux.pair(call["protocol"], id, callback=on_pair)

    def release(self, call: Vector) -> None:
        self.hold.set()
        self.hold = asyncio.Event()

    def together(self, call: Vector) -> None:
        for part in call["calls"]:
            self.call(part)

    def receive(self, call: Vector) -> None:
        self.stream.receive(bytes.fromhex(call["frame"]))
