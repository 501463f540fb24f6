from __future__ import annotations

import pytest

from lantern.refine.types import Price, Usage


def test_cached_input_has_a_price_of_its_own() -> None:
    usage = Usage(input=1_000_000, cached_input=400_000, output=200_000)
    assert Price(2.0, 10.0, cached_input=0.5).cost(usage) == pytest.approx(0.6 * 2.0 + 0.4 * 0.5 + 0.2 * 10.0)
    assert Price(2.0, 10.0).cost(usage) == pytest.approx(2.0 + 0.2 * 10.0), "as much as the rest where none is stated"
    assert Price(2.0, 10.0, 0.5).times(0.5) == Price(1.0, 5.0, 0.25)
    assert Price(2.0, 10.0).times(0.5) == Price(1.0, 5.0)
