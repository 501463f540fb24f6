"""A custom corpus, and the example that the documentation points to."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from experiments import import_corpus
from lantern.corpora.folder import load_corpus
from lantern.corpora.labels import read_label_set
from lantern.corpora.readers.custom import import_custom
from lantern.corpora.summary import summarise
from lantern.corpora.types import LabelSet
from lantern.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent.parent
EXAMPLE = ROOT / "tests" / "examples" / "custom"
LABELS = LabelSet("mood-2", ("up", "down"))


def write(folder: Path, *rows: str, header: str = "dialogue,speaker,text,label") -> Path:
    path = folder / "talk.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def test_the_documented_command_imports_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    command = readme.split("```sh\n")[1].split("```")[0].replace("\\\n", " ")
    arguments = [str(tmp_path / "shop") if a == "data/shop" else a for a in shlex.split(command)]
    monkeypatch.chdir(ROOT)
    assert arguments[:3] == ["python", "-m", "experiments.import_corpus"]
    assert not import_corpus.main(arguments[3:])
    corpus = load_corpus(tmp_path / "shop")
    assert (corpus.name, corpus.label_set.name, corpus.redistribution) == ("shop", "shop-3", "allowed")
    assert {name: len(ids) for name, ids in corpus.splits.items()} == {"train": 4, "dev": 2, "test": 2}
    assert {name: (card.dims, card.count) for name, card in corpus.cards.items()} == {
        "audio": (4, 29),
        "visual": (3, 30),
        "text": (384, 30),
    }
    assert list(corpus.features) == ["text", "audio", "visual"]
    assert (corpus.cards["audio"].extractor, corpus.cards["audio"].fitted_on) == ("made-up numbers", "none")
    assert corpus.cards["visual"].fitted_on == "unknown"
    missing = [u.id for u, there in zip(corpus.utterances, corpus.present["audio"]) if not there]
    assert missing == ["shop_3_c"]
    whole = summarise(corpus)[-1]
    assert (whole.utterances, whole.labelled, whole.scored) == (30, 29, 29)
    assert corpus.utterances[1].extra == {"start": 2.8, "end": 4.7}
    assert "audio 4-d (29 of 30 turns)" in capsys.readouterr().out


def test_the_example_reads_the_same_from_csv_and_json_lines() -> None:
    labels = read_label_set(EXAMPLE / "labels.yaml")
    a, b = (import_custom(EXAMPLE / f"transcript.{s}", labels, score_range=(1, 5)) for s in ("csv", "jsonl"))
    assert a.fingerprint == b.fingerprint


def test_ids_are_made_and_other_columns_kept(tmp_path: Path) -> None:
    path = write(tmp_path, "d1,Ann,Hi,up,3", "d1,Bob,,down,", header="dialogue,speaker,text,label,take")
    with pytest.raises(UserError, match=r"talk\.csv, line 3: text is '', expected text"):
        import_custom(path, LABELS)
    write(tmp_path, "d1,Ann,Hi,up,3", "d1,Bob,Oh,,", "7,Ann,Hm,down,1", header="dialogue,speaker,text,label,take")
    corpus = import_custom(path, LABELS)
    assert [u.id for u in corpus.utterances] == ["d1_0", "d1_1", "7_0"]
    assert [u.label for u in corpus.utterances] == [0, None, 1]
    assert [u.extra for u in corpus.utterances] == [{"take": "3"}, {}, {"take": "1"}]
    assert (corpus.name, corpus.redistribution, corpus.splits) == ("talk", "forbidden", {})
    assert "columns kept with the utterances: take" in corpus.notes
    assert any(note.startswith("no splits") for note in corpus.notes)


def test_a_turn_may_end_when_it_starts(tmp_path: Path) -> None:
    path = write(tmp_path, "d,A,x,0,00:00.5", "d,B,y,62.5,00:01:02.5", header="dialogue,speaker,text,start,end")
    first, second = import_custom(path, LABELS).utterances
    assert first.extra == {"start": 0.0, "end": 0.5}
    assert second.extra == {"start": 62.5, "end": 62.5}


def test_splits_by_pattern_and_what_is_left_over(tmp_path: Path) -> None:
    path = write(tmp_path, *(f"{d},Ann,Hi,up" for d in ("a1", "a2", "b1", "c1")))
    corpus = import_custom(path, LABELS, splits={"test": ["b1"], "train": ["a*"]})
    assert corpus.splits == {"train": ("a1", "a2"), "test": ("b1",)}
    assert "1 dialogues are in no split" in corpus.notes
    for splits, message in (
        ({"test": ["x*"]}, r"--split test=x\*: no dialogue has this id; the first is 'a1'"),
        ({"test": ["a1"], "train": ["a*"]}, r"--split train=a\*: dialogue 'a1' is in test already"),
        ({"eval": ["a1"]}, r"--split eval=…: 'eval' is not one of train, dev, test"),
    ):
        with pytest.raises(UserError, match=message):
            import_custom(path, LABELS, splits=splits)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("dialogue,speaker,label", ["d,A,up"], r"line 1: missing columns text; found dialogue, speaker, label"),
        ("dialogue,speaker,text,text", ["d,A,x,y"], r"line 1: column 'text' occurs twice"),
        ("dialogue,speaker,text,lable", ["d,A,x,up"], r"column 'lable' is not known. Did you mean 'label'\? Rename it"),
        ("dialogue,speaker,text,label", ["d,A,x,Up"], r"line 2: label 'Up' is not in label set 'mood-2' \(up, down\)"),
        ("dialogue,speaker,text,label", ["d,A,x,up,9"], r"line 2: not 4 fields as in line 1"),
        ("dialogue,speaker,text,label", ["d,A,x,up", "e,A,x,up", "d,A,x,up"], r"line 4: dialogue 'd' goes on after"),
        ("dialogue,speaker,text,label", ["d,,x,up"], r"line 2: speaker is '', expected text"),
        ("dialogue,speaker,text,utterance", ["d,A,x,u", "d,A,y,u"], r"line 3: utterance 'u' is on line 2 already"),
        ("dialogue,speaker,text,utterance", ["d,A,x,u", "d,A,y,"], r"line 3: utterance is '', expected text"),
        ("dialogue,speaker,text,split", ["d,A,x,eval"], r"line 2: split 'eval' is not one of train, dev, test"),
        (
            "dialogue,speaker,text,split",
            ["d,A,x,dev", "d,A,y,test"],
            r"line 3: split 'test', but dialogue 'd' began on",
        ),
        (
            "dialogue,speaker,text,session",
            ["d,A,x,1", "d,A,y,2"],
            r"line 3: session '2', but dialogue 'd' began on line 2",
        ),
        ("dialogue,speaker,text,valence", ["d,A,x,6"], r"line 2: valence 6 is outside --score-range 1,5"),
        ("dialogue,speaker,text,arousal", ["d,A,x,high"], r"line 2: arousal 'high' is not a number"),
        ("dialogue,speaker,text,arousal", ["d,A,x,nan"], r"line 2: arousal 'nan' is not a number"),
        ("dialogue,speaker,text,start", ["d,A,x,soon"], r"line 2: start 'soon' is neither seconds nor hh:mm:ss"),
        ("dialogue,speaker,text,start,end", ["d,A,x,00:01:02.5,2"], r"line 2: end 2 s is before start 62.5 s"),
        ("dialogue,speaker,text", [], "holds no rows"),
        ("dialogue,speaker,text", ['d,A,"x'], r"line \d: not CSV \(unexpected end of data\)"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, header: str, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_custom(write(tmp_path, *rows, header=header), LABELS, score_range=(1, 5))
    assert "talk.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_need_their_scale_and_may_be_partial(tmp_path: Path) -> None:
    path = write(tmp_path, "d,A,x,2.5,", "d,A,y,,", header="dialogue,speaker,text,valence,dominance")
    with pytest.raises(UserError, match=r"line 2: valence 2\.5 needs its scale: --score-range LOWEST,HIGHEST"):
        import_custom(path, LABELS)
    corpus = import_custom(path, LABELS, score_range=(1, 5))
    assert [u.scores for u in corpus.utterances] == [(2.5, None, None), None]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"talk\.jsonl, line 2: not JSON"),
        ("[1]", r"talk\.jsonl, line 2: not a JSON object"),
        ('{"dialogue": "d", "text": "x"}', r"line 2: missing keys speaker; found dialogue, text"),
        ('{"dialogue": "d", "speaker": "A", "text": ["x"]}', r"line 2: text is \['x'\], expected text"),
        ('{"dialogue": "d", "speaker": "A", "text": "x", "label": true}', r"line 2: label is True, expected text"),
        ('{"dialogue": "d", "speaker": "A", "text": "x", "valence": true}', r"line 2: valence True is not a number"),
    ],
)
def test_bad_json_lines_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps({"dialogue": "d", "speaker": "A", "text": "x"}) + "\n" + line + "\n")
    with pytest.raises(UserError, match=message):
        import_custom(path, LABELS, score_range=(1, 5))


def test_other_encodings_and_suffixes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "d,A,naïve,up")
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(UserError, match=r"talk\.csv, line 2: not UTF-8"):
        import_custom(path, LABELS)
    with pytest.raises(UserError, match=r"talk\.xlsx: a transcript ends in \.csv or \.jsonl, not in '\.xlsx'"):
        import_custom(tmp_path / "talk.xlsx", LABELS)
    with pytest.raises(UserError, match=r"none\.csv is missing"):
        import_custom(tmp_path / "none.csv", LABELS)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--score-range", "5,1"], "--score-range 5,1: expected LOWEST,HIGHEST"),
        (["--split", "train"], "--split train: expected PART=ID"),
        (["--features", "smell=x.npy"], "--features smell=…: 'smell' is not one of text, audio, visual"),
        (["--features", "audio=x.npy"], "x.npy is missing"),
        (["--card", "audio=x.yaml"], "--card audio=…: no --features of this modality"),
        (["--features", f"audio={EXAMPLE / 'visual.npy'}", "--card", "audio=x.yaml"], "x.yaml is missing"),
        (["--label-set", "4-way"], "two different 4-way tasks"),
    ],
)
def test_mistakes_in_the_command_leave_nothing(tmp_path: Path, more: list[str], message: str) -> None:
    arguments = ["custom", "--transcript", str(EXAMPLE / "transcript.csv"), "--score-range", "1,5", "--no-features"]
    arguments += ["--label-set", str(EXAMPLE / "labels.yaml"), "--out", str(tmp_path / "c"), *more]
    with pytest.raises(UserError, match=message):
        import_corpus.main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_given_text_features_take_the_place_of_minilm(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.ones((30, 5), dtype=np.float32))
    arguments = ["custom", "--transcript", str(EXAMPLE / "transcript.csv"), "--score-range", "1,5"]
    arguments += ["--label-set", str(EXAMPLE / "labels.yaml"), "--features", f"text={tmp_path / 't.npy'}"]
    assert import_corpus.main([*arguments, "--out", str(tmp_path / "c")]) == 0
    assert load_corpus(tmp_path / "c").cards["text"].extractor == "unknown (t.npy)"
