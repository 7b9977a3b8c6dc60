from typing import Any, Final, TypeVar

T = TypeVar("T")

references: Final[dict[str, Any]]

def twin(reference: T, /) -> T: ...
