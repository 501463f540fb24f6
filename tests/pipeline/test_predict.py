"""A finished run predicts conversations that it has never seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.predict import main
from lantern.config.compose import read_config
from lantern.corpora.readers.conversations import read_transcript
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Dialogue, Utterance
from lantern.errors import UserError
from lantern.features.extractors.minilm import MiniLM, card
from lantern.pipeline.predict import load
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.tables import PredictionTable
from tests.composed import compose
from tests.llm_server import LLMServer
from tests.pipeline.test_run import Recorder

CHAT = "Ann: we won, I cannot believe it!\nBob: that is wonderful [really]\nAnn: and now I am so tired\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on MiniLM text and made-up audio, which it can do without."""
    at = tmp_path_factory.mktemp("predict")
    sample = generate_sample(dialogues=12)
    texts = [u.text for u in sample.utterances]
    whole = replace(sample, features={}, present={}, cards={}).with_features(
        "text", MiniLM().encode(texts), card(len(texts))
    )
    whole = whole.with_features("audio", sample.features["audio"], sample.cards["audio"])
    whole.save(at / "corpus")
    overrides = ["backbone=gru", "backbone.hidden=16", "trainer.epochs=2", "llm=simulated", "weighting.fit_on=dev"]
    overrides += ["refine.stride=2"]  # so that no two fields of a short chat are the same
    overrides += [f"corpus.path={at}/corpus", "corpus.name=own", f"runs={at}/runs", "model.modality_dropout=0.3"]
    return Path(run(preflight(compose(overrides)), Recorder())["folder"])


def test_predictions_are_those_of_the_run_itself(finished: Path) -> None:
    loaded = load(finished)
    assert loaded.config == read_config(finished / "config.yaml")
    assert loaded.modalities == {"text": 384, "audio": 32}
    test = PredictionTable.load(finished / "predictions.test.parquet")
    corpus = preflight(loaded.config).corpus
    name = test.dialogues[0]
    audio = corpus.features["audio"][corpus.rows[name]]
    text = corpus.features["text"][corpus.rows[name]]
    found = loaded.predict(corpus.by_id[name], {"text": text, "audio": audio})
    expected = test.keep({name}).vanilla
    assert np.allclose(found.vanilla, expected, atol=1e-5)
    # Text features are computed where none are given.
    again = loaded.predict(corpus.by_id[name], {"audio": audio})
    assert np.allclose(again.vanilla, expected, atol=1e-4)


