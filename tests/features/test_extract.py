"""From recordings to a corpus folder: what is masked, what is kept after an interruption, what is refused."""

import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from experiments import extract_features as command
from lantern.corpora.folder import Corpus, load_corpus
from lantern.errors import UserError
from lantern.features.extract import Plan, extract_features, standardise
from lantern.features.extractors import logmel
from lantern.features.extractors.logmel import DIMS, log_mel_stats
from lantern.features.sources import SOUNDS, find_clips
from lantern.features.types import Item, Recipe, Result
from tests.features.conftest import tone, write_wav, write_wavs
from tests.processes import ROOT, Forked, start, wait_until_gone


def run(folder: Path, *more: object) -> Corpus:
    assert command.main([str(folder), *map(str, more)]) == 0
    return load_corpus(folder)


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.parent.iterdir() if p.name.startswith(".")]


def test_wavs_become_audio_features_and_the_others_are_masked_and_named(
    folder: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wavs = write_wavs(corpus, tmp_path / "wavs")
    ids = [u.id for u in corpus.utterances]
    (wavs / "part1" / f"{ids[1]}.wav").unlink()
    (wavs / "part0" / f"{ids[2]}.wav").write_bytes(b"junk")
    (wavs / f"._{ids[3]}.wav").write_bytes(b"what a Mac leaves beside")
    found = run(folder, "--modality", "audio", "--clips", wavs, "--raw")
    assert list(found.features) == ["text", "audio"]
    assert np.flatnonzero(~found.present["audio"]).tolist() == [1, 2]
    kept = (tone(105, 0.3) * 32767).astype(np.int16) / 32768
    np.testing.assert_allclose(found.features["audio"][5], log_mel_stats(kept, 16_000), atol=1e-4)
    card = found.cards["audio"]
    assert (card.dims, card.count, card.fitted_on, card.layer) == (DIMS, len(ids) - 2, "none", "mean and sd over time")
    assert found.notes == (
        "audio features: no clip: 1 utterance",
        f"audio features: unreadable: 1 utterance ({ids[2]})",
    )
    out = capsys.readouterr().out
    assert "masked: 1 utterance: no clip" in out
    assert f"masked: {ids[2]}: unreadable: File format" in out
    assert leftovers(folder) == []


def test_values_are_standardised_on_the_training_dialogues(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    found = run(folder, "--modality", "audio", "--clips", write_wavs(corpus, tmp_path / "wavs"))
    rows = np.concatenate([np.arange(len(corpus.utterances))[found.rows[d]] for d in found.splits["train"]])
    chosen = found.features["audio"][rows]
    varying = chosen.std(axis=0) > 0
    assert varying.sum() > DIMS / 2
    np.testing.assert_allclose(chosen[:, varying].mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(chosen[:, varying].std(axis=0), 1, atol=1e-3)
    assert found.cards["audio"].version.endswith("standardised on the training dialogues")


def test_standardising_ignores_missing_rows_and_dimensions_that_do_not_vary(corpus: Corpus) -> None:
    count = len(corpus.utterances)
    values = np.random.default_rng(0).normal(5, 2, (count, 3)).astype(np.float32)
    values[:, 1] = 7.1
    present = np.ones(count, dtype=bool)
    present[0] = False
    values[0] = 1e6
    values[-1, 2] = 1e6
    scaled, _ = standardise(corpus, values, present, logmel.LogMelStats(Recipe("log-mel-stats")).card)
    assert (scaled[0] == 0).all()
    assert (scaled[:, 1] == 0).all()
    assert scaled[-1, 2] == 10.0
    assert abs(scaled[1:-1, 0].mean()) < 0.5
    everywhere = dataclasses.replace(corpus, splits={})
    _, card = standardise(everywhere, values, present, logmel.LogMelStats(Recipe("log-mel-stats")).card)
    assert card.version.endswith("on the whole corpus")


def test_turns_are_cut_out_of_one_recording_per_dialogue(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    first, second = corpus.dialogues[:2]
    pieces = [np.concatenate([tone(100 + 10 * n, 0.4), np.zeros(1600)]) for n in range(len(first))]
    write_wav(tmp_path / "wavs" / f"{first.id}.wav", np.concatenate(pieces))
    write_wav(tmp_path / "wavs" / f"{second.id}.wav", tone(100, 0.45))
    found = run(folder, "--modality", "audio", "--clips", tmp_path / "wavs", "--raw")
    rows = np.arange(len(first))
    hertz = 27.5 * 2 ** (found.features["audio"][rows, DIMS - 3] / 12)
    np.testing.assert_allclose(hertz, 100 + 10 * rows, rtol=0.02)
    assert found.present["audio"][found.rows[second.id]].tolist() == [True] + [False] * (len(second) - 1)
    others = len(corpus.utterances) - len(first) - len(second)
    assert f"audio features: no clip: {others} utterances" in found.notes
    assert any(f"begins: {len(second) - 1} utterances" in note for note in found.notes)


def test_two_processes_make_what_one_makes(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    wavs = write_wavs(corpus, tmp_path / "wavs")
    shutil.copytree(folder, tmp_path / "d")
    one = run(folder, "--modality", "audio", "--clips", wavs)
    two = run(tmp_path / "d", "--modality", "audio", "--clips", wavs, "--jobs", 2)
    assert one.fingerprint == two.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_kill_the_same_command_goes_on(
    folder: Path, corpus: Corpus, tmp_path: Path, jobs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wavs = write_wavs(corpus, tmp_path / "wavs", seconds=4, rate=8000)
    shutil.copytree(folder, tmp_path / "d")
    options = ["--modality", "audio", "--clips", str(wavs), "--jobs", str(jobs)]
    process = start("-m", "experiments.extract_features", folder, *options)
    kept = _wait_for_results(folder, process)
    workers = process.children
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 4 <= kept < len(corpus.utterances)
    assert list(load_corpus(folder).features) == ["text"]
    assert leftovers(folder) == [".c.features"]
    wait_until_gone(workers)
    found = run(folder, *options)
    out = capsys.readouterr().out
    reused = int(out.split(" of them from the interrupted command")[0].rsplit(" ", 1)[-1])
    assert kept <= reused < len(corpus.utterances)
    assert found.fingerprint == run(tmp_path / "d", *options[:-2]).fingerprint
    assert leftovers(folder) == []


def _wait_for_results(folder: Path, process: Forked) -> int:
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        for path in folder.parent.glob(".c.features/*.sqlite"):
            try:
                with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
                    count = db.execute("SELECT count(*) FROM results").fetchone()[0]
            except sqlite3.Error:
                continue
            if count >= 4:
                return int(count)
        time.sleep(0.01)
    raise AssertionError("the command did not get so far")


class Stop(BaseException):
    pass


def test_a_recording_that_changed_meanwhile_is_extracted_again(
    folder: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wavs = write_wavs(corpus, tmp_path / "wavs")
    plan = Plan("audio", Recipe("log-mel-stats"), raw=True)
    real, seen = logmel.LogMelStats.extract, []

    def extract(self: logmel.LogMelStats, items: Sequence[Item]) -> list[Result]:
        seen.extend(item.row for item in items)
        if len(seen) > stop_at:
            raise Stop
        return real(self, items)

    monkeypatch.setattr(logmel.LogMelStats, "extract", extract)
    stop_at = 12
    with pytest.raises(Stop):
        extract_features(corpus, plan, find_clips(corpus, wavs, SOUNDS))
    seen.clear()
    stop_at = 1000
    changed = wavs / "part1" / f"{corpus.utterances[3].id}.wav"
    write_wav(changed, tone(300, 0.5))
    os.utime(changed, ns=(1, 1))
    _, made = extract_features(corpus, plan, find_clips(corpus, wavs, SOUNDS))
    assert made.reused == 11
    assert sorted(set(range(12)) & set(seen)) == [3]
    assert 27.5 * 2 ** (made.features[3, DIMS - 3] / 12) == pytest.approx(300, rel=0.02)


def test_one_command_at_a_time_works_on_the_same_features(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    sources = find_clips(corpus, write_wavs(corpus, tmp_path / "wavs"), SOUNDS)
    plan, refused = Plan("audio", Recipe("log-mel-stats")), []

    def again(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(UserError, match="another command is extracting into"):
                extract_features(corpus, plan, sources)
            refused.append(done)

    extract_features(corpus, plan, sources, again)
    assert refused == [4]


def test_arrays_per_utterance_are_averaged_over_time(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    ids = [u.id for u in corpus.utterances]
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    np.save(arrays / f"{ids[0]}.npy", np.array([[1.0, 2], [3, 4]]))
    np.save(arrays / f"{ids[1]}.npy", np.array([5, 6]))
    np.save(arrays / f"{ids[2]}.npy", np.full((2, 2), np.nan))
    np.save(arrays / f"{ids[3]}.npy", np.array([object(), None]), allow_pickle=True)
    (tmp_path / "card.yaml").write_text("extractor: face net\nfitted_on: none\n")
    options = ["--modality", "visual", "--arrays", arrays]
    found = run(folder, *options, "--card", tmp_path / "card.yaml")
    np.testing.assert_array_equal(found.features["visual"][:3], [[2, 3], [5, 6], [0, 0]])
    assert found.cards["visual"].count == 2
    assert (found.cards["visual"].extractor, found.cards["visual"].fitted_on) == ("face net", "none")
    assert f"visual features: values that are not finite: 1 utterance ({ids[2]})" in found.notes
    assert f"visual features: unreadable: 1 utterance ({ids[3]})" in found.notes
    np.save(arrays / f"{ids[4]}.npy", np.ones(3))
    with pytest.raises(UserError, match=rf"features of '{ids[4]}' .* have 3 dimensions, those of '{ids[0]}' have 2"):
        run(folder, *options, "--overwrite")
    assert load_corpus(folder).cards["visual"].dims == 2


def test_one_file_of_arrays_serves_as_well(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", features=np.ones((2, 3)), ids=np.array([u.id for u in corpus.utterances[:2]]))
    found = run(folder, "--modality", "visual", "--arrays", tmp_path / "v.npz")
    assert (found.cards["visual"].dims, found.cards["visual"].count) == (3, 2)
    assert found.cards["visual"].extractor == "unknown (v.npz)"
    with pytest.raises(UserError, match="has visual features already; --overwrite replaces them"):
        run(folder, "--modality", "visual", "--arrays", tmp_path / "v.npz")


def test_text_by_minilm(folder: Path) -> None:
    found = run(folder, "--modality", "text", "--overwrite")
    assert (found.cards["text"].dims, found.cards["text"].layer) == (384, "last, mean over word pieces")
    np.testing.assert_allclose(np.linalg.norm(found.features["text"], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--modality", "audio"], "extractor log-mel-stats needs --clips DIR"),
        (["--modality", "audio", "--clips", "nowhere"], "nowhere is not a folder"),
        (
            ["--modality", "audio", "--clips", "."],
            r"no clip for any utterance \(no clip: 64\); the first would be \*\*/Sam01.* .the whole dialogue",
        ),
        (["--modality", "audio", "--extractor", "faces"], r"faces makes no audio features\. Valid: log-mel-stats"),
        (["--modality", "audio", "--extractor", "minilm"], r"extractor minilm makes no audio features"),
        (["--modality", "visual"], "extractor faces needs --clips DIR"),
        (["--modality", "visual", "--arrays", ".", "--clips", "."], "--clips is not what extractor arrays reads"),
        (
            ["--modality", "text", "--clips", ".", "--overwrite"],
            r"--clips is not what extractor minilm reads \(the texts\)",
        ),
        (
            ["--modality", "text", "--download"],
            "--model, --download and --device are for sentence-transformers, speech",
        ),
        (["--modality", "audio", "--clips", ".", "--device", "cuda"], "not for extractor log-mel-stats"),
        (["--modality", "text", "--raw"], "--raw: features of minilm are never standardised"),
        (["--modality", "text", "--jobs", "0"], "--jobs 0 must be at least 1"),
        (["--modality", "text"], "has text features already; --overwrite"),
        (["--modality", "audio", "--extractor", "egemaps"], "extractor egemaps needs --clips DIR"),
        (["--modality", "smell"], "invalid choice: 'smell'"),
    ],
)
def test_mistakes_change_nothing(folder: Path, options: list[str], message: str) -> None:
    before = load_corpus(folder).fingerprint
    with pytest.raises(UserError, match=message):
        run(folder, *options)
    assert load_corpus(folder).fingerprint == before
    assert leftovers(folder) == []


def test_missing_packages_are_reported_with_the_command_that_installs_them(
    folder: Path, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("opensmile", "sentence_transformers", "cv2"):
        monkeypatch.setitem(sys.modules, name, None)
    wavs = write_wavs(corpus, tmp_path / "wavs")
    with pytest.raises(UserError, match=r"needs openSMILE: pip install .*non-commercial research only"):
        run(folder, "--modality", "audio", "--clips", wavs, "--extractor", "egemaps")
    assert "non-commercial research only" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs a library: pip install"):
        run(folder, "--modality", "text", "--model", wavs, "--overwrite")
    (tmp_path / "frames" / corpus.utterances[0].id).mkdir(parents=True)
    with pytest.raises(UserError, match=r"extractor faces needs more packages: pip install .*fer==25\.10\.3"):
        run(folder, "--modality", "visual", "--clips", tmp_path / "frames")
    assert leftovers(folder) == []


def test_two_recordings_of_one_utterance_are_refused(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    wavs = write_wavs(corpus, tmp_path / "wavs")
    name = corpus.utterances[0].id
    shutil.copy(wavs / "part0" / f"{name}.wav", wavs / f"{name}.WAV")
    with pytest.raises(UserError, match=f"two files for '{name}': "):
        run(folder, "--modality", "audio", "--clips", wavs)


def test_recordings_that_are_all_unusable_leave_the_folder_alone(folder: Path, corpus: Corpus, tmp_path: Path) -> None:
    name = corpus.utterances[0].id
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / f"{name}.wav").write_bytes(b"")
    with pytest.raises(UserError, match=rf"no utterance could be used \({name}: unreadable"):
        run(folder, "--modality", "audio", "--clips", tmp_path / "wavs")
    assert list(load_corpus(folder).features) == ["text"]
    assert leftovers(folder) == []


def test_help_loads_neither_torch_nor_numpy() -> None:
    code = (
        "import sys; from experiments.extract_features import _parser; _parser().format_help();"
        "sys.exit(bool({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
