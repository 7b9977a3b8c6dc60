"""A victim's process: its start, its status, its memory and CPU time, its end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import protomux
from tests.attacks.attack import MARK, Secrets, Target

__all__ = ["Figures", "Gone", "Status", "VictimProcess"]

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
KINDS: Final[Mapping[str, Sequence[str]]] = {
    "python": (sys.executable, "-m", "tests.attacks.victim"),
    "node": ("node", str(HERE / "victim.mjs")),
}
_START_LIMIT: Final = 30.0
_TICK: Final = os.sysconf("SC_CLK_TCK")


class Gone(Exception):
    """The victim's process has ended, or does not answer."""


class Status(dict[str, Any]):
    """What the victim counts. `left(before)` is what an attack has left behind."""

    COUNTS: Final = ("streams", "muxes", "channels", "peers", "tasks", "sockets", "flows")

    def left(self, before: Status) -> dict[str, int]:
        """Return what there is more of than `before`."""
        return {
            name: self[name] - before[name] for name in self.COUNTS if self[name] > before[name]
        }

    def errors_since(self, before: Status) -> dict[str, int]:
        """Return the errors that were counted since `before`."""
        return {
            name: count - before["errors"].get(name, 0)
            for name, count in self["errors"].items()
            if count > before["errors"].get(name, 0)
        }


class Figures:
    """Memory and CPU time of a process from now on; reads /proc."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        # 5 sets the high-water mark back to what is in use now
        Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")
        self._memory = self._read_memory("VmRSS")
        self._cpu = self._read_cpu()
        self.peak = self.cpu = 0.0

    def read(self) -> None:
        """Set `peak` (bytes above the start) and `cpu` (seconds); a dead process has none."""
        try:
            self.peak = self._read_memory("VmHWM") - self._memory
            self.cpu = self._read_cpu() - self._cpu
        except (OSError, KeyError):
            pass

    def _read_memory(self, name: str) -> int:
        lines = Path(f"/proc/{self._pid}/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(dict(line.split(":", 1) for line in lines)[name].split()[0])

    def _read_cpu(self) -> float:
        text = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICK


class VictimProcess:
    """One victim."""

    def __init__(self, process: asyncio.subprocess.Process, secrets: Secrets) -> None:
        self.last_words: deque[str] = deque(maxlen=40)
        self._process = process
        self._secrets = secrets
        self._where: dict[str, Any] = {}
        self._handshake_time = 0.0
        self._complaining = asyncio.ensure_future(self._read_stderr())

    @classmethod
    async def start(cls, kind: str, limits: Mapping[str, Any]) -> Self:
        """Start one of `kind`, "python" or "node", with `limits`, and wait until it listens."""
        secrets = Secrets.generate()
        config = {
            "capability": secrets.capability.hex(),
            "late": [each.hex() for each in secrets.late],
            "mark": MARK.hex(),
            "limits": limits,
        }
        process = await asyncio.create_subprocess_exec(
            *KINDS[kind],
            json.dumps(config),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=2**24,
            start_new_session=True,  # Ctrl-C is for whoever started it, who ends it
        )
        victim = cls(process, secrets)
        victim._handshake_time = limits.get("handshake_time", protomux.Limits().handshake_time)
        try:
            victim._where = await victim._read_line(_START_LIMIT)
        except BaseException:
            await victim.end()
            raise
        return victim

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """The process has not ended."""
        return self._process.returncode is None

    def target(self, patience: float) -> Target:
        """Return what an attack is told of it."""
        return Target(
            "127.0.0.1",
            self._where["port"],
            self._where["ik_port"],
            bytes.fromhex(self._where["public_key"]),
            self._secrets,
            self._handshake_time,
            patience,
            self.ask,
        )

    async def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Tell it to do something, and return its answer."""
        return await self._talk(json.dumps(command).encode(), 30.0)

    async def status(self, seconds: float = 30.0) -> Status:
        """Ask how it is; Gone where there is no answer."""
        return Status(await self._talk(b"{}", seconds))

    async def _talk(self, line: bytes, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            await self._process.stdin.drain()
        except OSError as error:
            raise Gone(await self._epitaph()) from error
        return await self._read_line(seconds)

    async def clean(self, before: Status, seconds: float) -> tuple[Status, dict[str, int]]:
        """Wait until nothing is there that was not there `before`; return what is, after all."""
        pause = 0.02
        async with asyncio.timeout(seconds + 30):
            deadline = asyncio.get_running_loop().time() + seconds
            while True:
                status = await self.status()
                left = status.left(before)
                if not left or asyncio.get_running_loop().time() > deadline:
                    return status, left
                await asyncio.sleep(pause)
                pause = min(2 * pause, 1.0)

    def kill(self) -> None:
        """End it at once, if it has not ended by itself."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> None:
        """End it."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                async with asyncio.timeout(2):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._complaining

    async def _read_line(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise Gone(f"no word for {seconds:.0f} s") from error
        if not line:
            raise Gone(await self._epitaph())
        found: dict[str, Any] = json.loads(line)
        return found

    async def _epitaph(self) -> str:
        code = await self._process.wait()
        await self._complaining
        words = [line for line in self.last_words if "Error" in line or "error" in line]
        return f"ended with {code}" + (f": {words[-1].strip()[:100]}" if words else "")

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.last_words.append(line.decode(errors="replace").rstrip())
