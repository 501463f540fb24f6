"""From a raw release with transcripts and labels only to a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.release import WORDS, Said, write_dialogue
from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.readers.iemocap import import_iemocap
from lantern.errors import UserError
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.report.terminal import print_run, print_sweep
from tests.composed import compose
from tests.pipeline.test_run import Recorder

Tiny = Callable[..., list[str]]
CODES = ("ang", "sad", "neu", "hap", "exc", "fru", "xxx")


@pytest.fixture(scope="module")
def corpus_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four dialogues of ten turns in every session; text features are counts of the made-up words."""
    folder = tmp_path_factory.mktemp("iemocap")
    rng = np.random.default_rng(0)
    for session in range(1, 6):
        for number in range(4):
            name = f"Ses{session:02d}{'FM'[number % 2]}_{('impro', 'script')[number // 2]}01{'_1' * (number // 2)}"
            turns = []
            for turn in range(10):
                kind = int(rng.integers(len(CODES)))
                text = " ".join([WORDS[kind], WORDS[7 + int(rng.integers(20))], WORDS[kind]])
                scores = (1.0 + 0.5 * kind, 4.5 - 0.5 * kind, 3.0 + 0.25 * kind)
                identity = f"{name}_{'FM'[turn % 2]}{turn // 2:03d}"
                turns.append(Said(identity, text, turn, turn + 0.9, CODES[kind], scores))
            write_dialogue(folder / "release", name, turns)
    corpus = import_iemocap(folder / "release")
    counts = np.array([[u.text.split().count(word) for word in WORDS] for u in corpus.utterances], np.float32)
    card = FeatureCard("word counts", "0", counts.shape[1], len(counts), fitted_on="none")
    return corpus.with_features("text", counts, card).save(folder / "corpus")


def go(tiny: Tiny, corpus_path: Path, *more: str) -> tuple[dict[str, Any], Recorder]:
    recorder = Recorder()
    overrides = tiny("corpus=iemocap", f"corpus.path={corpus_path}", "trainer.threads=1", *more)
    return run(preflight(compose(overrides)), recorder), recorder


def test_a_text_only_iemocap_trains_and_reports_its_scores(tiny: Tiny, corpus_path: Path) -> None:
    learning = ["trainer.epochs=20", "backbone.lr=0.01", "backbone.hidden=16"]
    result, recorder = go(tiny, corpus_path, "protocol=session5", "refine.enabled=false", *learning)
    assert set(result["test"]["dimensions"]) == {"valence", "arousal", "dominance"}
    assert all(report["ccc"] > 0.2 for report in result["test"]["dimensions"].values())
    assert result["test"]["methods"]["vanilla"]["accuracy"] > 0.5
    assert result["test"]["rows"] == 40 > result["test"]["labelled"]
    protocol = result["protocol"]
    assert (protocol["name"], protocol["train"], protocol["dev"], protocol["test"]) == ("session5", 12, 4, 4)
    assert protocol["sessions"] == {"train": ["1", "2", "3"], "dev": ["4"], "test": ["5"]}
    assert protocol["same_speakers"] == {"dev": [], "test": []}
    assert 0 < protocol["twins"] < protocol["labelled"]["test"]
    assert recorder.notes[0].startswith("protocol session5, in dialogues: train 12 (")
    assert "no speaker of dev or test is heard in training" in recorder.notes
    slices = {s["slice"]: [part["part"] for part in s["parts"]] for s in result["test"]["slices"]}
    assert slices["scripted or improvised"] == ["improvised", "scripted"]
    assert slices["sex"] == ["F", "M"]


def test_paper_style_selection_is_marked_beside_its_numbers(
    tiny: Tiny, corpus_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    style = ("protocol=session5", "protocol.selection=paper-style", "weighting.fit_on=oof")
    result, _ = go(tiny, corpus_path, *style, "refine.limit_dialogues=2", "trainer.epochs=1")
    protocol = result["protocol"]
    assert (protocol["selection"], protocol["dev_is_test"], protocol["train"]) == ("paper-style", True, 16)
    assert any("paper-style: the epoch was chosen on the test dialogues" in note for note in result["notes"])
    assert result["weighting"]["fit_on"] == "oof"
    print_run(Console(width=200), result)
    assert "iemocap, gru, simulated, paper-style: test split" in capsys.readouterr().out
    print_sweep(Console(width=200), [(["seed=0"], result)])
    assert "mean ± sd over seeds; paper-style: epochs chosen on test" in capsys.readouterr().out


def test_paper_style_never_fits_the_weighting_on_test(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"weighting\.fit_on=dev with protocol\.selection=paper-style would fit .*=oof"):
        compose(tiny("protocol.selection=paper-style", "weighting.fit_on=dev"))


def test_leave_one_session_out_is_a_sweep_over_folds(tiny: Tiny, corpus_path: Path) -> None:
    tests = set()
    for fold in range(1, 6):
        overrides = tiny("corpus=iemocap", f"corpus.path={corpus_path}", "protocol=loso", f"protocol.fold={fold}")
        tests |= set(preflight(compose(overrides)).split.test)
    assert len(tests) == 20
