"""One run of the engine: workers that claim, call, judge and store."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from lantern.refine.engine.limits import backoff, worst_case
from lantern.refine.engine.loop import CommonWrites
from lantern.refine.failures import CONTENT, FATAL, BackendFailure
from lantern.refine.ledger import rows as rows
from lantern.refine.types import Failure, Outcome, Price, Progress, Reply, Request, Usage

if TYPE_CHECKING:
    from lantern.refine.engine.engine import Engine

STRIKES = 10
"""Requests in a row that end in the same failure, none succeeding between them, before the rest is not sent."""
THROTTLED = 4
"""A call may be told "too many" this many times as often as it may fail otherwise: waiting is the cure."""


@dataclass(slots=True, eq=False)
class Chain:
    """A request, its outcome, and the one follow-up."""

    request: Request
    key: str
    outcomes: list[Outcome] = field(default_factory=list)
    cached: bool = True
    followed: bool = False
    done: bool = False


def judged_anew(judge: Callable[[Request, Reply], Failure | None], request: Request, known: Outcome) -> Outcome:
    """What *judge* says now of a stored outcome: the parser may have changed, and the reply is paid for.

    The words of an imported one are not there to be judged.
    """
    if isinstance(known, Failure) and known.reply is not None and known.reply.text:
        return judge(request, known.reply) or known.reply
    return known


class Run:
    """State of one :meth:`Engine.run`. All but :meth:`from_ledger` and :meth:`snapshot` runs in the loop's thread."""

    def __init__(
        self, engine: Engine, chains: list[Chain], follow_up: Callable[[Request, Outcome], Request | None] | None
    ) -> None:
        self.engine, self.backend, self.config = engine, engine.backend, engine.backend.config
        self.chains, self.follow_up = chains, follow_up
        self.open = len(chains)
        self.owner = rows.new_owner()
        self._todo = deque(chains)
        self._busy: list[Chain] = []
        self._flying: set[asyncio.Task[None]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._main: asyncio.Task[None] | None = None
        self._stopping = False
        self._fatal: Failure | None = None
        self._strikes = 0
        self._done = self._cached = self._failed = self._calls = 0
        self._cost = 0.0
        self._started: float | None = None
        self._asked = 0

    # -- in the calling thread

    def from_ledger(self) -> None:
        """Take all that the ledger knows; afterwards only what has to be asked is open."""
        while self._todo:
            known = self.engine.ledger.get_many([chain.key for chain in self._todo])
            hits = [chain for chain in self._todo if chain.key in known]
            if not hits:
                return
            misses = [chain for chain in self._todo if chain.key not in known]
            self._todo = deque()
            for chain in hits:
                self._advance(chain, self._judged(chain.request, known[chain.key]))
            self._todo.extend(misses)
            if len(misses) == len(self._todo):
                return

    def snapshot(self) -> Progress:
        """Where the run stands."""
        total, left = len(self.chains), None
        if self._done == total:
            left = 0.0
        elif self._started is not None and self._asked:
            left = (time.monotonic() - self._started) / self._asked * (total - self._done)
        return Progress(total, self._done, self._cached, self._failed, self._calls, self._cost, left)

    def _judged(self, request: Request, known: Outcome) -> Outcome:
        return judged_anew(self.engine.judge, request, known)

    def _advance(self, chain: Chain, outcome: Outcome) -> None:
        chain.outcomes.append(outcome)
        if self.follow_up is not None and not chain.followed:
            chain.followed = True
            further = self.follow_up(chain.request, outcome)
            if further is not None:
                chain.request, chain.key = further, further.key
                self._todo.append(chain)
                return
        chain.done = True
        self.open -= 1
        self._done += 1
        self._cached += chain.cached
        self._asked += not chain.cached
        self._failed += isinstance(outcome, Failure)

    # -- in the loop's thread

    async def main(self) -> None:
        """Ask about everything that is open."""
        self._main = asyncio.current_task()
        self._writes = CommonWrites(self.engine.ledger)
        self._wake = asyncio.Event()
        helpers: list[asyncio.Task[None]] = []
        try:
            await self._prepare()
            self._started = time.monotonic()
            helpers = [asyncio.create_task(self._renew()), asyncio.create_task(self._poll())]
            # More workers than places: some claim and store while the places are all taken by calls.
            count = min(self.config.concurrency + max(2, self.config.concurrency // 2), self.open)
            self._workers = [asyncio.create_task(self._work()) for _ in range(count)]
            everything = {*helpers, *self._workers}
            while not all(w.done() for w in self._workers):
                ended, _ = await asyncio.wait(everything, return_when=asyncio.FIRST_COMPLETED)
                everything -= ended
                for task in ended:
                    if not task.cancelled() and (error := task.exception()) is not None:
                        raise error
        finally:
            tasks = [*helpers, *self._workers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._writes.post(partial(rows.release, owner=self.owner))
            await self._writes.close()

    async def _prepare(self) -> None:
        prepare = getattr(self.backend, "prepare", None)
        if prepare is not None:
            await asyncio.to_thread(prepare)
        check_price = getattr(self.backend, "check_price", None)
        if check_price is not None:
            check_price()
        check_server = getattr(self.backend, "check_server", None)
        if check_server is not None:
            await asyncio.to_thread(check_server)
        self._gate, self._budget = self.engine.limits()
        self._price: Price | None = self.engine.price

    def stop(self) -> None:
        """Send nothing more; calls in flight have ``grace`` seconds to land."""
        self._stopping = True
        if not self._workers and self._main is not None:
            self._main.cancel()
        for task in self._workers:
            if task not in self._flying:
                task.cancel()
        asyncio.get_running_loop().call_later(self.engine.grace, self.abandon)

    def abandon(self) -> None:
        """Drop the calls in flight."""
        if self._main is not None and not self._main.done():
            self._main.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(rows.LEASE / 4)
            await self._writes.do(partial(rows.renew, owner=self.owner))

    async def _poll(self) -> None:
        """Fetch what other processes were asking, and take over what they gave up."""
        delay = 0.05
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 0.5) if self._busy else 0.05
            if not self._busy:
                continue
            keys = [chain.key for chain in self._busy]
            known, free = await self._writes.do(partial(rows.look, keys=keys))
            waiting, self._busy = self._busy, []
            for chain in waiting:
                if chain.key in known:
                    self._advance(chain, self._judged(chain.request, known[chain.key]))
                elif chain.key in free:
                    self._todo.append(chain)
                else:
                    self._busy.append(chain)
            self._wake.set()

    async def _work(self) -> None:
        while not self._stopping:
            if not self._todo:
                if self.open == 0:
                    self._wake.set()
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            chain = self._todo.popleft()
            outcome = await self._ask(chain)
            if outcome is None:
                self._busy.append(chain)
            else:
                self._advance(chain, outcome)
                self._wake.set()

    async def _ask(self, chain: Chain) -> Outcome | None:
        """Outcome for *chain*'s present request; None while another process is asking it."""
        if self._fatal is not None:
            chain.cached = False
            return self._fatal
        if self._budget.exhausted:
            chain.cached = False
            return Failure("budget", "not sent: max_cost is used up")
        state = await self._writes.do(partial(rows.claim, key=chain.key, owner=self.owner))
        if not isinstance(state, bool):
            return self._judged(chain.request, state)
        if not state:
            return None
        chain.cached = False
        outcome = await self._attempts(chain.request, chain.key)
        if isinstance(outcome, Failure) and outcome.kind not in CONTENT:
            self._writes.post(partial(rows.release, owner=self.owner, key=chain.key))
        return outcome

    async def _attempts(self, request: Request, key: str) -> Outcome:
        failures = throttled = 0
        while True:
            if self._fatal is not None:
                return self._fatal
            if self._stopping:
                return Failure("cancelled")
            held = await self._budget.reserve(request)
            if held is None:
                return Failure("budget", "not sent: it could pass max_cost")
            result = await self._send(request, key, held)
            if not isinstance(result, BackendFailure):
                self._strikes = 0
                return result
            failure, retryable = result.failure, result.retryable
            settled = failure.kind in CONTENT
            await self._writes.do(
                partial(
                    rows.store_failure,
                    key=key,
                    request=rows.request_json(request) if settled else None,
                    failure=failure,
                    settled=settled,
                    price=self._price,
                )
            )
            if settled:
                return failure
            failure = replace(failure, reply=None)
            if failure.kind in FATAL:
                self._fatal = failure
                return failure
            if failure.kind == "rate_limit":
                throttled += 1
                retryable = retryable and throttled <= THROTTLED * self.config.retries
            else:
                failures += 1
                retryable = retryable and failures <= self.config.retries
            if not retryable:
                self._strikes += 1
                if self._strikes >= STRIKES:
                    self._fatal = failure
                return failure
            if failure.kind != "rate_limit" and not self._stopping:
                await asyncio.sleep(max(result.retry_after or 0.0, backoff(failures)))

    async def _send(self, request: Request, key: str, held: float) -> Outcome | BackendFailure:
        """One attempt. It keeps its place until the reply is durable: a killed process loses no more than that."""
        estimate = worst_case(request)
        try:
            ticket = await self._gate.enter(estimate.input + estimate.output)
        except BaseException:
            self._budget.settle(held, 0.0)
            raise
        if self._fatal is not None:
            self._gate.leave(ticket, Usage())
            self._budget.settle(held, 0.0)
            return self._fatal
        me = asyncio.current_task()
        assert me is not None
        used: Usage | None = None
        self._flying.add(me)
        self._calls += 1
        self.engine.calls += 1
        cost = held  # until the provider says otherwise: it may charge for a call that we saw nothing of
        try:
            async with asyncio.timeout(self.config.timeout + 5):
                reply = await self.backend.call(request, self.config.timeout)
            if not reply.created:
                reply = replace(reply, created=time.time())
            used, cost = reply.usage, reply.cost or 0.0
            self._paid(reply)
            self._gate.succeeded()
            return await self._store(request, key, reply)
        except TimeoutError:
            text = f"no reply within {self.config.timeout:g} s"
            return BackendFailure(Failure("timeout", text), retryable=True)
        except BackendFailure as failed:
            if failed.failure.reply is not None:
                used, cost = failed.failure.reply.usage, failed.failure.reply.cost or 0.0
                self._paid(failed.failure.reply)
            elif failed.failure.kind not in ("timeout", "connection", "bad_body"):
                cost = 0.0
            if failed.failure.kind == "rate_limit" or failed.failure.status in (503, 529):
                self._gate.throttled(ticket, failed.retry_after)
            return failed
        finally:
            self._flying.discard(me)
            self._gate.leave(ticket, used)
            self._budget.settle(held, cost)

    def _paid(self, reply: Reply) -> None:
        self._cost += reply.cost or 0.0
        self.engine.cost += reply.cost or 0.0

    async def _store(self, request: Request, key: str, reply: Reply) -> Outcome:
        verdict = self.engine.judge(request, reply)
        text = rows.request_json(request)
        if verdict is None:
            return await self._writes.do(
                partial(rows.store_answer, key=key, request=text, reply=reply, price=self._price)
            )
        verdict = replace(verdict, reply=reply)
        return await self._writes.do(
            partial(rows.store_failure, key=key, request=text, failure=verdict, settled=True, price=self._price)
        )
