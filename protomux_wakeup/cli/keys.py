"""Where the secrets come from and where they are written: files and the environment.

Not the command line, which every user of the machine can read: a command that takes one there warns
of it. No message repeats a secret.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from protomux import KeyPair
from protomux_wakeup.cli.process import Exit, Failure
from protomux_wakeup.cli.report import Reporter
from protomux_wakeup.cli.values import parse_key
from protomux_wakeup.endpoint import reason

__all__ = [
    "CAPABILITY_VARIABLE",
    "KEY_VARIABLE",
    "find_capability",
    "read_capability",
    "read_key_pair",
    "write_secret",
]

CAPABILITY_VARIABLE: Final = "PROTOMUX_WAKEUP_CAPABILITY"
KEY_VARIABLE: Final = "PROTOMUX_WAKEUP_KEY"

_MOST: Final = 1024
"""Bytes read of a key file: 64 digits and room for blanks, but not the file given by mistake."""


def read_capability(path: Path | None, environment: Mapping[str, str], report: Reporter) -> bytes:
    """Return the capability, 32 bytes, from the file at `path`, else from the environment.

    Raises Failure (USAGE) where there is none, or something else.
    """
    secret = find_capability(path, environment, report)
    if secret is None:
        raise Failure(
            f"expected a capability: give --capability-file FILE, or set {CAPABILITY_VARIABLE}",
            Exit.USAGE,
        )
    return secret


def find_capability(
    path: Path | None, environment: Mapping[str, str], report: Reporter
) -> bytes | None:
    """As `read_capability`, but None where there is none."""
    return _read(path, CAPABILITY_VARIABLE, environment, "a capability", report)


def read_key_pair(path: Path | None, environment: Mapping[str, str], report: Reporter) -> KeyPair:
    """Return the key pair of the seed in the file at `path`, else in the environment.

    A random one where there is neither. Raises Failure (USAGE) where there is something else.
    """
    return KeyPair.generate(_read(path, KEY_VARIABLE, environment, "a seed", report))


def write_secret(path: Path, secret: bytes, *, replace: bool) -> None:
    """Write `secret` as hex digits to `path`, for its owner's eyes only.

    The file is there whole or not at all. Raises Failure if there is one already, unless
    `replace`, and where it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "w") as file:
                file.write(secret.hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            if replace:
                os.replace(draft, path)
            else:
                os.link(draft, path)  # unlike a rename, it fails where there is a file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)
    except FileExistsError:
        raise Failure(f"{path} exists already; --force replaces it") from None
    except OSError as error:
        raise Failure(f"cannot write {path}: {reason(error)}") from error


def _read(
    path: Path | None,
    variable: str,
    environment: Mapping[str, str],
    what: str,
    report: Reporter,
) -> bytes | None:
    if path is not None:
        source, text = str(path), _read_file(path, what, report)
    elif environment.get(variable):
        source, text = f"the environment variable {variable}", environment[variable]
    else:
        return None
    text = text.strip()
    try:
        return parse_key(text)
    except ValueError:  # says what it got, which may be a secret with a typing error
        found = f"{len(text)} characters" if len(text) != 64 else "64 other characters"
        raise Failure(
            f"expected {what} of 64 hex digits in {source}, got {found}", Exit.USAGE
        ) from None


def _read_file(path: Path, what: str, report: Reporter) -> str:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MOST)
    except OSError as error:
        raise Failure(f"cannot read {what} from {path}: {reason(error)}", Exit.USAGE) from error
    if stat.S_ISREG(mode) and mode & 0o077:
        report.warn(
            f"others have access to {path}: expected mode 0600, got {stat.S_IMODE(mode):04o}"
        )
    return data.decode("ascii", "replace")
