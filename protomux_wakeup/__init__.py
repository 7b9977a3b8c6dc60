"""The wakeup protocol: peers who share a capability tell each other which logs have grown.

```python
from protomux.streams import open_connection
from protomux_wakeup import Wakeup

wakeup = Wakeup()
wakeup.add_stream(await open_connection("127.0.0.1", 4000))
async with wakeup.session(capability) as session:
    session.broadcast_lookup()
    async for event in session.events():
        print(event)
```
"""

from __future__ import annotations

from protomux_wakeup.events import (
    Announced,
    Event,
    LookedUp,
    PeerActive,
    PeerAdded,
    PeerInactive,
    PeerRemoved,
)
from protomux_wakeup.limits import Limits, Rate
from protomux_wakeup.messages import Lookup, Writer
from protomux_wakeup.metrics import Stats, WireStats
from protomux_wakeup.peer import Peer
from protomux_wakeup.session import Session
from protomux_wakeup.topic import Topic
from protomux_wakeup.wakeup import Wakeup

__all__ = [
    "Announced",
    "Event",
    "Limits",
    "LookedUp",
    "Lookup",
    "Peer",
    "PeerActive",
    "PeerAdded",
    "PeerInactive",
    "PeerRemoved",
    "Rate",
    "Session",
    "Stats",
    "Topic",
    "Wakeup",
    "WireStats",
    "Writer",
]
