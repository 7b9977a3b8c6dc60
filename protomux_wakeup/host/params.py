"""What a client asked for, read from JSON. Knows which values there are, no method.

Every reader raises ValueError with a message that names the parameter and what was expected, and
repeats no value: it may be a secret.
"""

from __future__ import annotations

import re
from typing import Any, Final

from protomux.encoding import MAX_UINT

__all__ = ["flag_of", "key_of", "number_of", "text_of", "writers_of"]

_KEY: Final = re.compile(r"[0-9a-fA-F]{64}")


def text_of(params: Any, name: str) -> str:
    """Return the string `name`."""
    value = _value(params, name)
    if not isinstance(value, str):
        raise ValueError(f"expected {name!r} to be a string, got {type(value).__name__}")
    return value


def number_of(params: Any, name: str) -> int:
    """Return the number `name`, an int of 0 or more, 0 where there is none."""
    value = params.get(name, 0) if isinstance(params, dict) else 0
    if type(value) is not int or value < 0:
        raise ValueError(f"expected {name!r} to be a number of 0 or more, got {value!a:.40}")
    return value


def flag_of(params: Any, name: str) -> bool:
    """Return the boolean `name`, False where there is none."""
    value = params.get(name, False) if isinstance(params, dict) else False
    if not isinstance(value, bool):
        raise ValueError(f"expected {name!r} to be true or false, got {type(value).__name__}")
    return value


def key_of(params: Any, name: str) -> bytes:
    """Return the 32 bytes whose hex digits `name` is."""
    return _key(_value(params, name), name)


def writers_of(params: Any, name: str) -> list[tuple[bytes, int]]:
    """Return the list `name` of pairs: a key's hex digits, and a length from 0 to 2^53 - 1."""
    value = _value(params, name)
    if not isinstance(value, list):
        raise ValueError(f"expected {name!r} to be a list, got {type(value).__name__}")
    return [_writer(entry, name) for entry in value]


def _writer(entry: object, name: str) -> tuple[bytes, int]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(f"expected {name!r} to have pairs of a key and a length")
    key, length = entry
    if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length <= MAX_UINT:
        raise ValueError(f"expected lengths from 0 to {MAX_UINT} in {name!r}")
    return _key(key, name), length


def _key(value: object, name: str) -> bytes:
    if not isinstance(value, str) or _KEY.fullmatch(value) is None:
        raise ValueError(f"expected 64 hex digits in {name!r}")
    return bytes.fromhex(value)


def _value(params: Any, name: str) -> Any:
    if not isinstance(params, dict) or name not in params:
        raise ValueError(f"expected {name!r} in the parameters")
    return params[name]
