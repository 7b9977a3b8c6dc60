from __future__ import annotations

import re
from dataclasses import fields
from math import nan

import pytest

import protomux
import protomux_wakeup
from protomux_wakeup.limits import Rate


@pytest.mark.parametrize("limits", [protomux.Limits, protomux_wakeup.Limits])
def test_every_bound_tells_its_default_and_why(limits: type[protomux.Limits]) -> None:
    doc = limits.__doc__ or ""
    described = re.split(r"\n        (?=[a-z_]+: )", doc.split("Attributes:")[1])[1:]
    paragraphs = {text.split(":")[0]: text for text in described}
    own = [field.name for field in fields(limits)]
    if limits is protomux_wakeup.Limits:
        own = [name for name in own if name not in {f.name for f in fields(protomux.Limits)}]
    assert sorted(paragraphs) == sorted(own)
    for name in own:
        assert "Default" in paragraphs[name], name


@pytest.mark.parametrize("value", [-1, nan])
def test_a_bound_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="expected waiting_time of 0 or more, got"):
        protomux.Limits(waiting_time=value)
    with pytest.raises(ValueError, match=r"expected lookups of 0 or more, got Rate\(burst=1"):
        protomux_wakeup.Limits(lookups=Rate(1, value))


def test_what_is_no_bound_at_all_is_refused() -> None:
    for wrong in (None, "1"):
        with pytest.raises(TypeError, match="a number for channels"):
            protomux.Limits(channels=wrong)  # type: ignore[arg-type]
    for rate in (5, (1, 2)):
        with pytest.raises(TypeError, match=r"a value like Rate\(burst=65536, .* for announces"):
            protomux_wakeup.Limits(announces=rate)  # type: ignore[arg-type]
