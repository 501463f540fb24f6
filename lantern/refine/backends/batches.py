"""A provider's batch interface through litellm: files in, files out, half the price, up to a day."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lantern.errors import UserError
from lantern.refine.backends import wire
from lantern.refine.backends.listed import bound_name, load_litellm
from lantern.refine.backends.litellm_backend import LiteLLMBackend, timed
from lantern.refine.failures import BackendFailure, failure_of
from lantern.refine.types import Request, Stored

PROVIDERS = ("openai", "azure", "hosted_vllm", "litellm_proxy", "vertex_ai", "xai")
"""Providers whose batches litellm can submit, list and fetch."""
ENDED = ("completed", "failed", "expired", "cancelled")
ENDPOINT = "/v1/chat/completions"
_BYTES_PER_LINE = 2**17
"""Of a batch's file; a reply with token probabilities has some ten thousand."""


@dataclass(frozen=True, slots=True)
class BatchState:
    """Progress of one batch."""

    id: str
    status: str
    """``validating``, ``in_progress``, ``finalizing``, or one of :data:`ENDED`."""
    done: int
    failed: int
    output_file: str | None
    error_file: str | None
    message: str
    """Why it failed; empty otherwise."""

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.status in ENDED


class BatchClient:
    """The four calls that a batch takes, each at most ``llm.timeout`` seconds.

    Raises:
        UserError: the provider has no batch interface.
        BackendFailure: a call failed.
    """

    def __init__(self, backend: LiteLLMBackend) -> None:
        self.backend, self.config = backend, backend.config
        self.provider = self.config.model.partition("/")[0]
        if self.provider not in PROVIDERS or self.config.embedded is not None:
            raise UserError(
                f"refine.batch=true: {self.config.model} has no batch interface that can be used; providers that have "
                f"one: {', '.join(PROVIDERS)}"
            )

    async def submit(self, requests: Sequence[Request], name: str) -> str:
        """Send *requests* as one batch that carries *name*; its id."""
        lines = [{"custom_id": r.key, "method": "POST", "url": ENDPOINT, "body": _body(r)} for r in requests]
        content = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        litellm = load_litellm()
        file = await self._call(litellm.acreate_file, file=(f"{name}.jsonl", content), purpose="batch")
        batch = await self._call(
            litellm.acreate_batch,
            completion_window="24h",
            endpoint=ENDPOINT,
            input_file_id=file.id,
            metadata={"lantern": name},
        )
        return str(batch.id)

    async def find(self, name: str) -> str | None:
        """The id of the batch that carries *name*, if the provider has it."""
        after: str | None = None
        for _ in range(20):
            page = await self._call(load_litellm().alist_batches, after=after, limit=100)
            listed = list(_get(page, "data") or [])
            for batch in listed:
                if (_get(batch, "metadata") or {}).get("lantern") == name:
                    return str(_get(batch, "id"))
            if not listed or not _get(page, "has_more"):
                return None
            after = str(_get(listed[-1], "id"))
        return None

    async def state(self, batch: str) -> BatchState:
        """Progress of *batch*."""
        given = await self._call(load_litellm().aretrieve_batch, batch_id=batch)
        counts = _get(given, "request_counts")
        errors = _get(_get(given, "errors"), "data")
        errors = errors if isinstance(errors, list) else []
        return BatchState(
            id=batch,
            status=str(_get(given, "status")),
            done=_count(_get(counts, "completed")),
            failed=_count(_get(counts, "failed")),
            output_file=_get(given, "output_file_id"),
            error_file=_get(given, "error_file_id"),
            message="; ".join(str(_get(error, "message")) for error in errors)[:300],
        )

    async def fetch(self, file: str, requests: dict[str, Request]) -> dict[str, Stored]:
        """Replies and failures in an output or error *file*, by key; lines of other requests are left out."""
        most = wire.MOST_BYTES + _BYTES_PER_LINE * len(requests)
        content = (await self._call(load_litellm().afile_content, most, file_id=file)).content
        results: dict[str, Stored] = {}
        for line in content.split(b"\n"):  # a reply may hold what str.splitlines takes for the end of a line
            try:
                value = json.loads(line.decode("utf-8", "replace"))
                request = requests[value["custom_id"]]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            results[request.key] = self._result(value, request)
        return results

    def _result(self, value: dict[str, Any], request: Request) -> Stored:
        response = value.get("response")
        status, body = _get(response, "status_code"), _get(response, "body")
        if value.get("error") or status != 200 or not isinstance(body, dict):
            error = value.get("error") or _get(body, "error")
            text = _get(error, "message") if isinstance(error, dict) else error
            return self.backend.failed_line(str(text or "no body"), status if isinstance(status, int) else None)
        try:
            return self.backend.reply(body, b"", request)
        except BackendFailure as failed:
            return failed.failure

    async def _call(self, function: Any, most: int = wire.MOST_BYTES, **arguments: Any) -> Any:
        given = {**self.backend.connection(), "custom_llm_provider": self.provider, **arguments}
        with wire.exchange(most) as sent:
            try:
                return await asyncio.wait_for(function(**given), self.config.timeout)
            except Exception as error:  # noqa: BLE001  every provider has its own; failure_of sorts them
                failed = timed(failure_of(error, self.backend.secrets(), bytes(sent.body)), self.config.timeout)
        # Not in the handler: a chained exception would keep the key in its frames.
        raise self.backend.given_up(sent) if sent.failure is not None else failed


def _body(request: Request) -> dict[str, Any]:
    sampling = dict(request.sampling)
    extra = sampling.pop("extra_body", {})
    if "max_tokens" in sampling:
        sampling[bound_name(request.provider, request.model)] = sampling.pop("max_tokens")
    body = {"model": request.model, "messages": [dict(m) for m in request.messages], **sampling, **extra}
    return body if request.response_format is None else {**body, "response_format": request.response_format}


def _get(owner: Any, name: str) -> Any:
    return owner.get(name) if isinstance(owner, dict) else getattr(owner, name, None)


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0
