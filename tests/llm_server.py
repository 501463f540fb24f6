"""An OpenAI-compatible server on 127.0.0.1 with scripted behaviour, which counts the prompts that came and its answers.

In a test: ``with LLMServer(script) as server: ... server.url``. As a process: ``python tests/llm_server.py
--behaviours right=0.7,500=0.3 --latency 0.05 --log calls.txt`` prints its URL; every answered prompt adds a line to the
log, on disk before the answer is sent.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH120, PTH100
from tests.llm_batches import Batches
from tests.llm_letters import BEHAVIOURS as LETTERS
from tests.llm_letters import letters_of, letters_reply

RIGHT = "right"
STATUSES = {
    "400": (400, {"error": {"message": "bad request", "type": "invalid_request_error"}}),
    "401": (401, {"error": {"message": "Incorrect API key provided", "type": "invalid_request_error"}}),
    "402": (402, {"error": {"message": "Payment Required"}}),
    "403": (403, {"error": {"message": "forbidden"}}),
    "404": (404, {"error": {"message": "The model does not exist", "code": "model_not_found"}}),
    "408": (408, {"error": {"message": "request timed out"}}),
    "500": (500, {"error": {"message": "internal error"}}),
    "502": (502, {"error": {"message": "bad gateway"}}),
    "503": (503, {"error": {"message": "overloaded"}}),
    "504": (504, {"error": {"message": "gateway time-out"}}),
    "429": (429, {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}),
    "context": (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 8 tokens.",
                "code": "context_length_exceeded",
                "type": "invalid_request_error",
            }
        },
    ),
    "policy": (400, {"error": {"message": "rejected by our safety system", "code": "content_policy_violation"}}),
    "quota": (
        429,
        {
            "error": {
                "message": "You exceeded your current quota, please check your plan and billing details.",
                "type": "insufficient_quota",
                "code": "insufficient_quota",
            }
        },
    ),
    "error200": (200, {"error": {"message": "upstream went away", "code": 502}}),
    "list": (200, []),
    "choices_null": (200, {"id": "x", "object": "chat.completion", "model": "m", "choices": None}),
}
RAW = {
    "html": b"<html><body>Welcome to the hotel Wi-Fi</body></html>",
    "empty_body": b"",
    "truncated": b'{"id": "x", "cho',
}
CONTENT = ("null", "no_choices", "refusal", "refusal_field", "content_filter", "cut_off", "prose", "bad_numbers")
CONTENT += ("misspelt", "incomplete", "wrong_count", "no_usage", "leak", *LETTERS)
OTHER = ("drop", "reset", "hang", "trickle", "429_after", "429_date", "echo_key")
BEHAVIOURS = (RIGHT, *STATUSES, *RAW, *CONTENT, *OTHER)


def probabilities(prompt: str, count: int, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """A right answer: a function of the prompt alone."""
    rng = random.Random(hashlib.sha256(prompt.encode()).hexdigest())
    answer = {}
    for number in range(1, count + 1):
        weights = [rng.random() + 0.01 for _ in classes]
        answer[str(number)] = {c: round(w / sum(weights), 3) for c, w in zip(classes, weights)}
    return answer


class LLMServer:
    """Serves ``/v1/chat/completions``.

    *script* names the behaviour of each call: a list (in order of arrival, its last entry for all further calls), a
    mapping from behaviour to probability (by prompt and attempt, seeded), or a function of (prompt, n-th call for it).
    """

    def __init__(
        self,
        script: Sequence[str] | dict[str, float] | Callable[[str, int], str] = (RIGHT,),
        *,
        latency: float = 0.0,
        retry_after: float = 1.0,
        log: str | None = None,
        allowance: int | None = None,
        port: int = 0,
        batches: Batches | None = None,
    ) -> None:
        self.script, self.latency, self.retry_after, self.log = script, latency, retry_after, log
        self.batches = batches or Batches()
        self.may_reply: threading.Semaphore | None = None
        """Lets so many replies go; the calls after them are held until a test releases more."""
        self.lose_batches = False
        """Take files and batches, and hang up before saying so."""
        self.allowance = allowance
        """429 for more calls than this within any 60 seconds."""
        self.prompts: list[str] = []
        """Prompts (last user message) of all calls, as they came."""
        self.answered: list[str] = []
        """Prompts that were given a complete body with status 200."""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.behaved: Counter[str] = Counter()
        self.flying = self.most_flying = 0
        self.lock = threading.Lock()
        self._per_prompt: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.owner = self
        self._stopped = threading.Event()

    @property
    def url(self) -> str:
        """What to give as ``api_base``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def start(self) -> LLMServer:
        """Serve in a daemon thread."""
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        """End hanging replies and close the socket."""
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> LLMServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def choose(self, prompt: str) -> str:
        """Behaviour of the call that has just come; takes part in the counts."""
        with self.lock:
            number = len(self.prompts)
            self.prompts.append(prompt)
            self.times.append(time.monotonic())
            attempt = self._per_prompt[prompt]
            self._per_prompt[prompt] += 1
            recent = sum(1 for t in self.times[-(self.allowance or 0) - 1 :] if t > self.times[-1] - 60)
            if self.allowance is not None and recent > self.allowance:
                behaviour = "429"
            elif callable(self.script):
                behaviour = self.script(prompt, attempt)
            elif isinstance(self.script, dict):
                rng = random.Random(f"{prompt}/{attempt}")
                behaviour = rng.choices(list(self.script), list(self.script.values()))[0]
            else:
                behaviour = self.script[min(number, len(self.script) - 1)]
            self.behaved[behaviour] += 1
            return behaviour

    def count_answer(self, prompt: str) -> None:
        """A complete reply is about to be sent."""
        with self.lock:
            self.answered.append(prompt)
            if self.log is not None:
                with open(self.log, "a", encoding="utf-8") as log:  # noqa: PTH123
                    log.write(hashlib.sha256(prompt.encode()).hexdigest() + "\n")
                    log.flush()
                    os.fsync(log.fileno())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    owner: LLMServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        owner = self.server.owner
        self.send(200, owner.batches.get(self.path, self.one_of_a_batch))

    def one_of_a_batch(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and body of one line of a batch."""
        owner = self.server.owner
        prompt = [m["content"] for m in body["messages"] if m["role"] == "user"][-1]
        behaviour = owner.choose(prompt)
        if behaviour in STATUSES:
            status, content = STATUSES[behaviour]
            return status, dict(content)
        owner.count_answer(prompt)
        return 200, self.completion(behaviour, body, prompt)

    def do_POST(self) -> None:
        owner = self.server.owner
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.path.endswith("/chat/completions"):
            found = owner.batches.post(self.path, raw, self.headers["Content-Type"])
            if owner.lose_batches:
                self.close_connection = True
                return
            self.send(200, json.dumps(found).encode())
            return
        body = json.loads(raw)
        prompt = [m["content"] for m in body["messages"] if m["role"] == "user"][-1]
        behaviour = owner.choose(prompt)
        with owner.lock:
            owner.bodies.append(body)
            owner.headers.append({name.lower(): value for name, value in self.headers.items()})
            owner.flying += 1
            owner.most_flying = max(owner.most_flying, owner.flying)
        try:
            if owner.may_reply is not None:
                owner.may_reply.acquire()
            if owner.latency:
                time.sleep(owner.latency)
            self.behave(behaviour, body, prompt)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with owner.lock:
                owner.flying -= 1

    def behave(self, behaviour: str, body: dict[str, Any], prompt: str) -> None:
        owner = self.server.owner
        if behaviour in STATUSES:
            status, content = STATUSES[behaviour]
            self.send(status, json.dumps(content).encode())
        elif behaviour in RAW:
            self.send(200, RAW[behaviour], "text/html" if behaviour == "html" else "application/json")
        elif behaviour in ("429_after", "429_date"):
            wait = owner.retry_after
            value = f"{wait:g}" if behaviour == "429_after" else formatdate(time.time() + wait + 1, usegmt=True)
            self.send(429, json.dumps(STATUSES["429"][1]).encode(), headers={"Retry-After": value})
        elif behaviour == "drop":
            self.close_connection = True
        elif behaviour == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif behaviour == "hang":
            owner._stopped.wait()
            self.close_connection = True
        elif behaviour == "echo_key":
            key = self.headers.get("Authorization", "")[7:]
            text = f"who is {self.headers.get('Authorization')}? api_key={key}? {key} is not known"
            self.send(500, json.dumps({"error": {"message": text}}).encode())
        elif behaviour == "trickle":
            content = json.dumps(self.completion(RIGHT, body, prompt)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for byte in content:
                if owner._stopped.wait(0.1):
                    return
                self.wfile.write(bytes([byte]))
        else:
            assert behaviour in (RIGHT, *CONTENT), behaviour
            content = json.dumps(self.completion(behaviour, body, prompt)).encode()
            owner.count_answer(prompt)
            self.send(200, content)

    def send(
        self, status: int, content: bytes, kind: str = "application/json", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def completion(self, behaviour: str, body: dict[str, Any], prompt: str) -> dict[str, Any]:
        """A chat completion whose content is right but for *behaviour*."""
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        if schema:
            classes = list(next(iter(schema["properties"].values()))["properties"])
            count = len(schema["properties"])
        else:
            classes = ["happy", "sad"]
            count = max(1, len(re.findall(r"^\d+\. ", prompt, re.MULTILINE)))
        letters = letters_of(body["messages"]) if body.get("logprobs") else []
        tokens = letters_reply(prompt, count, letters, behaviour) if letters else []
        answer: Any = probabilities(prompt, count, classes)
        finish, refusal = "stop", None
        text: str | None
        if behaviour == "bad_numbers":
            answer["1"][classes[0]] = -1
        elif behaviour == "misspelt":
            answer["1"][classes[0] + "x"] = answer["1"].pop(classes[0])
        elif behaviour == "incomplete":
            answer.pop(str(count))
        elif behaviour == "wrong_count":
            answer[str(count + 1)] = answer["1"]
        text = "".join(token["token"] for token in tokens) or json.dumps(answer)
        if behaviour == "null":
            text = None
        elif behaviour == "refusal":
            text = "I'm sorry, but I can't help with that."
        elif behaviour == "refusal_field":
            text, refusal = None, "I will not rate people."
        elif behaviour == "content_filter":
            text, finish = None, "content_filter"
        elif behaviour == "cut_off":
            text, finish = text[: len(text) // 2], "length"
        elif behaviour == "prose":
            text = f"Sure! Here it is:\n```json\n{text}\n```\nHope it helps."
        elif behaviour == "leak":
            text = f"{self.headers.get('Authorization')} {text}"
            spelt = [self.headers.get("Authorization", "")[at : at + 3] for at in range(0, 60, 3)]
            tokens = [{"token": part, "logprob": 0.0, "bytes": None, "top_logprobs": []} for part in spelt] + tokens
        message = {"role": "assistant", "content": text, **({"refusal": refusal} if refusal else {})}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
        if letters and text and behaviour != "no_logprobs":
            choice["logprobs"] = {"content": tokens[: 4 * count - 2] if behaviour == "cut_off" else tokens}
        elif body.get("logprobs") and not letters:
            top = [{"token": "a", "logprob": -0.1, "bytes": None}, {"token": "b", "logprob": -2.4, "bytes": None}]
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.1, "bytes": None, "top_logprobs": top}]}
        sent = sum(len(m["content"]) for m in body["messages"]) // 4 + 1
        usage = {"prompt_tokens": sent, "completion_tokens": 20, "total_tokens": sent + 20}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": f"{body['model']}-2026-01-01",
            "choices": [] if behaviour == "no_choices" else [choice],
            **({} if behaviour == "no_usage" else {"usage": {**usage, "prompt_tokens_details": {"cached_tokens": 4}}}),
        }


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--behaviours", default=RIGHT, help="name=share,name=share")
    parser.add_argument("--allowance", type=int)
    parser.add_argument("--log")
    given = parser.parse_args()
    shares = {name: float(share or 1) for name, _, share in (p.partition("=") for p in given.behaviours.split(","))}
    unknown = set(shares) - set(BEHAVIOURS)
    if unknown:
        parser.error(f"unknown behaviours {sorted(unknown)}; valid: {', '.join(BEHAVIOURS)}")
    server = LLMServer(shares, latency=given.latency, log=given.log, allowance=given.allowance, port=given.port)
    server.start()
    print(server.url, flush=True)
    try:
        while sys.stdin.read(1):
            pass
        threading.Event().wait()
    except KeyboardInterrupt:
        server.stop()


if __name__ == "__main__":
    main()
