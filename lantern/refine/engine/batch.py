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
from lantern.refine.engine.limits import backoff, worst_case
from lantern.refine.engine.loop import background_loop
from lantern.refine.failures import BackendFailure
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.rows import LEASE, new_owner
from lantern.refine.types import Failure, Outcome, Price, Reply, Request

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST = 20_000
"""Requests in one batch; OpenAI takes 50,000 and 200 MB."""
ATTEMPTS = 6
"""Of a call to the provider, before the run gives up; the batch itself goes on there."""
_SUBMITTING = "submitting a batch"
"""Key that a process claims while it submits."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch on its way; without an id as long as its submission is not known to have arrived."""

    id: str | None
    model: str
    requests: dict[str, Request]


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
        self._requests: dict[str, dict[str, Request]] = {}  # by batch; they are large and do not change

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
        price = self.backend.batch_price
        with self._alone():
            outcomes = self.known(left)
            self._adopt()
            waiting = {key for batch in self._open().values() for key in batch.requests}
            todo = [request for key, request in requests.items() if key not in outcomes and key not in waiting]
            outcomes |= self._over_budget(todo, price)
            todo = [request for request in todo if request.key not in outcomes]
            for start in range(0, len(todo), MOST):
                self._submit(todo[start : start + MOST])
        try:
            outcomes |= self._collect(chains, requests, price)
        except KeyboardInterrupt:
            message = "interrupted; the batch goes on at the provider, the same command collects it"
            raise KeyboardInterrupt(message) from None
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
                requests = self.ledger.batch_requests(name)
                if requests is None:
                    continue  # collected by another process just now
                self._requests[name] = {request.key: request for request in requests}
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
        try:
            # Not repeated: whether a submission that failed arrived is for _adopt to find out.
            identity = self._wait(self.client.submit(requests, name))
        except BackendFailure as failed:
            if not failed.failure.kind.transient:
                self.ledger.forget_batch(name)
            raise self._error(failed) from None
        self.ledger.name_batch(name, identity)
        self.calls += len(requests)
        log.info("batch %s submitted with %d requests", identity, len(requests))

    def _over_budget(self, requests: list[Request], price: Price | None) -> dict[str, Outcome]:
        if self.max_cost is None:
            return {}
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

    def _collect(self, chains: Chains, requests: dict[str, Request], price: Price | None) -> dict[str, Outcome]:
        """Wait for the batches that hold any of *requests*; the outcomes of those, by key."""
        outcomes: dict[str, Outcome] = {}
        while True:
            mine = {n: b for n, b in self._open().items() if b.id is not None and set(b.requests) & set(requests)}
            if not mine:
                return outcomes
            under_way = 0
            for name, batch in mine.items():
                assert batch.id is not None
                state = self._patient(partial(self.client.state, batch.id))
                if not state.ended:
                    under_way += state.done + state.failed
                    continue
                outcomes |= self._store(state, batch.requests, requests.keys(), price)
                self.ledger.forget_batch(name)
                if state.status == "failed":
                    raise UserError(
                        f"llm={self.backend.config.name}: the provider refused batch {state.id}: "
                        f"{state.message or 'no reason given'}; the same command submits it again"
                    )
            self._report(chains, len(outcomes) + under_way)
            if self._open().keys() & mine.keys():
                time.sleep(self.poll)

    def _store(
        self, state: BatchState, requests: dict[str, Request], wanted: Collection[str], price: Price | None
    ) -> dict[str, Outcome]:
        """Put all results of a batch into the ledger, those of other runs too; the outcomes of *wanted*, by key."""
        outcomes: dict[str, Outcome] = {}
        for file in filter(None, (state.output_file, state.error_file)):
            for key, result in self._patient(partial(self.client.fetch, file, requests)).items():
                reply = result if isinstance(result, Reply) else result.reply
                if reply is not None:
                    reply = replace(reply, cost=None if price is None else price.cost(reply.usage))
                    self.cost += reply.cost or 0.0
                if isinstance(result, Failure):
                    self.ledger.store_failure(requests[key], replace(result, reply=reply), price)
                    if key in wanted:
                        outcomes[key] = replace(result, reply=reply)
                    continue
                assert reply is not None
                reply = self.ledger.store_reply(requests[key], reply, price)
                if key in wanted:
                    outcomes[key] = self.outcome(requests[key], reply)
                    if isinstance(refused := outcomes[key], Failure):
                        self.ledger.refuse(key, refused)
        return outcomes

    # -- calls to the provider

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return run_coroutine_threadsafe(work, background_loop()).result()

    def _patient(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a call that changes nothing, repeated while it may still succeed."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._wait(make())
            except BackendFailure as failed:
                if not failed.failure.kind.transient or attempt == ATTEMPTS:
                    raise self._error(failed) from None
                time.sleep(failed.retry_after or backoff(attempt))
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
            self.progress(replace(now, done=min(now.done + more, now.total)))
