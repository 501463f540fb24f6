from __future__ import annotations

from pathlib import Path

import pytest

from lantern.refine.ledger.ledger import Ledger

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new ledger may be made: a path, then a database."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres").database()
        return url
    return str(tmp_path / "l.sqlite")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "l.sqlite")


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted key where backends look for theirs, and next to no delay before an attempt is repeated."""
    monkeypatch.setenv("LANTERN_TEST_KEY", KEY)
    monkeypatch.setattr("lantern.refine.engine.run.backoff", lambda attempt: 0.01)
