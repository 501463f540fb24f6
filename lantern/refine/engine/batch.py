"""Works through a provider's batch interface: submit, wait, collect into the ledger; another process can go on."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from asyncio import run_coroutine_threadsafe
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from lantern.errors import FailureKind, UserError
from lantern.refine.backends.batches import BatchClient, BatchState
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.base import BaseEngine, Chain, Chains, FollowUp
from lantern.refine.engine.health import EVERY, span
from lantern.refine.engine.limits import backoff, worst_case
from lantern.refine.engine.loop import background_loop
from lantern.refine.failures import BackendFailure
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.rows import LEASE, new_owner
from lantern.refine.ledger.schema import DamagedRow
from lantern.refine.types import Failure, Outcome, Progress, Request, Stored

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST = 20_000
"""Requests in one batch; OpenAI takes 50,000 and 200 MB."""
ATTEMPTS = 46
"""Of a call to the provider, in about ten minutes; then, or at the end of ``llm.patience``, the run gives up. The batch
itself goes on there."""
LONGEST_WAIT = 600.0
"""Seconds between two attempts, whatever the provider asks for."""
_SUBMITTING = "submitting a batch"
"""Key that a process claims while it submits."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch on its way; without an id as long as its submission is not known to have arrived."""

    id: str | None
    model: str
    requests: dict[str, Request] | None
    """By key; None where the row is damaged: it may hold any."""


