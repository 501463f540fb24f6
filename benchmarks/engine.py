"""What the engine adds to an LLM call: python -m benchmarks.engine [latency throughput hits allowance]

A server on 127.0.0.1 in a process of its own answers after a fixed time; needs the repository's tests/ folder.

latency     1 s a call, 64 and 512 at once
throughput  50 ms a call, 64 at once
hits        20,000 requests that the ledger knows: seconds
allowance   600 requests a minute, which the server enforces: share of it that is used, and how often it objected

The first two compare the engine (prompt, call, reply in the ledger, parsed) with bare litellm.acompletion and with a
bare post of aiohttp. The clients run on one event loop of one process, in turns, so that ratios hold on a busy machine.
"CPU" is the processor time of a call: its inverse is the most calls a second that one core carries.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

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
WIDE = 512
SHAPE = ReplyShape(4, ("happy", "sad"))
HITS = 20_000
PER_MINUTE = 600


@contextmanager
def server(latency: float, allowance: int | None = None) -> Iterator[str]:
    """URL of a server process that answers rightly after *latency* seconds; one that has no *allowance* is fast."""
    command = [sys.executable, "-m", "benchmarks.engine", "--serve", str(latency)]
    if allowance is not None:
        command = [sys.executable, str(ROOT / "tests" / "llm_server.py"), "--latency", str(latency)]
        command += ["--allowance", str(allowance)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


async def serve(latency: float) -> None:
    """Give the same answer to every call after *latency* seconds, until killed."""
    message = {"role": "assistant", "content": SHAPE.write([[0.25, 0.75]] * SHAPE.count)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(latency)
        return web.json_response(body)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2 * WIDE).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


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
    """Ways to ask the same questions, on the same loop."""

    def __init__(self, folder: str, config: BackendConfig) -> None:
        self.config = config
        self.backend = LiteLLMBackend(config)
        self.ledger = Ledger(Path(folder) / f"{time.monotonic_ns()}.sqlite")
        self.runs = 0

    def asked(self, count: int) -> list[Request]:
        """*count* questions that were never asked before."""
        self.runs += 1
        return questions(self.config, count, f"run {self.runs}")

    def engine(self, asked: Sequence[Request]) -> None:
        """Through the engine and the ledger."""
        outcomes = Engine(self.backend, self.ledger).run(asked)
        failed = [outcome[-1] for outcome in outcomes if not isinstance(outcome[-1], Answer)]
        assert not failed, failed[0]

    def litellm(self, asked: Sequence[Request]) -> None:
        """By litellm alone, as many calls in flight."""
        acompletion = load_litellm().acompletion

        async def one(request: Request) -> None:
            await acompletion(
                model=f"{request.provider}/{request.model}",
                messages=list(request.messages),
                api_base=request.api_base,
                api_key="none",
                timeout=self.config.timeout,
                num_retries=0,
                max_retries=0,
                **request.sampling,
            )

        self._gather(one, asked)

    def aiohttp(self, asked: Sequence[Request]) -> None:
        """By the HTTP client that is below litellm, likewise."""

        async def all_of_them() -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

                async def one(request: Request) -> None:
                    body = {"model": request.model, "messages": list(request.messages), **request.sampling}
                    async with session.post(f"{request.api_base}/chat/completions", json=body) as response:
                        await response.json()

                await self._limited(one, asked)

        asyncio.run_coroutine_threadsafe(all_of_them(), background_loop()).result()

    def _gather(self, one: Callable[[Request], Awaitable[None]], asked: Sequence[Request]) -> None:
        asyncio.run_coroutine_threadsafe(self._limited(one, asked), background_loop()).result()

    async def _limited(self, one: Callable[[Request], Awaitable[None]], asked: Sequence[Request]) -> None:
        places = asyncio.Semaphore(self.config.concurrency)

        async def placed(request: Request) -> None:
            async with places:
                await one(request)

        await asyncio.gather(*map(placed, asked))


def latency(folder: str, rounds: int) -> None:
    """At 1 s a call."""
    for together in (TOGETHER, WIDE):
        _compare(folder, rounds, 1.0, together, 4 * together)


def throughput(folder: str, rounds: int) -> None:
    """At 50 ms a call."""
    _compare(folder, rounds, 0.05, TOGETHER, 10 * TOGETHER)


def _compare(folder: str, rounds: int, seconds: float, together: int, count: int) -> None:
    """The three ways in turns; the first calls of the process, which load and connect, go before."""
    with server(seconds) as url:
        bench = Bench(folder, config_of(url, concurrency=together))
        ways = {"engine": bench.engine, "bare litellm": bench.litellm, "bare aiohttp": bench.aiohttp}
        for way in ways.values():
            way(bench.asked(together))
        rates: dict[str, list[float]] = {name: [] for name in ways}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                asked = bench.asked(count)
                start, cpu = time.perf_counter(), time.process_time()
                ways[name](asked)
                rates[name].append(count / (time.perf_counter() - start))
                spent[name].append((time.process_time() - cpu) / count * 1e3)
    best = together / seconds
    print(f"{count} calls of {seconds:g} s, {together} at once, {rounds} rounds; at best {best:.0f} calls a second")
    for name in ways:
        share = _spread([own / other for own, other in zip(spent[name], spent["bare litellm"])])
        line = f"{_spread(rates[name])} calls a second, {_spread(spent[name])} ms of CPU a call"
        print(f"  {name}: {line}, {share} of bare litellm's", flush=True)


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
        asked, start = bench.asked(count), time.perf_counter()
        bench.engine(asked)
        took = time.perf_counter() - start
    refused = bench.ledger.stats().failures.get("rate_limit", 0)
    share = (count - 1) / took * 60 / PER_MINUTE
    print(f"allowance: {count} calls at {PER_MINUTE} a minute: {share:.3f} of it used, {refused} times refused")


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
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve))
    for part in given.parts or PARTS:
        if part not in PARTS:
            parser.error(f"unknown part {part}; valid: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        for part in given.parts or PARTS:
            PARTS[part](folder, given.rounds)


if __name__ == "__main__":
    main()
