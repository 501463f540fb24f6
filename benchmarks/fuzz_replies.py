"""No reply of a server ends in a traceback or is lost: python -m benchmarks.fuzz_replies --replies 100000

Bodies in every form that servers send are mutated, as JSON, as text and as bytes, and go through backend, engine and
ledger, repair turns included; one in five hundred goes over HTTP from a server on 127.0.0.1 and through litellm. Each
prompt ends in probabilities that are finite and sum to 1, or in a typed failure; each call leaves a row in the ledger;
no cost is negative. What is otherwise is printed with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.fuzzing import summary
from lantern.config.compose import compose
from lantern.config.schema import LLMConfig
from lantern.corpora.types import LabelSet
from lantern.refine.backends.config import make_request
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine import health, limits, run
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.schema import ANSWERS, FAILURES
from lantern.refine.prompt import Prompt
from lantern.refine.questions import RefineConfig, Refiner
from lantern.refine.types import Answer, Outcome, Reply, Request

LABELS = LabelSet("fuzz", ("happy", "sad", "very sad"))
ANSWER = '{"1": {"happy": 0.2, "sad": 0.3, "very sad": 0.5}, "2": {"happy": 0.7, "sad": 0.3, "very sad": 0}}'
TEXTS = (
    ANSWER,
    f"Sure {{here}}: {ANSWER} Anything [else]?",
    f"<think>hm {{1}}</think>```json\n{ANSWER}\n```",
    ANSWER.replace('"', "'").replace("}}", "},}"),
    ANSWER.replace("0.2", '"20%"').replace("0.3", "30%").replace("0.5", '"50 %"'),
    '{"answer": [{"id": 1, "happy": 1, "sad": 0, "very sad": 0}, {"id": 2, "happy": 0, "sad": 1, "very sad": 0}]}',
    "1: A\n2: C",
    "I'm sorry, I can't do that.",
)
PIECES = (
    *(
        '"',
        "'",
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\\",
        "\\u",
        "%",
        "#",
        "//",
        "/*",
        "*/",
        "```",
        "\n",
        "\0",
        "\ud800",
        "“",
    ),
    *("NaN", "Infinity", "-", "1e308", "1e999", "9" * 400, "9" * 5000, "true", "null", "None", "5e-324", "0", "-0.1"),
    *(
        '"1"',
        '"1."',
        "utterance 2",
        '"Happy"',
        '"sad": ',
        "</think>",
        "data: ",
        "[DONE]",
        "{" * 3000,
        "[" * 3000,
        "🦊",
        "“",
    ),
)
JUNK: tuple[Any, ...] = (
    *(None, True, 0, -1, 0.5, -5.5, 1e30, 10**30, 10**400, math.nan, math.inf, "", "x", "500", [], {}, [[]], [None]),
    *(
        {"a": 1},
        {"message": "x", "code": 400},
        {"code": "502"},
        {"text": {"value": 1}},
        "\ud800",
        "length",
        2**53,
        2**64,
    ),
)


def body(text: str, rng: random.Random) -> dict[str, Any]:
    """A completion that says *text* somewhere."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    place = rng.randrange(6)
    if place == 1:
        message |= {"content": None, "reasoning_content": text}
    elif place == 2:
        message["content"] = [{"type": "text", "text": text[:30]}, {"type": "text", "text": text[30:]}]
    elif place == 3:
        message |= {"content": None, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": text}}]}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
    if rng.random() < 0.3:
        top = [{"token": " A", "logprob": -0.5}, {"token": " B", "logprob": -1.5}]
        tokens = [{"token": piece, "logprob": -0.5, "top_logprobs": top} for piece in ("1:", " A", "\n", "2:", " C")]
        choice["logprobs"] = {"content": tokens}
    usage = {"prompt_tokens": 300, "completion_tokens": 60, "prompt_tokens_details": {"cached_tokens": 8}}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def mutated_text(text: str, rng: random.Random) -> str:
    """*text* with some pieces put in, taken out, repeated or changed."""
    for _ in range(rng.choice((0, 0, 1, 1, 3))):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 4, 40)))
        change = rng.randrange(4)
        middle = rng.choice(PIECES) if change < 2 else "" if change == 2 else text[at:end] * rng.choice((2, 20))
        text = text[:at] + middle + text[at if change == 0 else end :]
    return text


def mutated_node(node: Any, rng: random.Random, chance: float) -> Any:
    """*node* with some of its parts replaced, taken out or named otherwise."""
    if rng.random() < chance:
        return rng.choice(JUNK)
    if isinstance(node, dict):
        kept = {name: mutated_node(part, rng, chance) for name, part in node.items() if rng.random() > chance / 2}
        return kept | (
            {rng.choice(("error", "choices", "usage", "text")): rng.choice(JUNK)} if rng.random() < chance else {}
        )
    if isinstance(node, list):
        return [mutated_node(part, rng, chance) for part in node] * rng.choice((1, 1, 1, 1, 1, 0, 2))
    return node


