"""Extract in several processes; a clip that kills its process, as broken ones may kill a decoder, costs only itself."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait

from lantern.environment import SPAWN, serve_parent
from lantern.errors import UserError
from lantern.features.registry import build
from lantern.features.types import Extractor, Item, Recipe, Result, Unusable

Batch = tuple[list[Item], list[str], list[Result]]
"""Items, the stamps of their sources, and their results."""
_FATAL = 2
"""An item whose process died so often is unusable."""
_HOPELESS = 10
"""After so many deaths in a row it is not the clips."""


def chunks(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    """*items* in lists of *size*."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))


def batch(extractor: Extractor, chunk: list[Item]) -> Batch:
    """Extract *chunk*."""
    # Before the content is read, so that a source that changes meanwhile is extracted again next time.
    stamps = [item.stamp for item in chunk]
    return chunk, stamps, extractor.extract(chunk)


def in_workers(recipe: Recipe, items: Sequence[Item], size: int, jobs: int) -> Iterator[Batch]:
    """Extract *items* in batches of *size* by *jobs* processes, in any order.

    Raises:
        UserError: what an extractor raises, or processes that die whatever they do.
    """
    waiting = deque(chunks(items, size))
    workers = [_Worker(recipe) for _ in range(min(jobs, len(waiting)))]
    deaths: Counter[str] = Counter()
    in_a_row = 0
    try:
        while True:
            for worker in workers:
                if not worker.chunk and waiting:
                    worker.give(waiting.popleft())
            busy = {worker.pipe: worker for worker in workers if worker.chunk}
            if not busy:
                return
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                chunk = worker.chunk
                try:
                    made = worker.take()
                except (EOFError, OSError):
                    in_a_row += 1
                    if in_a_row >= _HOPELESS:
                        raise UserError(
                            "worker processes die, perhaps for lack of memory; repeat the command to continue, with "
                            "fewer --jobs"
                        ) from None
                    worker.stop()
                    workers[workers.index(worker)] = _Worker(recipe)
                    deaths.update(item.id for item in chunk)
                    if len(chunk) > 1 or deaths[chunk[0].id] < _FATAL:
                        waiting.extendleft([item] for item in reversed(chunk))
                    else:
                        reason = "its process dies of it: broken, or too much for the memory"
                        yield chunk, [item.stamp for item in chunk], [Unusable(reason)]
                else:
                    in_a_row = 0
                    yield made
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that extracts one batch at a time."""

    def __init__(self, recipe: Recipe) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.chunk: list[Item] = []
        self._process = SPAWN.Process(target=_work, args=(recipe, theirs), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def give(self, chunk: list[Item]) -> None:
        self.chunk = chunk
        with contextlib.suppress(OSError):  # it died, which take notices
            self.pipe.send(chunk)

    def take(self) -> Batch:
        """The finished batch.

        Raises:
            EOFError, OSError: the process died.
        """
        made = self.pipe.recv()
        self.chunk = []
        if isinstance(made, BaseException):
            raise made
        return made

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _work(recipe: Recipe, pipe: Connection) -> None:
    serve_parent()
    try:
        extractor = build(recipe)
        while True:
            pipe.send(batch(extractor, pipe.recv()))
    except EOFError:
        return
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        error.add_note(traceback.format_exc())
        pipe.send(error)
