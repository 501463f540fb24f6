"""How fast and how far a backend may be called: adaptive concurrency, rate limits that wait, and a budget."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from lantern.refine.types import Price, Request, Usage

START = 4
"""Calls in flight at first; each success allows one more, so that the number doubles with every round."""
APART = 0.003
"""Seconds between the starts of two calls at most: calls that start together end together, and their replies then wait
for each other on the one event loop, round after round."""
MAX_PAUSE = 600.0
"""Longest ``Retry-After`` that is honoured in full, seconds."""


def backoff(attempt: int, base: float = 0.5, cap: float = 30.0) -> float:
    """Full-jitter exponential delay before the *attempt*-th repetition (from 1), seconds."""
    return random.uniform(0, min(cap, base * 2 ** min(attempt, 16)))


@dataclass(slots=True)
class _Spent:
    time: float
    amount: float
    live: bool = True
    """Still inside the last 60 seconds."""


class Pacer:
    """At most so many units in any 60 seconds, evenly spread; callers wait in order.

    Aims 2 % below the allowance: 1.2 s of jitter on the way do not exceed it at the provider.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._allowance = per_minute * 0.98
        self._interval = 60.0 / self._allowance
        self._clock = clock
        self._next = 0.0
        self._window: deque[_Spent] = deque()
        self._used = 0.0
        self._turn = asyncio.Lock()

    async def take(self, amount: float = 1.0) -> _Spent:
        """Wait until *amount* units may be used, and use them; more than the allowance waits for an idle minute."""
        async with self._turn:
            while True:
                now = self._clock()
                while self._window and self._window[0].time <= now - 60:
                    old = self._window.popleft()
                    old.live = False
                    self._used -= old.amount
                wait = self._next - now
                if self._window and self._used + amount > self._allowance:
                    wait = max(wait, self._window[0].time + 60 - now)
                if wait <= 0:
                    break
                await asyncio.sleep(wait)
            # Up to half a second of lateness is made up for.
            self._next = max(self._next, now - 0.5) + amount * self._interval
            spent = _Spent(now, amount)
            self._window.append(spent)
            self._used += amount
            return spent

    def settle(self, spent: _Spent, amount: float) -> None:
        """Correct what :meth:`take` was given to what was really used."""
        change = amount - spent.amount
        spent.amount = amount
        if spent.live:
            self._used += change
        self._next += change * self._interval


@dataclass(slots=True)
class Ticket:
    """Permission for one call."""

    entered: float
    tokens: _Spent | None = None


