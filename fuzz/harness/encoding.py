"""Every encoding reads arbitrary bytes, or refuses them; what it has read it can write again.

The first byte chooses the encoding, the second where in the rest it begins to read.
"""

from __future__ import annotations

from typing import Any, Final

from fuzz.harness.stage import Finding
from protomux.encoding import (
    Encoding,
    array,
    bool_,
    buffer,
    fixed,
    fixed32,
    fixed64,
    int_,
    json,
    optional_buffer,
    raw,
    string,
    uint,
)
from protomux.errors import EncodingError
from protomux_wakeup import messages

__all__ = ["ENCODINGS", "MAX_SIZE", "OPS", "run"]

OPS: Final = None
MAX_SIZE: Final = 160

ENCODINGS: Final[tuple[Encoding[Any], ...]] = (
    uint,
    int_,
    fixed32,
    fixed64,
    fixed(5),
    buffer,
    optional_buffer,
    string,
    bool_,
    raw,
    json,
    array(uint),
    array(array(string)),
    messages.handshake,
    messages.lookup,
    messages.announce,
    messages.info,
    array(bool_),
    array(optional_buffer),
    array(int_),
)


def run(data: bytes) -> None:
    if len(data) < 2:
        return
    encoding = ENCODINGS[data[0] % len(ENCODINGS)]
    start = min(2 + data[1] % 4, len(data))
    try:
        value, after = encoding.decode(data, start, len(data))
    except EncodingError:
        return
    if not start <= after <= len(data):
        raise Finding(f"{encoding} read {data[start:].hex()} to {after} of {len(data)}")
    encoded = encoding.encode(value)
    again, end = encoding.decode(encoded, 0, len(encoded))
    if (again, end) != (value, len(encoded)):
        raise Finding(f"{encoding} made {again!r} out of {value!r}")
    # What stands behind a value, and in front of it, has no part in it.
    if encoding is not raw:
        framed = b"\xff" + data[start:after] + b"\xff"
        if encoding.decode(framed, 1, len(framed)) != (value, 1 + after - start):
            raise Finding(f"{encoding} read past the end of {data[start:after].hex()}")
