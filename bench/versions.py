"""What runs here: the versions of both sides, and the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sysconfig
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from bench.program import ROOT
from protomux.speedups import implementation

__all__ = ["machine", "missing", "versions"]

_MODULES: Final = ROOT / "tests" / "interop" / "node_modules"
_NPM: Final = (
    "protomux",
    "protomux-wakeup",
    "@hyperswarm/secret-stream",
    "compact-encoding",
    "hypercore-crypto",
    "noise-handshake",
    "jitpc",
    "sodium-native",
    "streamx",
)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _node() -> str | None:
    """Return Node's version, None where there is none."""
    command = ["node", "-p", "process.versions.node"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def missing() -> str | None:
    """Return what the originals need that is not here, None if all is."""
    if _node() is None:
        return "expected node on the PATH"
    if not (_MODULES / "protomux").is_dir():
        return "expected the npm originals in tests/interop: run `make interop-peers`"
    return None


def _build() -> str:
    """Return what Python was compiled with: it decides how fast Python code runs.

    Of its configuration only what asks for profile-guided and link-time optimization is told.
    Where neither is named it may be there all the same: distributions turn them on elsewhere.
    """
    asked = str(sysconfig.get_config_var("CONFIG_ARGS")).replace("'", "").split()
    options = [each for each in ("--enable-optimizations", "--with-lto") if each in asked]
    return " ".join([platform.python_compiler(), *options])


def versions(loop: str) -> dict[str, Any]:
    """Return the versions of what takes part."""
    npm = {}
    for package in _NPM:
        path = _MODULES / package / "package.json"
        if path.is_file():
            npm[package] = json.loads(path.read_text())["version"]
    return {
        "python": platform.python_version(),
        "build": _build(),
        "node": _node(),
        "loop": f"uvloop {_installed('uvloop')}" if loop == "uvloop" else loop,
        "speedups": implementation,
        "cryptography": _installed("cryptography"),
        "pynacl": _installed("pynacl"),
        "npm": npm,
    }


def machine() -> dict[str, Any]:
    """Return what this runs on."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = (line for line in information.read_text().splitlines() if "model name" in line)
        processor = next((line.partition(":")[2].strip() for line in names), processor)
    return {"cpu": processor, "cores": os.cpu_count(), "system": platform.platform(terse=True)}
