"""Asks a backend about many requests through the ledger: nothing paid twice, nothing lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lantern.errors import UserError
from lantern.refine.engine.limits import START, Budget, Gate, Pacer
from lantern.refine.engine.loop import background_loop
from lantern.refine.engine.run import Chain, Run
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.types import Failure, Outcome, Price, Progress, Reply, Request

Judge = Callable[[Request, Reply], Failure | None]
FollowUp = Callable[[Request, Outcome], Request | None]


class Backend(Protocol):
    """What the engine needs of a backend; ``prepare()`` and ``price`` are used where they exist."""

    config: Any
    """A :class:`~lantern.refine.backends.litellm_backend.BackendConfig`."""

    async def call(self, request: Request, timeout: float) -> Reply: ...


class Engine:
    """One backend, one ledger. Safe to use from several threads, inside a running event loop and after a fork.

    Args:
        backend: answers requests; raises :class:`~lantern.refine.failures.BackendFailure` when it cannot.
        ledger: asked first; every reply is durable there before it is used.
        judge: pure; the typed failure of a reply's content, None when the reply is an answer.
        progress: called in the thread that called :meth:`run`, at most five times a second.
        max_cost: dollars over the life of this engine; the call that could pass it is not sent.
        grace: seconds that calls in flight are given to land after Ctrl-C.
    """

    def __init__(
        self,
        backend: Backend,
        ledger: Ledger,
        *,
        judge: Judge,
        progress: Callable[[Progress], None] | None = None,
        max_cost: float | None = None,
        grace: float = 10.0,
    ) -> None:
        self.backend, self.ledger, self.judge, self.progress = backend, ledger, judge, progress
        self.max_cost, self.grace = max_cost, grace
        self.calls = 0
        """Calls sent over the life of this engine, retries included."""
        self.cost = 0.0
        """Dollars of all replies bought over the life of this engine, as far as prices are known."""
        self._lock = threading.Lock()
        self._pid = -1
        self._gate: Gate | None = None
        self._budget: Budget | None = None

    def run(self, requests: Sequence[Request], follow_up: FollowUp | None = None) -> list[list[Outcome]]:
        """Outcomes of each request: the first, and that of its follow-up where there is one.

        Equal requests are asked once. *follow_up* is called once per request with its first outcome and may return one
        further request (a repair turn). Failures are returned, not raised.

        Raises:
            UserError: the ledger cannot be used, or ``max_cost`` is set and the price is not known.
            KeyboardInterrupt: Ctrl-C; replies that had come are in the ledger.
        """
        keys = [request.key for request in requests]
        chains: dict[str, Chain] = {}
        for key, request in zip(keys, requests):
            chains.setdefault(key, Chain(request, key))
        run = Run(self, list(chains.values()), follow_up)
        run.from_ledger()
        if run.open:
            self._ask(run)
        elif self.progress is not None:
            self.progress(run.snapshot())
        return [list(chains[key].outcomes) for key in keys]

    def _ask(self, run: Run) -> None:
        loop = background_loop()
        if threading.current_thread().name == "lantern-llm":
            raise RuntimeError("Engine.run was called from a judge, a follow-up or a backend")
        future = asyncio.run_coroutine_threadsafe(run.main(), loop)
        last: Progress | None = None
        try:
            while True:
                done, _ = concurrent.futures.wait([future], timeout=0.2)
                now = run.snapshot()
                if self.progress is not None and now != last:
                    self.progress(now)
                    last = now
                if done:
                    break
        except BaseException:
            # Ctrl-C, or the progress callback failed: what is in flight is paid for and gets time to land.
            try:
                loop.call_soon_threadsafe(run.stop)
                concurrent.futures.wait([future], timeout=self.grace + 2)
            finally:
                if not future.done():
                    loop.call_soon_threadsafe(run.abandon)
                    concurrent.futures.wait([future], timeout=2)
            raise
        future.result()

    def limits(self) -> tuple[Gate, Budget]:
        """Gate and budget, shared by all runs of this engine; made by the first call in this process.

        Raises:
            UserError: ``max_cost`` is set and the price is not known.
        """
        with self._lock:
            if self._gate is None or self._budget is None or self._pid != os.getpid():
                config = self.backend.config
                price = self.price
                if self.max_cost is not None and price is None:
                    raise UserError(
                        f"refine.max_cost={self.max_cost} cannot be kept: the price of {config.model} is not known. "
                        "Give llm.price_input and llm.price_output (dollars per million tokens), or llm.free=true"
                    )
                per_minute, tokens = config.requests_per_minute, config.tokens_per_minute
                self._gate = Gate(
                    config.concurrency,
                    START if config.remote else config.concurrency,
                    Pacer(per_minute) if per_minute else None,
                    Pacer(tokens) if tokens else None,
                )
                self._budget = Budget(self.max_cost, price)
                self._pid = os.getpid()
            return self._gate, self._budget

    @property
    def price(self) -> Price | None:
        """What the backend charges; None when it is not known."""
        found = getattr(self.backend, "price", None)
        return found if isinstance(found, Price) else self.backend.config.price
