"""Protomux for Python: many protocols between two peers over one encrypted stream.

```python
from protomux import Protomux, encoding
from protomux.streams import open_connection

mux = Protomux.of(await open_connection("127.0.0.1", 4000))
channel = mux.create_channel("chat")
chat = channel.add_message(encoding.string, on_message=lambda text, channel: print(text))
channel.open()
chat.send("hello")
```
"""

from __future__ import annotations

from protomux import crypto, encoding, errors, streams
from protomux.channel import Channel, Message
from protomux.crypto import KeyPair
from protomux.errors import (
    EncodingError,
    HandshakeError,
    LimitExceeded,
    ProtocolError,
    ProtomuxError,
    StreamClosed,
)
from protomux.limits import Limits
from protomux.mux import Protomux

__all__ = [
    "Channel",
    "EncodingError",
    "HandshakeError",
    "KeyPair",
    "LimitExceeded",
    "Limits",
    "Message",
    "ProtocolError",
    "Protomux",
    "ProtomuxError",
    "StreamClosed",
    "crypto",
    "encoding",
    "errors",
    "streams",
]
