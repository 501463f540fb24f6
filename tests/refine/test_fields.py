from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lantern.refine.fields import receptive_fields

SIZES = {"length": st.integers(1, 119), "stride": st.integers(1, 7), "coverage": st.integers(1, 6)}


@given(**SIZES)
def test_every_utterance_lies_in_exactly_t_fields_once_per_band(length: int, stride: int, coverage: int) -> None:
    fields = receptive_fields(length, stride, coverage)
    for index in range(length):
        bands = [f.band(index) for f in fields if f.start <= index < f.stop]
        assert sorted(bands) == list(range(coverage))


@given(**SIZES)
def test_count_and_bounds(length: int, stride: int, coverage: int) -> None:
    fields = receptive_fields(length, stride, coverage)
    assert len(fields) == math.ceil(length / stride) + coverage - 1
    assert all(0 <= f.start < f.stop <= length for f in fields)
    assert all(len(f) <= stride * coverage for f in fields)
    assert [f.origin for f in fields] == sorted({f.origin for f in fields})


def test_band_zero_is_the_newest_stretch() -> None:
    field = receptive_fields(10, stride=2, coverage=3)[2]
    assert (field.start, field.stop) == (0, 6)
    assert [field.band(i) for i in range(6)] == [2, 2, 1, 1, 0, 0]


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        receptive_fields(5, stride=0, coverage=1)
    with pytest.raises(ValueError, match="no target of the field"):
        receptive_fields(5, stride=1, coverage=1)[0].band(3)


def test_causal_fields_end_at_the_utterance_and_hold_it_once_per_band() -> None:
    for length in range(1, 40):
        for stride, coverage in itertools.product((1, 2, 5), (1, 2, 4)):
            bands: dict[int, list[int]] = {}
            for field in receptive_fields(length, stride, coverage, causal=True):
                (target,) = field.targets
                assert target == field.stop - 1
                assert field.start == max(0, field.stop - (field.band(target) + 1) * stride)
                bands.setdefault(target, []).append(field.band(target))
            assert bands == {i: list(range(coverage)) for i in range(length)}
