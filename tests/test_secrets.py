"""No key and no header that a run uses is in anything that it writes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.llm_server import LLMServer

ROOT = Path(__file__).resolve().parent.parent
KEY = "planted-key-5f2c9e7ab1d04836"  # of no form that is known for a key
ORGANISATION = "org-planted9d41c07e2b"
"""The OpenAI client sends it as a header of its own accord."""
TEAM = "team-planted-77c1e05d3f"
"""Sent by a header of the configuration."""


@pytest.mark.slow
def test_a_run_leaves_no_secret_anywhere(tmp_path: Path) -> None:
    def script(prompt: str, attempt: int) -> str:
        if attempt == 0:
            return ("echo_key", "leak", "right")[len(prompt) % 3]
        return "right"

    code = (
        "import logging, sys; logging.basicConfig(level=logging.DEBUG);"
        "from experiments.cli.console import command; from experiments.run import main; command(main)"
    )
    with LLMServer(script) as server:
        overrides = [
            "backbone=gru",
            "backbone.hidden=16",
            "trainer.epochs=2",
            "corpus.dialogues=15",
            "trainer.threads=1",
            "weighting=mean",
            "weighting.fit_on=dev",
            "refine.limit_dialogues=1",
            "refine.repair=false",
            "llm=vllm",
            "llm.model=openai/m",
            "llm.api_key_env=LANTERN_TEST_KEY",
            "+llm.headers.X-Team=LANTERN_TEST_TEAM",
            f"llm.api_base={server.url}",
            "tracking=wandb",
            f"runs={tmp_path}/runs",
        ]
        planted = {
            "LANTERN_TEST_KEY": KEY,
            "LANTERN_TEST_TEAM": TEAM,
            "OPENAI_ORG_ID": ORGANISATION,
            "OPENAI_API_KEY": KEY,
        }
        debug = {"LITELLM_LOG": "DEBUG", "OPENAI_LOG": "debug", "WANDB_MODE": "offline", "TMPDIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code, *overrides],
            cwd=ROOT,
            capture_output=True,
            env={**os.environ, **planted, **debug},
        )
    terminal = done.stdout + done.stderr
    assert done.returncode == 0, terminal[-2000:].decode()
    assert {header.get("authorization") for header in server.headers} == {f"Bearer {KEY}"}
    assert {header.get("openai-organization") for header in server.headers} == {ORGANISATION}
    assert {header.get("x-team") for header in server.headers} == {TEAM}
    assert server.behaved["echo_key"] > 0
    assert server.behaved["leak"] > 0
    assert b"DEBUG" in terminal, "the logs are as loud as they can be"
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    names = {path.name for path in written}
    assert {"metrics.json", "config.yaml", "run.log", "ledger.sqlite"} <= names
    assert any(path.suffix == ".wandb" and b"llm/calls" in content for path, content in written.items())
    assert any(b"[redacted]" in content for content in written.values()), "what was echoed was looked at"
    for secret in (KEY, ORGANISATION, TEAM):
        found = [str(path.relative_to(tmp_path)) for path, content in written.items() if secret.encode() in content]
        assert found == []
        lines = [line for line in terminal.decode().splitlines() if secret in line]
        assert [line.replace(secret, "SECRET")[:300] for line in lines] == []