def test_the_command_writes_a_table(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chat.txt").write_text(CHAT)
    assert main([str(tmp_path / "chat.txt"), "--run", str(finished), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "we won, I cannot believe it!" in out
    assert "[really]" in out
    assert "valence" in out
    frame = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(frame.speaker) == ["Ann", "Bob", "Ann"]
    assert np.allclose(frame.filter(like="p(").sum(axis=1), 1, atol=1e-3)
    assert len(pd.read_json(tmp_path / "out" / "predictions.jsonl", lines=True)) == 3
    page = (tmp_path / "out" / "predictions.html").read_text()
    assert "that is wonderful [really]" in page
    assert str(tmp_path / "out" / "predictions.html") in "".join(out.split())


def test_files_go_where_they_can_be_found(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chat.txt").write_text(CHAT)
    assert main(["chat.txt", "--run", str(finished)]) == 0
    assert {path.name for path in Path("predicted/chat").iterdir()} == {
        f"predictions.{s}" for s in ("html", "csv", "jsonl")
    }
    with pytest.raises(UserError, match=r"--out=chat\.txt/here cannot be made: .*chat\.txt is a file"):
        main(["chat.txt", "--run", str(finished), "--out", "chat.txt/here"])
    with pytest.raises(UserError, match="answers from gold labels"):
        main(["chat.txt", "--run", str(finished), "--out", "new", "--llm", "simulated"])
    assert not Path("new").exists()


def test_the_page_holds_every_prompt_and_reply(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chat.txt").write_text(CHAT)
    Path("configs/llm").mkdir(parents=True)
    with LLMServer(["misspelt", "right"]) as server:  # the first reply needs a repair turn
        settings = {"name": "mine", "model": "hosted_vllm/m", "api_base": server.url, "remote": False, "free": True}
        Path("configs/llm/mine.yaml").write_text(json.dumps(settings))
        assert main(["chat.txt", "--run", str(finished), "--llm", "mine"]) == 0
    page = Path("predicted/chat/predictions.html").read_text()
    data = json.loads(page.split('id="reader-data">')[1].split("</script>")[0])
    (run,) = data["runs"]
    calls = [one for attempts in run["asked"] for one in attempts]
    assert sum(one["repair"] for one in calls) == sum(bool(one["failure"]) for one in calls) == 1
    lines = {data["lines"][k] for one in calls for _, numbers in one["messages"] for k in numbers}
    assert any("we won, I cannot believe it!" in line for line in lines)
    assert all(one["reply"] for one in calls)
    assert min(run["field_of"]) >= 0


def test_a_second_chat_of_the_same_name_never_replaces_the_first_ones_predictions(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, text in (("a", CHAT), ("b", "Ann: another one\nPim: yes\n")):
        Path(folder).mkdir()
        Path(folder, "_chat.txt").write_text(text)
    command = ["--run", str(finished)]
    assert main(["a/_chat.txt", *command]) == 0
    assert main(["a/_chat.txt", *command]) == 0  # the same conversation
    before = Path("predicted/_chat/predictions.csv").read_bytes()
    with pytest.raises(UserError, match=r"predicted/_chat holds the predictions of another conversation.*--overwrite"):
        main(["b/_chat.txt", *command])
    assert Path("predicted/_chat/predictions.csv").read_bytes() == before
    Path("predicted/_chat/predictions.csv").unlink()
    with pytest.raises(UserError, match="another conversation"):
        main(["a/_chat.txt", *command])
    assert main(["b/_chat.txt", *command, "--overwrite"]) == 0
    assert "another one" in Path("predicted/_chat/predictions.csv").read_text()


@pytest.mark.parametrize(
    ("backbone", "small"), [("sdt_small", ["hidden=16"]), ("corect_small", ["hidden=14", "text_feedforward=16"])]
)
def test_speakers_beyond_those_of_the_training_corpus_share_the_last_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backbone: str, small: list[str]
) -> None:
    sample = generate_sample(dialogues=12)
    texts = [u.text for u in sample.utterances]
    replace(sample, features={}, present={}, cards={}).with_features(
        "text", MiniLM().encode(texts), card(len(texts))
    ).save(tmp_path / "corpus")
    overrides = [f"backbone={backbone}", "trainer.epochs=1", f"corpus.path={tmp_path}/corpus", "refine.enabled=false"]
    overrides += [f"backbone.{setting}" for setting in small]
    loaded = load(run(preflight(compose([*overrides, f"runs={tmp_path}/runs"])), Recorder())["folder"])
    known = loaded.module.hparams["sizes"]["speakers"]
    names = [f"speaker {n}" for n in range(9)]
    crowd = Dialogue("crowd", tuple(Utterance(f"{n}", name, f"I said {n}") for n, name in enumerate(names * 2)))
    shared = [names[min(n, known - 1)] for n in range(9)] * 2
    same = Dialogue("same", tuple(replace(u, speaker=s) for u, s in zip(crowd.utterances, shared, strict=True)))
    table = loaded.predict([crowd, replace(same, utterances=tuple(replace(u, id=f"s{u.id}") for u in same.utterances))])
    assert np.array_equal(table.vanilla[:18], table.vanilla[18:])
    assert list(table.speakers[:9]) == names
    assert [r.message for r in caplog.records if "has 9 speakers" in r.message] == [
        f"conversation 'crowd' has 9 speakers, the model tells {known} apart: the others share the index of the last"
    ]


def test_what_cannot_be_predicted_is_told(finished: Path, tmp_path: Path) -> None:
    loaded = load(finished)
    (tmp_path / "chat.txt").write_text(CHAT)
    (dialogue,) = read_transcript(tmp_path / "chat.txt")
    for given, features, told in (
        ([], None, "no turns"),
        (dialogue, {"smell": np.zeros((3, 2))}, "not smell"),
        (dialogue, {"audio": np.zeros((2, 32))}, r"expected \[3, 32\]"),
    ):
        with pytest.raises(UserError, match=told):
            loaded.predict(given, features)
    strict = replace(loaded, config=replace(loaded.config, model=replace(loaded.config.model, modality_dropout=0.0)))
    with pytest.raises(UserError, match="wants audio features"):
        strict.predict(dialogue)
    for arguments, told in (
        (["--run", str(tmp_path)], "not a finished run"),
        (["--run", str(finished), "--llm", "simulated"], "answers from gold labels"),
        (["--run", str(finished), "--llm", "gpt-5o"], "Did you mean"),
    ):
        with pytest.raises(UserError, match=told):
            main([str(tmp_path / "chat.txt"), *arguments])
    for name, content in (("corpus.json", "{}"), ("config.yaml", "sed: 3\n"), ("checkpoints/best.ckpt", "x")):
        path = finished / name
        before = path.read_bytes()
        path.write_text(content)
        with pytest.raises(UserError, match=name.split("/")[-1].replace(".", r"\.")):
            load(finished)
        path.write_bytes(before)
