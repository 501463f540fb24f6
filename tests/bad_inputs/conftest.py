from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.run import main
from lantern.corpora.sample.generator import generate_sample
from tests.bad_inputs.place import Place, tiny


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus folder and a finished run."""
    at = tmp_path_factory.mktemp("made")
    generate_sample(dialogues=15).save(at / "corpus")
    assert main(tiny(at)) == 0
    return at


@pytest.fixture
def place(tmp_path: Path, made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SOME_KEY", "sk-planted-0001112223334")
    return Place(tmp_path, made, capsys, monkeypatch)
