"""An attacker's connection: TCP, Noise and the cipher, step by step, so that any step can be wrong.

It borrows the primitives of `protomux.streams` for the encryption alone. What it reads it only
counts; what it sends goes through `mangle`, which may change or cut it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final, Self

from protomux.crypto import KeyPair
from protomux.errors import ProtomuxError
from protomux.streams.cipher import Decryptor, Encryptor
from protomux.streams.noise import Handshake
from tests.attacks import wire

__all__ = ["Connection", "Lost", "Stalled"]

_STEP: Final = 0.25  # seconds between two looks at whether the victim takes anything
_KEPT_OPENS: Final = 16


class Lost(Exception):
    """The victim has ended the connection."""


class Stalled(Exception):
    """The victim takes no more bytes, or gives no answer."""


class Connection:
    """One connection to the victim, or from somebody who takes us for it.

    Attributes:
        patience: seconds without a byte taken, or without an answer, that count as stalled.
        sent: every raw byte that has left, if it records.
        handshake_hash: of the stream, empty before.
        opens: bodies of the first opens that came.
        opened, rejected, closed, messages: how many of each came.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        patience: float,
        *,
        is_initiator: bool = True,
        mangle: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.patience = patience
        self.is_initiator = is_initiator
        self.sent = bytearray()
        self.handshake_hash = b""
        self.opens: list[bytes] = []
        self.opened = self.rejected = self.closed = self.messages = 0
        self.is_recording = False
        self.writer = writer
        self._reader = reader
        self._mangle = mangle
        self._encryptor: Encryptor | None = None
        self._decryptor: Decryptor | None = None
        self._reading: asyncio.Task[None] | None = None
        self._is_lost = False
        self._awaited = 0
        self._frames = 0
        self._news = asyncio.Event()

    @classmethod
    async def dial(
        cls,
        host: str,
        port: int,
        patience: float,
        *,
        mangle: Callable[[bytes], bytes] | None = None,
        receive_buffer: int = 0,
    ) -> Self:
        """Connect; with a `receive_buffer` the system takes in no more than about that."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(patience + 5):
                await loop.sock_connect(sock, (host, port))
            reader, writer = await asyncio.open_connection(sock=sock)
        except OSError as error:
            sock.close()
            raise Lost(f"no connection: {error}") from error
        except BaseException:
            sock.close()
            raise
        return cls(reader, writer, patience, mangle=mangle)

    # Raw bytes

    async def send_raw(self, data: bytes) -> None:
        """Send bytes and wait until the system has nearly all of them."""
        if self.is_recording:
            self.sent += data
        if self._mangle is not None:
            data = self._mangle(data)
        self._check()
        self.writer.write(data)
        before, still = (-1, 0, 0), 0.0
        while True:
            draining = asyncio.ensure_future(self.writer.drain())
            done, _ = await asyncio.wait({draining}, timeout=_STEP)
            if done:
                if draining.exception() is not None:
                    raise Lost(str(draining.exception()))
                self._check()
                return
            draining.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await draining
            self._check()
            now = self._progress()
            still = still + _STEP if now == before else 0.0
            before = now
            if still >= self.patience:
                raise Stalled(f"nothing was taken for {still:.0f} s")

    def _progress(self) -> tuple[int, int, int]:
        """Return what changes while the victim takes or sends anything.

        Much waits in the system, which asks for more only when a good part of that was taken.
        """
        sock = self.writer.get_extra_info("socket")
        queued = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
        return self.writer.transport.get_write_buffer_size(), queued, self._frames

    async def send_message(self, message: bytes) -> None:
        """Send bytes behind their length of three bytes."""
        await self.send_raw(len(message).to_bytes(3, "little") + message)

    async def read_message(self) -> bytes:
        """Return the next bytes behind a length; Lost at the end."""
        try:
            size = int.from_bytes(await self._reader.readexactly(3), "little")
            return await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Lost(str(error)) from error

    async def wait_lost(self, seconds: float) -> bool:
        """Read on, and tell whether the victim ended the connection within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                if self._reading is not None:
                    while not self._is_lost:
                        self._news.clear()
                        await self._news.wait()
                else:
                    with contextlib.suppress(OSError):
                        while await self._reader.read(65536):
                            pass
        except TimeoutError:
            return False
        return True

    async def wait_reset(self, seconds: float) -> bool:
        """As `wait_lost`, without reading: the end shows where something is written."""
        assert self._encryptor is not None
        for _ in range(int(seconds / _STEP)):
            if self.writer.transport.is_closing():
                return True
            empty = self._encryptor.encrypt(b"")
            self.writer.write(len(empty).to_bytes(3, "little") + empty)
            await asyncio.sleep(_STEP)
        return self.writer.transport.is_closing()

    def leave(self) -> None:
        """Be gone at once."""
        if self._reading is not None:
            self._reading.cancel()
        self.writer.transport.abort()

    def end(self) -> None:
        """End our half in order."""
        with contextlib.suppress(OSError):
            self.writer.write_eof()

    def _check(self) -> None:
        if self._is_lost or self.writer.transport.is_closing():
            raise Lost("the victim has ended the connection")

    # The stream

    async def shake(
        self,
        *,
        pattern: str = "XX",
        key_pair: KeyPair | None = None,
        remote_public_key: bytes | None = None,
    ) -> None:
        """Do the handshake and exchange headers."""
        noise = Handshake(
            pattern, self.is_initiator, key_pair or KeyPair.generate(), remote_public_key
        )
        try:
            async with asyncio.timeout(self.patience + 10):
                while noise.keys is None:
                    if noise.is_our_turn:
                        await self.send_message(noise.write())
                    else:
                        noise.read(await self.read_message())
                keys = noise.keys
                self.handshake_hash = keys.handshake_hash
                self._encryptor = Encryptor(keys.send, self.is_initiator, self.handshake_hash)
                self._decryptor = Decryptor(
                    keys.receive, not self.is_initiator, self.handshake_hash
                )
                await self.send_message(self._encryptor.header)
                self._decryptor.start(await self.read_message())
        except TimeoutError as error:
            raise Stalled("the victim does not go on with the handshake") from error
        except ProtomuxError as error:
            raise Lost(f"the victim's handshake is wrong: {error}") from error

    def listen(self) -> None:
        """Read from now on what comes, and count it."""
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self._decryptor is not None
        try:
            while True:
                self.frame_received(self._decryptor.decrypt(await self.read_message()))
                self._news.set()
        except Lost:
            self._is_lost = True
            self._news.set()

    def frame_received(self, frame: bytes) -> None:
        """A frame came."""
        self._frames += 1
        for channel, body in wire.bodies(frame):
            if channel != 0:
                self.messages += 1
                self.message_received(channel, body)
            elif body[0] == wire.OPEN:
                self.opened += 1
                if len(self.opens) < _KEPT_OPENS:
                    self.opens.append(body)
            elif body[0] == wire.REJECT:
                self.rejected += 1
                if self._awaited and wire.read_uint(body, 1)[0] == self._awaited:
                    self._awaited = 0
            elif body[0] == wire.CLOSE:
                self.closed += 1

    def message_received(self, channel: int, body: bytes) -> None:
        """A message came."""

    async def send(self, *frames: bytes) -> None:
        """Send frames, one message of the stream each."""
        assert self._encryptor is not None
        await self.send_raw(
            b"".join(
                len(each).to_bytes(3, "little") + each
                for each in map(self._encryptor.encrypt, frames)
            )
        )

    async def until(self, happened: Callable[[], bool], seconds: float = 0) -> None:
        """Wait for something that comes; Lost or Stalled where it does not.

        It has so many `seconds`, as many as its patience unless given.
        """
        seconds = seconds or self.patience
        try:
            async with asyncio.timeout(seconds):
                while not happened():
                    if self._is_lost:
                        raise Lost("the victim has ended the connection")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise Stalled(f"no answer within {seconds} s") from error

    async def fence(self, number: int) -> None:
        """Open what nobody pairs with, and wait for the reject: all before it was taken.

        Lost or Stalled where that does not come, and nothing else either.
        """
        self._awaited = number
        await self.send(wire.frame(0, wire.opening(number, "fence")))
        while self._awaited:
            before = self._progress()
            with contextlib.suppress(Stalled):
                await self.until(lambda: self._awaited == 0)
            if self._awaited and self._progress() == before:
                raise Stalled(f"no answer for {self.patience:.0f} s")
        self.rejected -= 1
