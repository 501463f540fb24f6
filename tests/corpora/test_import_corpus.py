"""The command ``python -m experiments.import_corpus``."""

import subprocess
import sys
from pathlib import Path

import pytest

from experiments import import_corpus
from lantern.corpora.folder import load_corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.features.extractors import minilm
from tests.corpora.readers.test_meld import write


def test_sample_is_written_as_generated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sample", "--out", str(tmp_path / "s"), "--seed", "3", "--dialogues", "10"]
    assert import_corpus.main(arguments) == 0
    assert load_corpus(tmp_path / "s").fingerprint == generate_sample(3, 10).fingerprint
    out = capsys.readouterr().out
    assert "text 64-d" in out
    assert "made up by a generator" in out


def test_meld_without_features_reports_counts_that_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "csv").mkdir()
    arguments = ["meld", "--csv", str(write(tmp_path / "csv")), "--out", str(tmp_path / "m"), "--no-features"]
    assert import_corpus.main(arguments) == 0
    assert load_corpus(tmp_path / "m").features == {}
    assert "differs: train: 1 dialogues, published 1038" in capsys.readouterr().out


def test_an_existing_folder_is_refused_before_features_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("the encoder was loaded")

    monkeypatch.setattr(minilm, "MiniLM", never)
    generate_sample(dialogues=5).save(tmp_path / "m")
    with pytest.raises(UserError, match="--overwrite"):
        import_corpus.main(["meld", "--csv", str(tmp_path), "--out", str(tmp_path / "m")])


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "experiments.import_corpus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["meld", "--out", "x"], "error: the following arguments are required: --csv; see python -m"),
        (["meld", "--csv", "nowhere", "--out", "x"], "error: nowhere/train_sent_emo.csv is missing"),
        (["iemocup"], "error: argument kind: invalid choice: 'iemocup'"),
        (["iemocap", "--release", "nowhere", "--out", "x"], "error: nowhere/Session1/dialog/EmoEvaluation is missing"),
        (["iemocap", "--release", "nowhere", "--out", "x", "--label-set", "4-way"], "error: label set '4-way' names"),
        (["sample", "--dialogues", "2", "--out", "x"], "error: corpus.dialogues=2 must be at least 5"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = _run(*arguments)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert len(lines) == 1
    assert lines[0].startswith(message)
    assert done.stdout == ""


def test_help_loads_neither_torch_nor_numpy() -> None:
    done = _run("meld", "--help")
    assert done.returncode == 0
    assert "--no-features" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not {"torch", "numpy", "rich.console"} & loaded
