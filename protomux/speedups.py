"""Which twins of hot code are in use: compiled ones, or those in Python. Knows none of them.

What profiles name, codecs above all, is written in Python first, and that text is the reference.
Where the package was built with a C compiler, `twin` puts the compiled one of the same name in its
place; the environment variable `PROTOMUX_PURE=1`, read once at the first import, keeps Python.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final, Literal, TypeVar, cast

__all__ = ["implementation", "twin"]

T = TypeVar("T")


def _load() -> ModuleType | None:
    if os.environ.get("PROTOMUX_PURE", "0") not in ("", "0"):
        return None
    try:
        from protomux import _speedups
    except ImportError:  # built without a compiler, or not built at all
        return None
    return _speedups


_compiled: Final = _load()

implementation: Final[Literal["cython", "python"]] = "python" if _compiled is None else "cython"
"""What the hot paths in use are written in."""


def twin(reference: T) -> T:
    """Return the compiled twin of a function or class, or `reference` itself if there is none.

    They are alike in what they return and raise. The compiled one hands to its reference what is
    not worth compiling: errors, and arguments of unusual types.
    """
    return reference if _compiled is None else cast(T, _compiled.twin(reference))
