"""How fast and how far a backend may be called, on a clock that moves only where the limits wait."""

from __future__ import annotations

import asyncio

import pytest

from lantern.refine.engine.limits import APART, MAX_PAUSE, Gate, Pacer
from lantern.refine.types import Usage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that pass only where the limits wait."""
    now = [1000.0]

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr("lantern.refine.engine.limits.asyncio.sleep", sleep)
    return now


@pytest.mark.parametrize("amounts", [[1.0], [40.0, 3.0, 17.0]])
def test_no_minute_takes_more_than_its_allowance(clock: list[float], amounts: list[float]) -> None:
    async def taken() -> list[tuple[float, float]]:
        pacer, found = Pacer(100, clock=lambda: clock[0]), []
        for number in range(400):
            amount = amounts[number % len(amounts)]
            await pacer.take(amount)
            found.append((clock[0], amount))
            if number == 50:
                clock[0] += 300  # an idle stretch saves up nothing
        return found

    found = asyncio.run(taken())
    for start, _ in found:
        assert sum(amount for at, amount in found if start <= at < start + 60) <= 100
    if amounts == [1.0]:
        assert found[-1][0] - found[0][0] - 300 < 60 * 400 / 98 * 1.1, "and no minute is wasted"


def test_what_was_estimated_is_corrected(clock: list[float]) -> None:
    async def seconds(real: float) -> float:
        pacer, start = Pacer(600, clock=lambda: clock[0]), clock[0]
        for _ in range(60):
            spent = await pacer.take(50.0)
            pacer.settle(spent, real)
        return clock[0] - start

    assert asyncio.run(seconds(50.0)) == pytest.approx(60 * 60 * 50 / 588, rel=0.05)
    assert asyncio.run(seconds(5.0)) == pytest.approx(60 * 60 * 5 / 588, rel=0.05)


def test_more_than_a_minutes_allowance_waits_for_an_idle_one(clock: list[float]) -> None:
    async def waited() -> float:
        pacer = Pacer(100, clock=lambda: clock[0])
        await pacer.take(10.0)
        start = clock[0]
        await pacer.take(1000.0)
        return clock[0] - start

    assert asyncio.run(waited()) == pytest.approx(60, abs=0.1)


def test_a_pause_is_honoured_up_to_ten_minutes(clock: list[float]) -> None:
    async def resumed_after(wait: float) -> float:
        gate = Gate(4, 4, clock=lambda: clock[0])
        ticket = await gate.enter()
        gate.leave(ticket)
        gate.throttled(ticket, wait)
        start = clock[0]
        await gate.enter()
        return clock[0] - start

    assert asyncio.run(resumed_after(30.0)) == pytest.approx(30, abs=0.1)
    assert asyncio.run(resumed_after(86400.0)) == pytest.approx(MAX_PAUSE, abs=0.1)


def test_calls_that_take_no_time_are_not_held_up(clock: list[float]) -> None:
    async def go() -> float:
        gate, start = Gate(32, 32, clock=lambda: clock[0]), clock[0]
        for _ in range(200):
            gate.leave(await gate.enter(), Usage())
        return clock[0] - start

    assert asyncio.run(go()) < 200 * APART / 2
