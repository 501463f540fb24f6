"""Sends many requests to a backend through the ledger: nothing is paid for twice, nothing is lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Sequence
from typing import Any

from lantern.errors import UserError
from lantern.refine.engine.base import BaseEngine, Chains, FollowUp
from lantern.refine.engine.health import TRIAL, Health
from lantern.refine.engine.limits import START, Budget, Gate, Pacer
from lantern.refine.engine.loop import background_loop
from lantern.refine.engine.run import GRACE, EngineRun
from lantern.refine.types import Outcome, Progress, Request


class Engine(BaseEngine):
    """Single calls. Safe to use from several threads, inside a running event loop and after a fork."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.Lock()
        self._limits: tuple[int, Gate, Budget] | None = None
        self.health = Health(self.backend.config.model, self.backend.config.patience)

    def run(self, requests: Sequence[Request], follow_up: FollowUp | None = None) -> list[list[Outcome]]:
        """Outcomes of each request: the first, and that of its follow-up where there is one.

        Equal requests are sent once. *follow_up* is called once per request with its first outcome and may return one
        further request (a repair turn). Failures are returned, not raised.

        Raises:
            UserError: the ledger cannot be used, or ``max_cost`` is set and the price is not known.
            KeyboardInterrupt: Ctrl-C; replies that had come are in the ledger.
        """
        chains = Chains(requests, follow_up)
        left = chains.take(chains.all, self.known)
        run = EngineRun(self, chains, left)
        if left:
            self.health.recall([outcome for chain in chains.all for outcome in chain.outcomes])
            self._send(run)
        elif self.progress is not None:
            self.progress(run.snapshot())
        return chains.outcomes

    def _send(self, run: EngineRun) -> None:
        loop = background_loop()
        if threading.current_thread().name == "lantern-llm":
            raise RuntimeError("Engine.run was called from a parser, a follow-up or a backend")
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
                concurrent.futures.wait([future], timeout=GRACE + 2)
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
            if self._limits is None or self._limits[0] != os.getpid():
                config, price = self.backend.config, self.backend.price
                if self.max_cost is not None and price is None:
                    raise UserError(
                        f"refine.max_cost={self.max_cost} cannot be kept: the price of {config.model} is not known. "
                        "Give llm.price_input and llm.price_output (dollars per million tokens), or llm.free=true"
                    )
                per_minute, tokens = config.requests_per_minute, config.tokens_per_minute
                gate = Gate(
                    config.concurrency,
                    START if config.remote else config.concurrency,
                    Pacer(per_minute) if per_minute else None,
                    Pacer(tokens) if tokens else None,
                    trial=None if self.health.proved else TRIAL,
                )
                self._limits = os.getpid(), gate, Budget(self.max_cost, price)
            return self._limits[1:]
