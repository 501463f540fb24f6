"""One run of the engine: workers that claim, call, store and parse."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from lantern.errors import FailureKind
from lantern.refine.engine.base import Chain, Chains
from lantern.refine.engine.limits import backoff, worst_case
from lantern.refine.engine.loop import WriteQueue
from lantern.refine.failures import BackendFailure
from lantern.refine.ledger import rows
from lantern.refine.types import Failure, Outcome, Progress, Reply, Request, Usage

if TYPE_CHECKING:
    from lantern.refine.engine.engine import Engine

GRACE = 10.0
"""Seconds that calls in flight have to land after Ctrl-C."""
STRIKES = 10
"""Requests in a row that end in the same failure, none succeeding between them, before the rest is not sent."""


class EngineRun:
    """State of one :meth:`Engine.run`. All but :meth:`snapshot` runs in the loop's thread.

    Args:
        engine: backend, ledger, parser, counters, limits, and what earlier calls to the backend have shown.
        chains: all requests of the run.
        left: those whose outcome the ledger does not hold.
    """

    def __init__(self, engine: Engine, chains: Chains, left: list[Chain]) -> None:
        self.engine, self.backend, self.config = engine, engine.backend, engine.backend.config
        self.chains, self.health = chains, engine.health
        self.owner = rows.new_owner()
        self._todo = deque(left)
        self._elsewhere: list[Chain] = []
        """Chains whose request another process is sending."""
        self._flying: set[asyncio.Task[None]] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._main: asyncio.Task[None] | None = None
        self._stopping = False
        self._strikes = self._calls = 0
        self._cost = 0.0
        self._started: float | None = None

    def snapshot(self) -> Progress:
        """Progress of the run; called from any thread."""
        chains, eta = self.chains, None
        sent = chains.done - chains.cached
        if not chains.open:
            eta = 0.0
        elif self._started is not None and sent:
            eta = (time.monotonic() - self._started) / sent * chains.open
        return chains.progress(self._calls, self._cost, eta, self.health.notice())

    async def main(self) -> None:
        """Work until every chain is at its end."""
        self._main = asyncio.current_task()
        self._writes = WriteQueue(self.engine.ledger)
        self._wake = asyncio.Event()
        helpers: list[asyncio.Task[None]] = []
        try:
            await asyncio.to_thread(self.backend.start)
            self._gate, self._budget = self.engine.limits()
            self._started = time.monotonic()
            helpers = [asyncio.create_task(self._renew()), asyncio.create_task(self._poll())]
            # More workers than places: some claim and store while the places are all taken by calls.
            count = min(self.config.concurrency + max(2, self.config.concurrency // 2), self.chains.open)
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

    def stop(self) -> None:
        """Send nothing more; calls in flight have :data:`GRACE` seconds to land."""
        self._stopping = True
        if not self._workers and self._main is not None:
            self._main.cancel()
        for task in self._workers:
            if task not in self._flying:
                task.cancel()
        asyncio.get_running_loop().call_later(GRACE, self.abandon)

    def abandon(self) -> None:
        """Drop the calls in flight."""
        if self._main is not None and not self._main.done():
            self._main.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(rows.LEASE / 4)
            await self._writes.do(partial(rows.renew, owner=self.owner))

    async def _poll(self) -> None:
        """Fetch what other processes were sending, and take over what they gave up."""
        delay = 0.05
        while True:
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, 0.5) if self._elsewhere else 0.05
            if not self._elsewhere:
                continue
            keys = [chain.key for chain in self._elsewhere]
            known, free = await self._writes.do(partial(rows.look, keys=keys))
            waiting, self._elsewhere = self._elsewhere, []
            for chain in waiting:
                if chain.key in known:
                    self._advance(chain, self.engine.outcome(chain.request, known[chain.key]))
                elif chain.key in free:
                    self._todo.append(chain)
                else:
                    self._elsewhere.append(chain)
            self._wake.set()

    async def _work(self) -> None:
        while not self._stopping:
            if not self._todo:
                if not self.chains.open:
                    self._wake.set()
                    return
                self._wake.clear()
                await self._wake.wait()
                continue
            chain = self._todo.popleft()
            outcome = await self._settle(chain)
            if outcome is not None:
                self._advance(chain, outcome)
                self._wake.set()

    def _advance(self, chain: Chain, outcome: Outcome) -> None:
        if self.chains.advance(chain, outcome):
            self._todo.append(chain)

    async def _settle(self, chain: Chain) -> Outcome | None:
        """Outcome of *chain*'s present request; None while another process is sending it, or to try it again later."""
        if not chain.claimed:
            if (unsent := self._unsent()) is not None:
                chain.cached = False
                return unsent
            state = await self._writes.do(partial(rows.claim, key=chain.key, owner=self.owner))
            if not isinstance(state, bool):
                return self.engine.outcome(chain.request, state)
            if not state:
                self._elsewhere.append(chain)
                return None
            chain.cached, chain.claimed = False, True
        outcome = await self._attempts(chain)
        if outcome is None:
            self._todo.append(chain)
        else:
            chain.claimed = False
            if isinstance(outcome, Failure) and not outcome.kind.content:
                self._writes.post(partial(rows.release, owner=self.owner, key=chain.key))
        return outcome

    def _unsent(self) -> Failure | None:
        """Why nothing more is sent; None while calls may be sent."""
        if self.health.fatal is not None:
            return self.health.fatal
        if self._budget.exhausted:
            return Failure(FailureKind.BUDGET, "not sent: max_cost is used up")
        return Failure(FailureKind.CANCELLED) if self._stopping else None

    async def _attempts(self, chain: Chain) -> Outcome | None:
        """Outcome of *chain*'s request after as many attempts as it takes; None to try another request first.

        A failure counts against the request where the backend replied to others since its last one, where it never
        replied at all, or where no other request is left that could show it. Else the backend is down for everybody:
        ``llm.patience`` limits the time until it replies again, and nothing limits the attempts.
        """
        request, health = chain.request, self.health
        while True:
            if (unsent := self._unsent()) is not None:
                return unsent
            held = await self._budget.reserve(request)
            if held is None:
                return Failure(FailureKind.BUDGET, "not sent: it could pass max_cost")
            if chain.replies_before is None:
                chain.replies_before = health.replies
            result = await self._send(request, chain.key, held)
            if not isinstance(result, BackendFailure):
                self._strikes = 0
                return result
            failure = result.failure
            store = partial(
                rows.store_failure, key=chain.key, request=request, failure=failure, price=self.backend.price
            )
            await self._writes.do(store)
            if failure.kind.content:
                health.judged(failure)
                return failure
            if failure.kind.fatal:
                health.give_up(failure.kind, failure.message)
                return failure
            limited, down = failure.kind == FailureKind.RATE_LIMIT, 0 < health.replies == chain.replies_before
            chain.replies_before = health.replies
            if limited or (down and (self.chains.open > 1 or failure.unreachable)):
                # The gate pauses everybody; another request goes first, for it may show that the backend is up.
                health.failed(failure, result.retry_after)
                if health.fatal is not None:
                    self._gate.resume()  # who waits for the end of the pause need not
                if self._todo:
                    return None
                continue
            chain.failures += 1
            if not failure.kind.transient or chain.failures > self.config.retries:
                self._strikes += 1
                if self._strikes >= STRIKES:
                    health.give_up(failure.kind, failure.message)
                return failure
            if not self._stopping:
                await asyncio.sleep(max(result.retry_after or 0.0, backoff(chain.failures)))

    async def _send(self, request: Request, key: str, held: float) -> Outcome | BackendFailure:
        """One attempt. It keeps its place until the reply is durable: a killed process loses no more than that."""
        estimate = worst_case(request)
        try:
            ticket = await self._gate.enter(estimate.input + estimate.output)
        except BaseException:
            self._budget.settle(held, 0.0)
            raise
        if self.health.fatal is not None:
            self._gate.leave(ticket, Usage())
            self._budget.settle(held, 0.0)
            return self.health.fatal
        before = self.health.replies
        me = asyncio.current_task()
        assert me is not None
        used: Usage | None = None
        self._flying.add(me)
        self._calls += 1
        self.engine.calls += 1
        cost = held  # until the provider says otherwise: it may charge for a call whose reply got lost
        try:
            async with asyncio.timeout(self.config.timeout + 5):
                reply = await self.backend.call(request, self.config.timeout)
            if not reply.created:
                reply = replace(reply, created=time.time())
            used, cost = reply.usage, self._paid(reply)
            self.health.replied()
            self._gate.succeeded()
            return await self._store(request, key, reply)
        except TimeoutError:
            return BackendFailure(Failure(FailureKind.TIMEOUT, f"no reply within {self.config.timeout:g} s"))
        except BackendFailure as failed:
            failure = failed.failure
            if failure.reply is not None:
                used, cost = failure.reply.usage, self._paid(failure.reply)
            elif not failed.arrived:
                cost = 0.0
            if failure.reply is not None or not failure.kind.transient:
                self.health.replied()
            elif failure.kind == FailureKind.RATE_LIMIT or failure.status in (503, 529):
                self._gate.throttled(ticket, failed.retry_after)
            elif 0 < self.health.replies == before:
                self._gate.down(ticket, failed.retry_after)
            return failed
        finally:
            self._flying.discard(me)
            self._gate.leave(ticket, used)
            self._budget.settle(held, cost)

    def _paid(self, reply: Reply) -> float:
        cost = max(0.0, reply.cost or 0.0)
        self._cost += cost
        self.engine.cost += cost
        return cost

    async def _store(self, request: Request, key: str, reply: Reply) -> Outcome:
        """Make *reply* durable as it came, then parse it; a failure of the content is stored as one."""
        store = partial(rows.store_reply, key=key, request=request, reply=reply, price=self.backend.price)
        stored = await self._writes.do(store)
        outcome = self.engine.outcome(request, stored)
        self.health.judged(outcome)
        if self.health.proved:
            self._gate.prove()
        if isinstance(outcome, Failure):
            outcome = replace(outcome, reply=stored)
            await self._writes.do(partial(rows.refuse, key=key, failure=outcome))
        return outcome
