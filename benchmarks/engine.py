"""What the engine adds to an LLM call: python -m benchmarks.engine [latency throughput hits allowance]

A server on 127.0.0.1 in a process of its own answers after a fixed time; needs the repository's tests/ folder.

latency     1 s a call, 64 at once: rate over the ideal one, 64 a second
throughput  50 ms a call, 64 at once: rate over that of bare litellm.acompletion under asyncio.gather
hits        20,000 requests that the ledger knows: seconds
allowance   600 requests a minute, which the server enforces: share of it that is used, and how often it objected

Both clients run on one event loop of one process, in turns, so that ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.backends.listed import load_litellm
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.engine import Engine
from lantern.refine.engine.loop import background_loop
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Reply, Request, Usage

ROOT = Path(__file__).parents[1]
TOGETHER = 64
SHAPE = ReplyShape(4, ("happy", "sad"))
HITS = 20_000
PER_MINUTE = 600


@contextmanager
def server(latency: float, allowance: int | None = None) -> Iterator[str]:
    """URL of a server process that answers rightly after *latency* seconds."""
    command = [sys.executable, str(ROOT / "tests" / "llm_server.py"), "--latency", str(latency)]
    command += ["--allowance", str(allowance)] if allowance else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def config_of(url: str, **more: Any) -> BackendConfig:
    """A server at *url*."""
    given: dict[str, Any] = {"name": "bench", "model": "hosted_vllm/m", "remote": False, "free": True}
    given |= {"concurrency": TOGETHER, "structured": "text", "max_tokens": 300}
    return BackendConfig(api_base=url, **{**given, **more})


def questions(config: BackendConfig, count: int, tag: str) -> list[Request]:
    """*count* different prompts of about the length of a real one."""
    system = {"role": "system", "content": "You rate the emotions of every utterance. " * 30}
    turns = "\n".join(f'{n}. A: "made-up words"' for n in range(1, 5))
    return [
        make_request(config, [system, {"role": "user", "content": f"{tag} {n}\n{turns}"}], SHAPE) for n in range(count)
    ]


class Bench:
    """Two ways to ask the same questions, on the same loop."""

    def __init__(self, folder: str, config: BackendConfig) -> None:
        self.config = config
        self.backend = LiteLLMBackend(config)
        self.ledger = Ledger(Path(folder) / f"{time.monotonic_ns()}.sqlite")
        self.runs = 0

    def ours(self, count: int) -> float:
        """Seconds of the engine for *count* questions that the ledger does not know."""
        self.runs += 1
        engine = Engine(self.backend, self.ledger)
        asked = questions(self.config, count, f"ours {self.runs}")
        start = time.perf_counter()
        outcomes = engine.run(asked)
        took = time.perf_counter() - start
        failed = [outcome[-1] for outcome in outcomes if not isinstance(outcome[-1], Answer)]
        assert not failed, failed[0]
        return took

    def bare(self, count: int) -> float:
        """Seconds of litellm alone, as many calls in flight."""
        self.runs += 1
        asked = questions(self.config, count, f"bare {self.runs}")
        start = time.perf_counter()
        asyncio.run_coroutine_threadsafe(self._gather(asked), background_loop()).result()
        return time.perf_counter() - start

    async def _gather(self, asked: Sequence[Request]) -> None:
        litellm, places = load_litellm(), asyncio.Semaphore(TOGETHER)

        async def one(request: Request) -> None:
            async with places:
                await litellm.acompletion(
                    model=f"{request.provider}/{request.model}",
                    messages=list(request.messages),
                    api_base=request.api_base,
                    api_key="none",
                    timeout=self.config.timeout,
                    num_retries=0,
                    max_retries=0,
                    **request.sampling,
                )

        await asyncio.gather(*(one(request) for request in asked))


def latency(folder: str, rounds: int) -> None:
    """At 1 s a call."""
    count = 20 * TOGETHER
    with server(1.0) as url:
        ours, bare = _in_turns(Bench(folder, config_of(url)), rounds, count)
    ideal = count / TOGETHER
    print(f"latency: {count} calls of 1 s, {TOGETHER} at once, {rounds} rounds; 1 is ideal")
    print(f"  engine {_spread([ideal / t for t in ours])}, bare litellm {_spread([ideal / t for t in bare])}")


def throughput(folder: str, rounds: int) -> None:
    """At 50 ms a call."""
    count = 10 * TOGETHER
    with server(0.05) as url:
        ours, bare = _in_turns(Bench(folder, config_of(url)), rounds, count)
    print(f"throughput: {count} calls of 50 ms, {TOGETHER} at once, {rounds} rounds; calls a second")
    print(f"  engine {_spread([count / t for t in ours])}, bare litellm {_spread([count / t for t in bare])}")
    print(f"  engine over bare litellm {_spread([b / a for a, b in zip(ours, bare)])}")


def hits(folder: str, rounds: int) -> None:
    """Without a call."""
    config = config_of("http://127.0.0.1:9")
    asked = questions(config, HITS, "known")
    text = SHAPE.write([[0.25, 0.75]] * SHAPE.count)
    ledger = Ledger(Path(folder) / "known.sqlite")
    ledger.adopt([(request.key, "hosted_vllm/m", Reply(text, "stop", Usage(400, 0, 60), 0.0)) for request in asked])
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = Engine(LiteLLMBackend(config), ledger).run(asked)
        took.append(time.perf_counter() - start)
        assert len(found) == HITS
    print(f"hits: {HITS:,} answers from the ledger in {_spread(took)} s")


def allowance(folder: str, rounds: int) -> None:
    """Against a limit that the server enforces over any 60 s."""
    count = 2 * PER_MINUTE
    with server(0.2, PER_MINUTE) as url:
        bench = Bench(folder, config_of(url, requests_per_minute=float(PER_MINUTE)))
        bench.backend.prepare()
        took = bench.ours(count)
    refused = bench.ledger.stats().failures.get("rate_limit", 0)
    share = (count - 1) / took * 60 / PER_MINUTE
    print(f"allowance: {count} calls at {PER_MINUTE} a minute: {share:.3f} of it used, {refused} times refused")


def _in_turns(bench: Bench, rounds: int, count: int) -> tuple[list[float], list[float]]:
    """Seconds of the engine and of bare litellm; the first calls of the process, which load and connect, go before."""
    bench.ours(2 * TOGETHER)
    bench.bare(2 * TOGETHER)
    ours: list[float] = []
    bare: list[float] = []
    for number in range(rounds):
        for way in (ours, bare) if number % 2 else (bare, ours):
            way.append(bench.ours(count) if way is ours else bench.bare(count))
    return ours, bare


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


PARTS: dict[str, Callable[[str, int], None]] = {
    "latency": latency,
    "throughput": throughput,
    "hits": hits,
    "allowance": allowance,
}


def main() -> None:
    """Run the chosen parts."""
    parser = argparse.ArgumentParser(description="Compares the engine with bare litellm; see the head of this file.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    given = parser.parse_args()
    for part in given.parts or PARTS:
        if part not in PARTS:
            parser.error(f"unknown part {part}; valid: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts or PARTS:
            PARTS[part](folder, given.rounds)


if __name__ == "__main__":
    main()
