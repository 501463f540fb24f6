"""What a failure says: the provider's message as it would be said, whatever the provider wraps it in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.loop import background_loop
from lantern.refine.failures import BackendFailure, failure_of, worded
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Failure
from tests.refine.backends.test_forms import PROVIDERS, serving
from tests.refine.conftest import KEY

WRONG = "Incorrect API key provided"
BODIES: dict[str, Any] = {
    "openai": {"error": {"message": WRONG, "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}},
    "anthropic": {"type": "error", "error": {"type": "authentication_error", "message": WRONG}, "request_id": "r1"},
    "gemini": {"error": {"code": 401, "message": WRONG, "status": "UNAUTHENTICATED"}},
    "ollama": {"error": WRONG},
    "mistral": {"object": "error", "message": WRONG, "type": "unauthorized", "code": 401},
    "fastapi": {"detail": [{"loc": ["header"], "msg": WRONG, "type": "value_error"}]},
    "bedrock": {"Message": WRONG},
    "openrouter": {
        "error": {
            "message": "Provider returned error",
            "code": 401,
            "metadata": {"raw": json.dumps({"error": {"message": WRONG}}), "provider_name": "x"},
        }
    },
    "list": [{"error": {"code": 401, "message": WRONG}}],
}


def failed(provider: str, status: int, body: Any) -> Failure:
    with serving(json.dumps(body).encode(), status) as server:
        given = {"name": "t", "api_key_env": "LANTERN_TEST_KEY", "structured": "text", "retries": 0}
        backend = LiteLLMBackend(BackendConfig(**given, **PROVIDERS[provider], api_base=server.url, free=True))
        request = make_request(backend.config, [{"role": "user", "content": "1. hi"}], ReplyShape(1, ("a", "b")))
        with pytest.raises(BackendFailure) as caught:
            asyncio.run_coroutine_threadsafe(backend.call(request, 20.0), background_loop()).result(60)
    return caught.value.failure


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_error_is_its_message(provider: str, form: str) -> None:
    found = failed(provider, 401, BODIES[form])
    assert (str(found.kind), found.message) == ("auth", WRONG)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("provider", ["openai", "openrouter", "anthropic"])
def test_the_message_holds_no_key(provider: str) -> None:
    message = failed(provider, 401, {"error": {"message": f"key={KEY} and sk-abcdef123456 are wrong"}}).message
    assert "redacted" in message
    assert KEY not in message
    assert "sk-abc" not in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Error code: 401 - {'error': {'message': 'It\\'s wrong', 'code': None}}", "It's wrong"),
        ('litellm.BadRequestError: GroqException - {"error": "no such model"}', "no such model"),
        ('litellm.BadRequestError: VertexAIException BadRequestError - b\'{"error": {"message": "no"}}\'', "no"),
        ("{'api_key=abcdefgh': 1, 'message': 'api_key=abcdefgh is wrong'}", "[redacted] is wrong"),
        ("the field {x} is wrong", "the field {x} is wrong"),
        ('{"unknown": 1}', '{"unknown": 1}'),
        ('{"error": {"mess', '{"error": {"mess'),
        ("[" * 5000 + "]" * 5000, "[" * 500),
    ],
)
def test_other_texts(text: str, message: str) -> None:
    assert failure_of(RuntimeError(text)).failure.message == message


def test_a_body_that_is_nested_too_deep_is_shown_as_it_is() -> None:
    assert worded('{"error": ' * 20 + '"deep"' + "}" * 20) == '{"error": ' * 20 + '"deep"' + "}" * 20