class BatchEngine(BaseEngine):
    """Takes the place of :class:`~lantern.refine.engine.engine.Engine` for ``refine.batch=true``.

    Every batch on its way has a row in the ledger, with all its requests: stored before it is submitted and deleted
    after its replies are there, so that a killed process neither loses nor repeats one.

    Args:
        backend: whose batches.
        ledger: as of :class:`BaseEngine`, and so are the other arguments.
        poll: seconds between looks at a batch.
    """

    def __init__(self, backend: LiteLLMBackend, ledger: Ledger, *, poll: float = 30.0, **shared: Any) -> None:
        super().__init__(backend, ledger, **shared)
        self.poll = poll
        self.client = BatchClient(backend)
        self._requests: dict[str, dict[str, Request] | None] = {}  # by batch; they are large and do not change
        self._now: Progress | None = None
        self._looked: set[str] = set()  # damaged batches that have been collected as far as can be

    def run(self, requests: Sequence[Request], follow_up: FollowUp | None = None) -> list[list[Outcome]]:
        """As :meth:`lantern.refine.engine.engine.Engine.run`; follow-ups are a second batch.

        Raises:
            UserError: the provider refuses the batch, or does not reply any more.
            KeyboardInterrupt: Ctrl-C; batches go on at the provider, and the same command collects them.
        """
        chains = Chains(requests, follow_up)
        left = chains.take(chains.all, self.known)
        self._report(chains)
        if left:
            self.backend.start()
        while left:
            outcomes = self._settle(chains, left)
            for chain in left:
                chain.cached = False
            further = [chain for chain in left if chains.advance(chain, outcomes[chain.key])]
            left = chains.take(further, self.known)
            self._report(chains)
        return chains.outcomes

    def _settle(self, chains: Chains, left: list[Chain]) -> dict[str, Outcome]:
        """The outcomes of the present requests of the chains in *left*."""
        requests = {chain.key: chain.request for chain in left}
        with self._alone():
            self._adopt()
        # What a damaged batch holds is not known before its replies are there; then it need not be paid for again.
        self._collect(chains, requests, damaged=True)
        with self._alone():
            outcomes = self.known(left)
            waiting: set[str] = set()
            for name, batch in self._open().items():
                held = list(batch.requests or ())
                if held and len(self.ledger.get_many(held)) == len(held):
                    self.ledger.forget_batch(name)  # left by a process that was killed when it had collected it
                waiting.update(held)
            todo = [request for key, request in requests.items() if key not in outcomes and key not in waiting]
            outcomes |= self._over_budget(todo)
            todo = [request for request in todo if request.key not in outcomes]
            for start in range(0, len(todo), MOST):
                self._submit(todo[start : start + MOST])
        outcomes |= self._collect(chains, requests)
        outcomes |= self.known([chain for chain in left if chain.key not in outcomes])  # another process collected it
        cancelled = Failure(FailureKind.CANCELLED, "the batch ended without it")
        return {key: outcomes.get(key, cancelled) for key in requests}

    # -- batches on their way

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time, on whatever machine, decides what is submitted."""
        owner, through = new_owner(), threading.Event()

        def renew() -> None:
            while not through.wait(LEASE / 4):
                self.ledger.renew(owner)

        while not self.ledger.claim(_SUBMITTING, owner):
            time.sleep(0.2)
        holding = threading.Thread(target=renew, name="lantern-batch", daemon=True)
        holding.start()
        try:
            yield
        finally:
            through.set()
            holding.join()
            self.ledger.release(owner)

    def _open(self) -> dict[str, _Batch]:
        batches = {}
        for name, identity, model in self.ledger.batches():
            if name not in self._requests:
                try:
                    requests = self.ledger.batch_requests(name)
                    if requests is None:
                        continue  # collected by another process just now
                except DamagedRow:
                    requests = None
                    self.ledger.damage(1, "a damaged row of a batch, whose replies to this run are collected")
                self._requests[name] = requests
            batches[name] = _Batch(identity, model, self._requests[name])
        return batches

    def _adopt(self) -> None:
        """Find out what became of batches whose submission was interrupted."""
        for name, batch in self._open().items():
            if batch.id is None and batch.model == self.backend.config.model:
                identity = self._patient(partial(self.client.find, name))
                if identity is None:
                    self.ledger.forget_batch(name)
                else:
                    self.ledger.name_batch(name, identity)

    def _submit(self, requests: list[Request]) -> None:
        name = f"lantern-{uuid.uuid4().hex[:16]}"
        self.ledger.keep_batch(name, self.backend.config.model, requests)
        sent = False

        async def arrive() -> str:
            """The batch's id; sent again only where the provider does not have it from an attempt that failed."""
            nonlocal sent
            arrived = await self.client.find(name) if sent else None
            if arrived is not None:
                return arrived
            sent = True
            try:
                return await self.client.submit(requests, name)
            except BackendFailure as failed:
                if not failed.failure.kind.transient:
                    self.ledger.forget_batch(name)
                raise

        identity = self._patient(arrive)
        self.ledger.name_batch(name, identity)
        self.calls += len(requests)
        log.info("batch %s submitted with %d requests", identity, len(requests))

    def _over_budget(self, requests: list[Request]) -> dict[str, Outcome]:
        if self.max_cost is None:
            return {}
        price = self.backend.batch_price
        if price is None:
            raise UserError(f"refine.max_cost={self.max_cost} cannot be kept: the price is not known")
        refused: dict[str, Outcome] = {}
        held = self.cost
        for request in requests:
            need = price.cost(worst_case(request))
            if held + need > self.max_cost * (1 + 1e-9):
                refused[request.key] = Failure(FailureKind.BUDGET, f"refine.max_cost={self.max_cost} could be passed")
            else:
                held += need
        return refused

    def _collect(self, chains: Chains, requests: dict[str, Request], damaged: bool = False) -> dict[str, Outcome]:
        """Wait for the batches that hold any of *requests*, or the *damaged* ones; the outcomes of those, by key."""
        outcomes: dict[str, Outcome] = {}

        def wanted(name: str, batch: _Batch) -> bool:
            if batch.id is None or name in self._looked:
                return False
            if batch.requests is None:
                return damaged and batch.model == self.backend.config.model
            return not damaged and not requests.keys().isdisjoint(batch.requests)

        try:
            while mine := {name: batch for name, batch in self._open().items() if wanted(name, batch)}:
                under_way = 0
                for name, batch in mine.items():
                    assert batch.id is not None
                    state = self._patient(partial(self._state, name, batch.id))
                    if not state.ended:
                        under_way += state.done + state.failed
                        continue
                    outcomes |= self._store(state, {**(batch.requests or {}), **requests}, requests.keys())
                    if batch.requests is None:
                        self._looked.add(name)  # it stays in the ledger: other runs may have requests in it
                        continue
                    self.ledger.forget_batch(name)
                    if state.status == "failed":
                        raise UserError(
                            f"llm={self.backend.config.name}: the provider refused batch {state.id}: "
                            f"{state.message or 'no reason given'}; the same command submits it again"
                        )
                self._report(chains, len(outcomes) + under_way)
                if any(name not in self._looked for name in self._open().keys() & mine.keys()):
                    time.sleep(self.poll)
        except KeyboardInterrupt:
            message = "interrupted; the batch goes on at the provider, the same command collects it"
            raise KeyboardInterrupt(message) from None
        return outcomes

    async def _state(self, name: str, identity: str) -> BatchState:
        """Progress of a batch; where the provider does not know its id, by the name that it carries."""
        try:
            return await self.client.state(identity)
        except BackendFailure as failed:
            if failed.failure.kind not in (FailureKind.NOT_FOUND, FailureKind.BAD_REQUEST):
                raise
            found = await self.client.find(name)
            if found is None or found == identity:
                raise
            self.ledger.name_batch(name, found)
            return await self.client.state(found)

    def _store(self, state: BatchState, requests: dict[str, Request], wanted: Collection[str]) -> dict[str, Outcome]:
        """Put all results of a batch into the ledger, those of other runs too; the outcomes of *wanted*, by key."""
        outcomes: dict[str, Outcome] = {}
        for file in filter(None, (state.output_file, state.error_file)):
            results = self._patient(partial(self.client.fetch, file, requests))
            # A process that was killed while it collected has left the rest to this one.
            kept = self.ledger.get_many(list(results))
            for key, result in results.items():
                request = requests[key]
                if key in kept:
                    outcome = self.outcome(request, kept[key])
                else:
                    outcome = self._keep(request, result)
                if key in wanted:
                    outcomes[key] = outcome
        return outcomes

    def _keep(self, request: Request, result: Stored) -> Outcome:
        """Store one result of a batch, then parse it."""
        price = self.backend.batch_price
        reply = result.reply if isinstance(result, Failure) else result
        if reply is not None:
            reply = replace(reply, cost=None if price is None else price.cost(reply.usage))
            self.cost += reply.cost or 0.0
        if isinstance(result, Failure):
            self.ledger.store_failure(request, replace(result, reply=reply), price)
            return replace(result, reply=reply)
        assert reply is not None
        outcome = self.outcome(request, self.ledger.store_reply(request, reply, price))
        if isinstance(outcome, Failure):
            self.ledger.refuse(request.key, outcome)
        return outcome

    # -- calls to the provider

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return run_coroutine_threadsafe(work, background_loop()).result()

    def _patient(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a call that may be repeated, repeated while it may still succeed."""
        began, told = time.monotonic(), 0.0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._wait(make())
            except BackendFailure as failed:
                if not failed.failure.kind.transient or attempt == ATTEMPTS:
                    raise self._error(failed) from None
                pause = min(failed.retry_after or backoff(attempt), LONGEST_WAIT)
                silent = time.monotonic() - began
                if silent + pause > self.backend.config.patience:
                    raise self._error(failed) from None
                if silent - told >= EVERY:
                    told = silent
                    self._say(f"no reply from the batch interface for {span(silent)} ({failed}); trying again")
                time.sleep(pause)
        raise AssertionError

    def _error(self, failed: BackendFailure) -> UserError:
        failure = failed.failure
        return UserError(
            f"llm={self.backend.config.name}: the batch interface answered {failure.kind}: "
            f"{failure.message[:200] or failure.status}; batches on their way are kept, the same command goes on"
        )

    def _report(self, chains: Chains, more: int = 0) -> None:
        """Progress, of which *more* requests are done but not in *chains* yet."""
        if self.progress is not None:
            now = chains.progress(self.calls, self.cost)
            self._now = replace(now, done=min(now.done + more, now.total))
            self.progress(self._now)

    def _say(self, notice: str) -> None:
        if self.progress is not None and self._now is not None:
            self.progress(replace(self._now, notice=notice))
