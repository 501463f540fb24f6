"""One background event loop per process, and ledger writes that are gathered into common transactions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lantern.refine.ledger.ledger import Ledger, Operation

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pid = -1


def background_loop() -> asyncio.AbstractEventLoop:
    """This process's event loop, in a daemon thread; made at the first call and again after a fork.

    One loop for all calls keeps the HTTP connections alive, and it works where another loop runs already (Jupyter).
    """
    global _loop, _pid, _lock
    if _pid != os.getpid():
        _lock = threading.Lock()  # the parent's may have been held while it forked
    with _lock:
        if _loop is None or _pid != os.getpid():
            loop = asyncio.new_event_loop()
            threading.Thread(target=_serve, args=(loop,), name="lantern-llm", daemon=True).start()
            _loop, _pid = loop, os.getpid()
        return _loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


class WriteQueue:
    """Writes to the ledger without blocking the loop: what arrives during one transaction goes into the next."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lantern-ledger")
        self._waiting: list[tuple[Operation, asyncio.Future[Any]]] = []
        self._flush: asyncio.Task[None] | None = None

    def post(self, operation: Operation) -> asyncio.Future[Any]:
        """Have *operation* done even without a waiter; the future's result is durable."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # An error without a waiter comes again with the next write, or in the next run.
        future.add_done_callback(lambda f: f.cancelled() or f.exception())
        self._waiting.append((operation, future))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._drain())
        return future

    async def do(self, operation: Operation) -> Any:
        """Result of *operation*, durable; it is carried out even if the caller is cancelled."""
        return await asyncio.shield(self.post(operation))

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            results = await loop.run_in_executor(self._thread, self._apply, [operation for operation, _ in batch])
            for (_, future), result in zip(batch, results):
                if future.done():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)

    def _apply(self, operations: list[Operation]) -> list[Any]:
        """Results or exceptions; what cannot be stored does not take the others with it."""
        try:
            return self._ledger.apply(operations)
        except Exception as error:  # noqa: BLE001  handed to the waiter
            if len(operations) == 1:
                return [error]
            return [result for operation in operations for result in self._apply([operation])]

    async def close(self) -> None:
        """Carry out what is still waiting and end the thread."""
        while self._flush is not None and not self._flush.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._flush)
        self._thread.shutdown(wait=False)
