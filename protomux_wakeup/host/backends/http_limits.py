"""How much HTTP may hold, and how long it waits for whom. Knows no request."""

from __future__ import annotations

from dataclasses import dataclass

from protomux_wakeup.host.limits import check_above_zero

__all__ = ["HttpLimits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """The bounds of the two listeners; sizes are in bytes, times in seconds.

    Attributes:
        line: of a request's target, and of each header, both ways. Default 8,190, Apache's
            LimitRequestLine and LimitRequestFieldSize.
        headers: of one message, both ways. Default 128; Apache's LimitRequestFields is 100.
        head: of the heads that a client has sent and that were not looked at yet, all together.
            Default 64 KiB; Node's --max-http-header-size is 16 KiB, of one.
        body: of what the control API is sent; what is proxied has no bound. Default 1 MiB.
        connections: of each listener at once; more are cut. Default 4,096: some 20 MiB while
            they are idle, and 600 MiB if each holds as much of heads as it may. Never more than an
            eighth of the descriptors that the process may have open (ulimit -n).
        idle: in which a connection has to bring the head of a request, from its start or from the
            end of the last one. Default 75, nginx's keepalive_timeout.
        stall: without a byte of a body coming or going, after which the connection is cut. Default
            60, nginx's client_body_timeout and send_timeout.
        connect: until a backend, which is on this machine, takes a connection. Default 5.
        answer: until a backend answers, from the last byte of the request on. Default 120; nginx's
            proxy_read_timeout is 60, which is what clients that poll wait.
        ready: that a client is kept waiting for a backend to be ready. Default 90, more than the 60
            that a backend has for that.
        keepalive: between two signs of life in a stream of events. Default 15, as Plane's.
        closing: that requests have to end by themselves when a listener closes. Default 1.
    """

    line: int = 8_190
    headers: int = 128
    head: int = 65_536
    body: int = 1024 * 1024
    connections: int = 4_096
    idle: float = 75.0
    stall: float = 60.0
    connect: float = 5.0
    answer: float = 120.0
    ready: float = 90.0
    keepalive: float = 15.0
    closing: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not above 0, TypeError for what is no number."""
        check_above_zero(self)
