"""What the vectors of test_golden and the values of test_agree leave out."""

from __future__ import annotations

import pytest

from protomux.dissect import Format, build, compact, dissect
from protomux.errors import EncodingError


@pytest.mark.parametrize(
    ("format", "value"),
    [
        (compact.string, "\ud800"),
        (compact.array(compact.bool_), [True] * (compact.MAX_COUNT + 1)),
        (compact.uint, True),
        (compact.uint, 2**53),
        (compact.int_, 2**52),
        (compact.int_, -(2**52) - 1),
        (compact.fixed32, bytes(31)),
        (compact.fixed32, 5),
        (compact.json, float("nan")),
        (compact.json, {1, 2}),
    ],
)
def test_values_that_do_not_fit(format: Format, value: object) -> None:
    with pytest.raises(EncodingError):
        build(format, value)


def test_an_array_says_too_much() -> None:
    problem = dissect(compact.array(compact.uint), b"\xfe\x01\x00\x10\x00\x00").problem
    assert problem is not None
    assert (problem.offset, problem.reason) == (0, "expected at most 1048576 items, got 1048577")


def test_items_are_named() -> None:
    found = dissect(compact.array(compact.array(compact.uint), "row"), b"\x02\x01\x05\x00")
    assert found.value == [[5], []]
    assert [(node.name, node.value) for _, node in found.root.walk()] == [
        ("data", None),
        ("count", 2),
        ("row", None),
        ("count", 1),
        ("item", 5),
        ("row", None),
        ("count", 0),
    ]
