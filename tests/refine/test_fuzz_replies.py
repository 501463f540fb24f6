"""A seeded part of benchmarks/fuzz_replies.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz_replies import fuzz


def test_mutated_replies_are_probabilities_or_typed_failures_and_all_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("run", "limits"):
        monkeypatch.setattr(f"lantern.refine.engine.{name}.backoff", lambda *_, **__: 0.0)
    for name in ("run.STRIKES", "health.USELESS"):
        monkeypatch.setattr(f"lantern.refine.engine.{name}", 10**9)
    counts, problems = fuzz(tmp_path, replies=600, seed=0, over_http=30)
    assert problems == []
    assert counts["rows"] == counts["calls"] > 600
    assert counts["answered"] > 100