def mutated_body(seed: int) -> bytes:
    """The *seed*-th body."""
    rng = random.Random(seed)
    made = body(mutated_text(rng.choice(TEXTS), rng), rng)
    if rng.random() < 0.3:
        made = mutated_node(made, rng, rng.choice((0.02, 0.05, 0.2)))
    text = json.dumps(made)
    kind = rng.randrange(15)
    if kind == 0:
        text = mutated_text(text, rng)
    elif kind == 1:
        text = "".join(f"data: {json.dumps(mutated_node(made, rng, 0.1))}\n\n" for _ in range(2)) + "data: [DONE]"
    elif kind == 2:
        text = rng.choice(("", "<html>x</html>", "null", "[" * 5000, text[: rng.randrange(len(text) + 1)]))
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice((0,) * 15 + (1, 3)) if data else 0):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


class Mutating(LiteLLMBackend):
    """Gets mutated bodies: one in *over_http* by litellm from a server, the others at once."""

    def __init__(self, config: LLMConfig, over_http: int) -> None:
        super().__init__(config)
        self.over_http = over_http

    async def call(self, request: Request, timeout: float) -> Reply:
        seed = seed_of(request)
        if seed % self.over_http == 0:
            return await super().call(request, timeout)
        return self.reply(None, mutated_body(seed), request)


def seed_of(request: Request) -> int:
    """The number of the reply to *request*; a repair turn gets another one."""
    return int(request.messages[1]["content"].split()[1]) + 10**9 * (len(request.messages) > 2)


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server that sends mutated bodies."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seed = int(given["messages"][1]["content"].split()[1]) + 10**9 * (len(given["messages"]) > 2)
            content = mutated_body(seed)
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}/v1"
    running.shutdown()
    running.server_close()


def wrong(history: list[Outcome]) -> str | None:
    """What is wrong with the outcomes of one prompt."""
    for outcome in history:
        if not isinstance(outcome, Answer):
            continue
        for row in outcome.probabilities:
            if len(row) != len(LABELS.classes) or not all(0 <= p <= 1 for p in row) or abs(sum(row) - 1) > 1e-9:
                return f"{row} are no probabilities"
    return None


def fuzz(folder: Path, replies: int, seed: int, over_http: int = 500) -> tuple[Counter[str], list[str]]:
    """Counts of how *replies* prompts ended, and what was wrong."""
    counts: Counter[str] = Counter()
    problems: list[str] = []
    with server() as url, Ledger(folder / "fuzz.sqlite") as ledger:
        config = LLMConfig(
            name="fuzz",
            model="openai/m",
            api_base=url,
            remote=False,
            price_input=1.0,
            price_output=2.0,
            retries=0,
            concurrency=256,
        )
        for elicitation in ("json", "letters"):
            config = replace(config, elicitation=elicitation)
            prompt = Prompt(compose([]).prompt, LABELS, None, elicitation)
            refiner = Refiner({}, prompt, RefineConfig(), config)
            engine = Engine(Mutating(config, over_http), ledger)
            numbers = [n for n in range(seed, seed + replies) if (n % 5 == 0) == (elicitation == "letters")]
            for start in range(0, len(numbers), 5000):
                part = numbers[start : start + 5000]
                system = {"role": "system", "content": "rate"}
                requests = [
                    make_request(config, [system, {"role": "user", "content": f"question {n} ."}], prompt.shape(2))
                    for n in part
                ]
                try:
                    histories = engine.run(requests, refiner.repair)
                except Exception:  # noqa: BLE001  whatever ends a run is the result
                    problems.append(f"--seed {part[0]} --replies {len(part)}\n{traceback.format_exc()}")
                    continue
                for number, history in zip(part, histories, strict=True):
                    last = history[-1]
                    counts["answered" if isinstance(last, Answer) else last.kind.value] += 1
                    if (problem := wrong(history)) is not None:
                        problems.append(f"--seed {number} --replies 1: {problem}")
            counts["calls"] += engine.calls
            if not 0 <= engine.cost < math.inf:
                problems.append(f"the run cost {engine.cost}")
            if engine.health.fatal is not None:
                problems.append(f"not all replies were read: {engine.health.fatal.message}")
        rows, least = _rows(ledger)
        counts["rows"] = rows
        if rows != counts["calls"]:
            problems.append(f"{counts['calls']} calls left {rows} rows")
        if least < 0:
            problems.append(f"a call cost {least}")
    return counts, problems


def _rows(ledger: Ledger) -> tuple[int, float]:
    """Stored calls and the least of their costs and token counts."""

    def work(db: sa.Connection) -> tuple[int, float]:
        count, least = 0, 0.0
        for table in (ANSWERS, FAILURES):
            columns = table.c.cost, table.c.input, table.c.output, table.c.cached_input
            found = db.execute(sa.select(sa.func.count(), *map(sa.func.min, columns))).one()
            count += found[0]
            least = min([least, *(value for value in found[1:] if value is not None)])
        return count, least

    result: tuple[int, float] = ledger.apply([work])[0]
    return result


def main() -> int:
    """Fuzz; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replies", type=int, default=100_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the first reply; default: %(default)s")
    given = parser.parse_args()
    limits.backoff = run.backoff = lambda *_, **__: 0.0
    run.STRIKES = health.USELESS = 10**9  # replies that cannot be used do not end the run here
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts, problems = fuzz(Path(folder), given.replies, given.seed)
    for problem in problems[:20]:
        print(problem)
    counts["wrong"] = len(problems)
    return summary(counts, start)


if __name__ == "__main__":
    raise SystemExit(main())
