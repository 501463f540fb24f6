import json
from pathlib import Path
from typing import Any

import pytest

from lantern.corpora.folder import load_corpus
from lantern.corpora.readers.emorynlp import CSV_FILES, JSON_FILES, PUBLISHED, import_emorynlp
from lantern.errors import UserError

HEADER = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time"


def row(
    text: str,
    emotion: str,
    scene: object,
    number: object,
    speaker: str = "['Ann Other']",
    season: object = 1,
    episode: object = 15,
) -> str:
    return f'"{text}","{speaker}",{emotion},{scene},{number},{season},{episode},00:00:03.795,00:00:05.004'


def write_csv(folder: Path, rows: dict[str, list[str]] | None = None, header: str = HEADER) -> Path:
    for scene, (split, name) in enumerate(CSV_FILES.items(), 11):
        lines = (rows or {}).get(split, [row("Tea.", "Neutral", scene, 1), row("No tea!", "Mad", scene, 2)])
        (folder / name).write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return folder


def turn(number: int = 1, scene: str = "s01_e15_c01", **values: object) -> dict[str, object]:
    made = {"speakers": ["Ann Other"], "transcript": "Tea.", "tokens": [["Tea", "."]], "emotion": "Neutral"}
    return {"utterance_id": f"{scene}_u{number:03d}", **made, **values}


def season(*turns: dict[str, object], scene: str = "s01_e15_c01", episode: str = "s01_e15") -> dict[str, Any]:
    scenes = [{"scene_id": scene, "utterances": list(turns or (turn(),))}]
    return {"season_id": "dev", "episodes": [{"episode_id": episode, "scenes": scenes}]}


def write_json(folder: Path, content: object = None, split: str = "dev") -> Path:
    (folder / JSON_FILES[split]).write_text(json.dumps(season() if content is None else content), encoding="utf-8")
    return folder


def test_csv_turns_are_keyed_by_season_episode_and_scene(tmp_path: Path) -> None:
    rows = [
        row("c", "Joyful", 2, 7),
        row("a", "Sad", 2, 3, "['Ann Other', 'Bob Neil']"),
        row("z", "Scared", 2, 1, season=3),
        row("y", "Powerful", 2, 1, episode=2),
    ]
    corpus = import_emorynlp(csv=write_csv(tmp_path, {"train": rows}))
    assert corpus.splits["train"] == ("s01_e15_c02", "s03_e15_c02", "s01_e02_c02")
    first = corpus.by_id["s01_e15_c02"]
    assert [u.id for u in first.utterances] == ["s01_e15_c02_u003", "s01_e15_c02_u007"]
    assert first.session == "S1E15"
    assert first.utterances[0].speaker == "Ann Other & Bob Neil"
    assert first.utterances[0].extra == {
        "speakers": ["Ann Other", "Bob Neil"],
        "start": "00:00:03.795",
        "end": "00:00:05.004",
    }
    assert "speakers" not in first.utterances[1].extra
    notes = " / ".join(corpus.notes)
    assert "train: 1 dialogues with gaps" in notes
    assert "train: 1 dialogues do not start at utterance 1" in notes
    assert "train: 1 utterances spoken by several" in notes


def test_both_forms_name_the_same_utterance_alike(tmp_path: Path) -> None:
    text = (
        import_emorynlp(
            csv=write_csv(tmp_path, {"train": [row("Tea.", "Neutral", 1, 1)], "dev": [row("Hm.", "Sad", 3, 1)]})
        )
        .by_id["s01_e15_c01"]
        .utterances[0]
    )
    other = import_emorynlp(json=write_json(tmp_path)).utterances[0]
    assert (text.id, text.speaker, text.text, text.label) == (other.id, other.speaker, other.text, other.label)


def test_classes_are_in_the_published_order(tmp_path: Path) -> None:
    names = ["Joyful", "Mad", "Peaceful", "Neutral", "Sad", "Powerful", "Scared"]
    turns = [turn(n, emotion=name) for n, name in enumerate(names, 1)]
    assert [u.label for u in import_emorynlp(json=write_json(tmp_path, season(*turns))).utterances] == list(range(7))


def test_published_counts_add_up_to_the_published_totals() -> None:
    for form, total in (("csv", 9489), ("json", 12606)):
        assert sum(utterances for _, utterances, _ in PUBLISHED[form].values()) == total
        assert all(sum(classes) == utterances for _, utterances, classes in PUBLISHED[form].values())


def test_absent_files_are_noted_and_the_rest_is_imported(tmp_path: Path) -> None:
    corpus = import_emorynlp(json=write_json(tmp_path))
    assert list(corpus.splits) == ["dev"]
    assert "no emotion-detection-trn.json: the corpus has no train split" in corpus.notes
    assert "differs: dev: 1 utterances, published 1344" in corpus.checks
    assert (corpus.redistribution, "Friends" in corpus.contaminated) == ("allowed", True)
    assert "Apache-2.0" in corpus.source
    assert load_corpus(corpus.save(tmp_path / "c")).fingerprint == corpus.fingerprint
    write_json(tmp_path, split="test")
    with pytest.raises(UserError, match=r"tst\.json: scene s01_e15_c01 is in the file of another split, too"):
        import_emorynlp(json=tmp_path)
    with pytest.raises(UserError, match=r"nowhere holds none of emorynlp_train_final\.csv, "):
        import_emorynlp(csv=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row("a", "Mad", 1, 1), row("b", "Mad", 1, 1)],
            r"line 3: utterance s01_e15_c01_u001 is on line 2 already",
        ),
        ([row("a", "Angry", 1, 1)], r"line 2: emotion 'Angry' is not one of joyful, mad"),
        ([row("a", "Mad", 1, 1, "Ann Other")], r"line 2: speakers None is not a list of names"),
        ([row("a", "Mad", 1, 1, "[]")], r"line 2: speakers \[\] is not a list of names"),
        ([row("a", "Mad", 1, 1, "__import__('os').system('x')")], r"line 2: speakers None is not a list"),
        ([row("a", "Mad", "x", 1)], r"line 2: Scene_ID 'x' is not a whole number"),
        ([row("a", "Mad", 1, 1), "cut,short"], r"line 3: not 9 fields"),
        ([], "holds no rows"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_emorynlp(csv=write_csv(tmp_path, {"test": rows}))
    assert "emorynlp_test_final.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"'episodes' is not a list"),
        ({"episodes": []}, "holds no scenes"),
        (season(episode="pilot"), r"episode_id 'pilot' is not of the form s01_e15"),
        (season(turn(), turn()), r"utterance s01_e15_c01_u001 occurs twice"),
        (season(turn(scene="s01_e15_c02")), r"utterance s01_e15_c02_u001: expected an id s01_e15_c01_u and a number"),
        (season(turn(transcript=None)), r"utterance s01_e15_c01_u001: transcript is None, expected text"),
        (season(turn(emotion="Bored")), r"u001: emotion 'Bored' is not one of"),
        (season(turn(speakers="Ann")), r"u001: speakers 'Ann' is not a list of names"),
    ],
)
def test_bad_json_names_the_utterance(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        import_emorynlp(json=write_json(tmp_path, content))
    assert "emotion-detection-dev.json" in str(caught.value)
