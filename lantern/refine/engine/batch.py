"""Asks through a provider's batch interface: submit, wait, collect into the ledger; goes on in another process."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from lantern.errors import UserError
from lantern.refine.backends.batches import BatchDoor, BatchState
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.engine import FollowUp, Judge
from lantern.refine.engine.limits import backoff, worst_case
from lantern.refine.engine.loop import background_loop
from lantern.refine.engine.run import judged_anew
from lantern.refine.failures import CONTENT, FATAL, BackendFailure
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.rows import LEASE, new_owner, request_json, request_of
from lantern.refine.types import Failure, Outcome, Price, Progress, Request

T = TypeVar("T")
log = logging.getLogger(__name__)

MOST = 20_000
"""Requests in one batch; OpenAI takes 50,000 and 200 MB."""
ATTEMPTS = 6
"""Of a call to the provider, before the run gives up; the batch itself goes on there."""
_SUBMITTING = "submitting a batch"
"""Key of the claim of who submits."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch on its way; without an id as long as its submission is not known to have arrived."""

    id: str | None
    model: str
    requests: dict[str, Request]


class BatchEngine:
    """Takes the place of :class:`~lantern.refine.engine.engine.Engine` for ``refine.batch=true``.

    Every batch on its way has a row in the ledger, with all it asks: stored before it is submitted and deleted after
    its replies are there, so that a killed process neither loses nor repeats one.

    Args:
        backend: whose batches.
        ledger: asked first; every reply is durable there before it is used.
        judge: pure; the typed failure of a reply's content.
        progress: told how many requests are done.
        max_cost: dollars; requests that could pass it are not submitted.
        poll: seconds between looks at a batch.
    """

    def __init__(
        self,
        backend: LiteLLMBackend,
        ledger: Ledger,
        *,
        judge: Judge,
        progress: Callable[[Progress], None] | None = None,
        max_cost: float | None = None,
        poll: float = 30.0,
    ) -> None:
        self.backend, self.ledger, self.judge, self.progress = backend, ledger, judge, progress
        self.max_cost, self.poll = max_cost, poll
        self.door = BatchDoor(backend)
        self.calls = 0
        self.cost = 0.0
        self._asked: dict[str, dict[str, Request]] = {}  # by batch; they are large and do not change

    def run(self, requests: Sequence[Request], follow_up: FollowUp | None = None) -> list[list[Outcome]]:
        """As :meth:`lantern.refine.engine.engine.Engine.run`; follow-ups are a second batch.

        Raises:
            UserError: the provider refuses the batch, or does not answer any more.
            KeyboardInterrupt: Ctrl-C; batches go on at the provider, and the same command collects them.
        """
        distinct = {request.key: request for request in requests}
        first = self._settle(distinct)
        further: dict[str, Request] = {}
        again: dict[str, str] = {}
        for key, outcome in first.items():
            request = follow_up(distinct[key], outcome) if follow_up is not None else None
            if request is not None:
                again[key], further[request.key] = request.key, request
        second = self._settle(further) if further else {}
        return [[first[r.key], *([second[again[r.key]]] if r.key in again else [])] for r in requests]

    def _settle(self, requests: dict[str, Request]) -> dict[str, Outcome]:
        found = self._known(requests)
        self._tell(len(requests), len(found), len(found), found)
        if len(found) == len(requests):
            return found
        self.backend.prepare()
        self.backend.check_price()
        price = self.backend.batch_price
        with self._alone():
            found = self._known(requests)
            self._adopt()
            waiting = {key for entry in self._open().values() for key in entry.requests}
            todo = [request for key, request in requests.items() if key not in found and key not in waiting]
            refused = self._over_budget(todo, price)
            todo = [request for request in todo if request.key not in refused]
            for start in range(0, len(todo), MOST):
                self._submit(todo[start : start + MOST])
        try:
            failed = self._collect(requests, price, cached=len(found))
        except KeyboardInterrupt:
            told = "interrupted; the batch goes on at the provider, the same command collects it"
            raise KeyboardInterrupt(told) from None
        found = self._known(requests)
        missing = {key: Failure("cancelled", "the batch ended without it") for key in requests if key not in found}
        return {**missing, **failed, **refused, **found}

    def _known(self, requests: dict[str, Request]) -> dict[str, Outcome]:
        known = self.ledger.get_many(list(requests))
        return {key: judged_anew(self.judge, requests[key], outcome) for key, outcome in known.items()}

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
        found = {}
        for name, identity, model in self.ledger.batches():
            if name not in self._asked:
                text = self.ledger.batch_requests(name)
                if text is None:
                    continue  # collected by another process just now
                try:
                    requests = [request_of(one) for one in json.loads(text)]
                except (ValueError, KeyError, TypeError):
                    raise UserError(
                        f"the ledger {self.ledger.location} is damaged: it does not say any more what the batch {name} "
                        f"({identity}), which is on its way, has asked"
                    ) from None
                self._asked[name] = {request.key: request for request in requests}
            found[name] = _Batch(identity, model, self._asked[name])
        return found

    def _adopt(self) -> None:
        """Find out what became of batches whose submission was interrupted."""
        for name, batch in self._open().items():
            if batch.id is None and batch.model == self.backend.config.model:
                found = self._patient(partial(self.door.find, name))
                if found is None:
                    self.ledger.forget_batch(name)
                else:
                    self.ledger.name_batch(name, found)

    def _submit(self, requests: list[Request]) -> None:
        name = f"lantern-{uuid.uuid4().hex[:16]}"
        self.ledger.keep_batch(name, self.backend.config.model, json.dumps([request_json(r) for r in requests]))
        try:
            # Not repeated: whether a submission that failed arrived is for _adopt to find out.
            identity = self._wait(self.door.submit(requests, name))
        except BackendFailure as failed:
            if not failed.retryable:
                self.ledger.forget_batch(name)
            raise self._told(failed) from None
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
                refused[request.key] = Failure("budget", f"refine.max_cost={self.max_cost} could be passed")
            else:
                held += need
        return refused

    def _collect(self, requests: dict[str, Request], price: Price | None, cached: int) -> dict[str, Outcome]:
        """Wait for the batches that hold any of *requests*; what failed there, by key. Replies go to the ledger."""
        failed: dict[str, Outcome] = {}
        finished = cached
        while True:
            mine = {n: b for n, b in self._open().items() if b.id is not None and set(b.requests) & set(requests)}
            if not mine:
                return failed
            under_way = 0
            for name, batch in mine.items():
                assert batch.id is not None
                state = self._patient(partial(self.door.state, batch.id))
                if not state.ended:
                    under_way += state.done + state.failed
                    continue
                failed |= self._store(state, batch.requests, price)
                finished += len(set(batch.requests) & set(requests))
                self.ledger.forget_batch(name)
                if state.status == "failed":
                    raise UserError(
                        f"llm={self.backend.config.name}: the provider refused batch {state.id}: "
                        f"{state.message or 'no reason given'}; the same command submits it again"
                    )
            self._tell(len(requests), finished + under_way, cached, failed)
            if self._open().keys() & mine.keys():
                time.sleep(self.poll)

    def _store(self, state: BatchState, requests: dict[str, Request], price: Price | None) -> dict[str, Outcome]:
        """Put all replies of a batch into the ledger, those that other runs asked for too; what failed, by key."""
        failed: dict[str, Outcome] = {}
        for file in (state.output_file, state.error_file):
            if not file:
                continue
            for key, outcome in self._patient(partial(self.door.fetch, file, requests)).items():
                request = requests[key]
                reply = outcome.reply if isinstance(outcome, Failure) else outcome
                if reply is not None:
                    reply = replace(reply, cost=None if price is None else price.cost(reply.usage))
                    self.cost += reply.cost or 0.0
                judged = outcome if isinstance(outcome, Failure) else self.judge(request, outcome)
                if judged is None:
                    assert reply is not None
                    self.ledger.store_answer(request, reply, price)
                    continue
                settled = judged.kind in CONTENT
                self.ledger.store_failure(request, replace(judged, reply=reply), settled=settled, price=price)
                if not settled:
                    failed[key] = replace(judged, reply=None)
        return failed

    # -- calls to the provider

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, background_loop()).result()

    def _patient(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a call that changes nothing, repeated while it may still succeed."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._wait(make())
            except BackendFailure as failed:
                if not failed.retryable or failed.failure.kind in FATAL or attempt == ATTEMPTS:
                    raise self._told(failed) from None
                time.sleep(failed.retry_after or backoff(attempt))
        raise AssertionError

    def _told(self, failed: BackendFailure) -> UserError:
        failure = failed.failure
        return UserError(
            f"llm={self.backend.config.name}: the batch interface answered {failure.kind}: "
            f"{failure.message[:200] or failure.status}; batches on their way are kept, the same command goes on"
        )

    def _tell(self, total: int, done: int, cached: int, outcomes: dict[str, Outcome]) -> None:
        if self.progress is not None:
            failed = sum(isinstance(outcome, Failure) for outcome in outcomes.values())
            self.progress(Progress(total, min(done, total), cached, failed, self.calls, self.cost, None))
