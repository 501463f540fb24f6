"""MELD from its release, with clips, to a run on three modalities: the documented commands, timed."""

from __future__ import annotations

import importlib.util
import resource
from pathlib import Path

import numpy as np
import pytest

from lantern.api import load_runs
from lantern.corpora.folder import load_corpus
from tests.corpora.readers import test_meld
from tests.documented import MELD_CLASSES, ROOT, commands, fill
from tests.features.made_clips import write_meld_clips
from tests.test_recipes import execute

pytestmark = pytest.mark.timeout(400)  # a busy machine is no failure; processor time is what is bounded
MINUTES = 3
CLIPS = [(part, d, n, (d + n) % 7) for part in ("train", "dev", "test") for d in range(10) for n in range(6)]
UNUSABLE = {"train_125_3", "dev_110_7"}


def test_the_documented_way_from_the_release_to_three_modalities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8").split("The whole way from")[1]
    sequence = [fill(command) for command in commands(text.partition("```bash")[1] + text.partition("```bash")[2])[:5]]
    assert [words[2].split(".")[1] for words in sequence] == [
        "import_corpus",
        *["extract_features"] * 2,
        "finetune_text",
        "run",
    ]
    for package in ("cv2", "ai_edge_litert", "fer"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    raw = tmp_path / "raw"
    (raw / "meld").mkdir(parents=True)
    said = [*CLIPS, ("train", 125, 3, 4), ("dev", 110, 7, 4)]
    rows = {
        part: [
            test_meld.row(f"Line {n} of {d}", MELD_CLASSES[c], d, n, "AB"[n % 2]) for p, d, n, c in said if p == part
        ]
        for part in ("train", "dev", "test")
    }
    test_meld.write(raw / "meld", rows)
    write_meld_clips(raw / "MELD.Raw", CLIPS)
    monkeypatch.chdir(tmp_path)
    before = processor_seconds()
    for words in sequence:
        execute(words[2], [*words[3:], *(["trainer.threads=1"] if words[2].endswith(("finetune_text", "run")) else [])])
    assert processor_seconds() - before < 60 * MINUTES
    out = capsys.readouterr().out
    assert "masked: 2 utterances: a clip that is known to be unusable (dia110_utt7 of dev, dia125_utt3 of train)" in out
    for broken in ("train_9_5", "dev_9_5"):
        assert out.count(f"masked: {broken}: unreadable: ") == 2
    corpus = load_corpus("data/meld-minilm")
    assert corpus.cards["text"].fitted_on == "train-labels"
    masked = {u.id for u, there in zip(corpus.utterances, corpus.present["visual"], strict=True) if not there}
    assert masked == UNUSABLE | {"train_9_5", "dev_9_5"}
    assert np.array_equal(corpus.present["audio"], corpus.present["visual"])
    (run,) = load_runs("runs")
    assert run.table().labels.shape == (60,)
    assert (corpus.cards["audio"].dims, corpus.cards["visual"].dims) == (85, 14)


def processor_seconds() -> float:
    """Of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
