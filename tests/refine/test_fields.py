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


def test_context_lines_stay_inside_the_dialogue() -> None:
    first, *_, last = receptive_fields(10, stride=2, coverage=2)
    assert [*first.shown(10, before=3, after=4)] == [0, 1, 2, 3, 4, 5]
    assert [*last.shown(10, before=3, after=4)] == [5, 6, 7, 8, 9]
    for length, causal, before, after in itertools.product((1, 7, 10), (False, True), (0, 2, 50), (0, 1, 50)):
        for field in receptive_fields(length, 2, 2, causal):
            shown = field.shown(length, before, after)
            assert set(shown) == set(range(field.start - before, field.stop + after)) & set(range(length))
            assert set(field.targets) <= set(shown)
            assert field.shown(length) == range(field.start, field.stop)