@dataclass
class Gate:
    """Shared by all calls to one backend: how many fly at once, how fast they start, and pauses for everybody."""

    maximum: int
    start: int = START
    requests: Pacer | None = None
    tokens: Pacer | None = None
    clock: Callable[[], float] = time.monotonic
    trial: int | None = None
    """Most calls in flight until :meth:`prove`; None: *maximum*."""
    active: int = 0
    _limit: float = field(init=False)
    _slow_start: bool = True
    _paused_until: float = 0.0
    _cut_at: float = -1.0
    _throttled: int = 0
    _next_start: float = 0.0
    _latency: float | None = None
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._limit = float(min(self.start, self.maximum))

    @property
    def limit(self) -> int:
        """Calls that may fly at once at present."""
        return max(1, min(int(self._limit), self.trial or self.maximum))

    async def enter(self, tokens: float = 0.0) -> Ticket:
        """Wait for a free place, the end of a pause and the rate limits; *tokens* is the most the call can use."""
        await self._place()
        try:
            spent = None
            while True:
                pause = self._paused_until - self.clock()
                if pause > 0:
                    await asyncio.sleep(min(pause, 1.0))  # it may be lifted
                    continue
                await self._apart()
                if self.requests is not None:
                    await self.requests.take()
                if self.tokens is not None:
                    spent = await self.tokens.take(max(tokens, 1.0))
                if self._paused_until <= self.clock():
                    return Ticket(self.clock(), spent)
                if spent is not None and self.tokens is not None:
                    self.tokens.settle(spent, 0.0)
        except BaseException:
            self._free()
            raise

    def leave(self, ticket: Ticket, used: Usage | None = None) -> None:
        """The call is over; *used* tokens replace the estimate."""
        if used is not None:
            took = self.clock() - ticket.entered
            self._latency = took if self._latency is None else 0.9 * self._latency + 0.1 * took
            if ticket.tokens is not None and self.tokens is not None:
                self.tokens.settle(ticket.tokens, float(used.input + used.output))
        self._free()

    def succeeded(self) -> None:
        """A reply came: allow more calls, one per success at first, one per round after the first cut."""
        self._throttled = 0
        self._limit = min(float(self.maximum), self._limit + (1.0 if self._slow_start else 1.0 / self._limit))
        self._wake()

    def throttled(self, ticket: Ticket, retry_after: float | None) -> None:
        """The provider said "too many": halve the calls in flight (once per round) and pause everybody."""
        now = self.clock()
        if ticket.entered > self._cut_at:
            self._throttled += 1
            self._slow_start, self._cut_at = False, now
            self._limit = max(1.0, self._limit / 2)
        self._pause(now, retry_after)

    def down(self, ticket: Ticket, retry_after: float | None) -> None:
        """The backend does not reply: one call at a time looks whether it is back, and then all come back fast."""
        now = self.clock()
        if ticket.entered > self._cut_at:
            self._throttled += 1
            self._cut_at = now
        self._slow_start, self._limit = True, 1.0
        self._pause(now, retry_after)

    def resume(self) -> None:
        """End the pause."""
        self._paused_until = 0.0

    def prove(self) -> None:
        """The backend's replies can be used: allow as many calls as the provider bears."""
        if self.trial is not None:
            self.trial = None
            self._wake()

    def _pause(self, now: float, retry_after: float | None) -> None:
        pause = backoff(self._throttled, base=0.5) if retry_after is None else min(retry_after, MAX_PAUSE)
        self._paused_until = max(self._paused_until, now + pause)

    async def _apart(self) -> None:
        """Spread the starts of calls, over half the time of a call at most."""
        now = self.clock()
        start = max(now, self._next_start)
        self._next_start = start + (APART if self._latency is None else min(APART, self._latency / (2 * self.limit)))
        if start > now:
            await asyncio.sleep(start - now)

    async def _place(self) -> None:
        while self.active >= self.limit:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()
                elif waiter in self._waiting:
                    self._waiting.remove(waiter)
                raise
        self.active += 1

    def _free(self) -> None:
        self.active -= 1
        self._wake()

    def _wake(self) -> None:
        places = self.limit - self.active
        while places > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                places -= 1


def worst_case(request: Request) -> Usage:
    """The most tokens that *request* can use: a token for 3 bytes of what is sent, and ``max_tokens`` of reply."""
    sent = sum(len(m["content"].encode()) + 24 for m in request.messages)
    if request.response_format is not None:
        sent += len(str(request.response_format))
    return Usage(input=sent // 3 + 16, output=int(request.sampling.get("max_tokens") or 4096))


class Budget:
    """A hard stop before the call that could pass *limit* dollars; every call in flight holds its worst case."""

    def __init__(self, limit: float | None, price: Price | None) -> None:
        self._limit, self._price = limit, price
        self._spent = self._held = 0.0
        self._changed = asyncio.Event()
        self.exhausted = False

    async def reserve(self, request: Request) -> float | None:
        """Hold the worst case of *request*; None when it could pass the limit though no other call is in flight."""
        if self._limit is None or self._price is None:
            return 0.0
        worst = worst_case(request)
        need = self._price.cost(worst, written=worst.input)
        while not self.exhausted:
            if self._spent + self._held + need <= self._limit * (1 + 1e-9):
                self._held += need
                return need
            if self._held <= 1e-12:
                self.exhausted = True
                self._changed.set()
                break
            self._changed.clear()
            await self._changed.wait()
        return None

    def settle(self, held: float, cost: float) -> None:
        """Replace a reservation by what the call did cost."""
        self._held = max(0.0, self._held - held)
        if self._held < 1e-12:
            self._held = 0.0
        self._spent += cost
        self._changed.set()
