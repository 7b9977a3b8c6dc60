"""The wire formats once more, declared with Construct: bytes as trees, and captures of streams.

Shares nothing with the fast codec but the errors, so that each can check the other. Needs the
extra `dissect`.

```python
from protomux.dissect import Conversation, Direction

conversation = Conversation()
for direction, frame in frames:
    found = conversation.read(direction, frame)
    for depth, node in found.root.walk():
        print(node.start, node.end, "  " * depth, node.name, node.value)
    if found.problem is not None:
        print(found.problem)
```

Arrows run downwards only:

    record                           a stream that writes down what it carries
    capture                          the file in which it does
    datagrams                        those in captures of a network
    pcap  pcapng                     the files in which those are; the first is written, too
    network                          the packets in them, around a datagram
    ownfile                          a file that is being written
    conversation                     the frames of a stream, one after the other
    frames  wakeup  stream  udx      formats
    compact                          the values in them
    tree                             a format applied to bytes
"""

from __future__ import annotations

from protomux.dissect import compact, frames, stream, udx, wakeup
from protomux.dissect.capture import (
    CaptureWriter,
    Entry,
    Frame,
    StreamEnd,
    StreamStart,
    read_capture,
)
from protomux.dissect.conversation import KNOWN, Conversation, Direction, Protocol
from protomux.dissect.datagrams import read_datagrams
from protomux.dissect.network import Datagram, Other
from protomux.dissect.pcap import PcapWriter
from protomux.dissect.record import RecordedStream
from protomux.dissect.tree import Dissection, Format, Node, Problem, build, dissect, field

__all__ = [
    "KNOWN",
    "CaptureWriter",
    "Conversation",
    "Datagram",
    "Direction",
    "Dissection",
    "Entry",
    "Format",
    "Frame",
    "Node",
    "Other",
    "PcapWriter",
    "Problem",
    "Protocol",
    "RecordedStream",
    "StreamEnd",
    "StreamStart",
    "build",
    "compact",
    "dissect",
    "field",
    "frames",
    "read_capture",
    "read_datagrams",
    "stream",
    "udx",
    "wakeup",
]
