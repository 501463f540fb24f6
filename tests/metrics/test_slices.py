from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lantern.corpora.types import Dialogue, Utterance
from lantern.metrics.slices import SLICES, normalised, slice_report
from lantern.tables import PredictionTable, Row


def corpus() -> dict[str, Dialogue]:
    found = {}
    for n in range(12):
        name = f"Ses01F_{'impro' if n % 2 else 'script'}{n:02d}"
        said = tuple(
            Utterance(
                f"{name}_{i}",
                "FM"[i % 2],
                "Yes, yes!" if i == 0 else f"word {n} {i}",
                label=i % 2,
                extra={"sex": "FM"[i % 2]},
            )
            for i in range(9)
        )
        found[name] = Dialogue(name, said)
    return found


def table(dialogues: dict[str, Dialogue]) -> PredictionTable:
    rows = [
        Row(d.id, u.id, i, u.speaker, u.label, None, [0.6, 0.4])
        for d in dialogues.values()
        for i, u in enumerate(d.utterances)
    ]
    return PredictionTable.from_rows(("a", "b"), rows)


def test_slices_by_hand() -> None:
    dialogues = corpus()
    split = table(dialogues)
    improvised = np.array(["impro" in name for name in split.dialogues])
    better = np.where(improvised[:, None], np.eye(2)[split.labels], split.vanilla)
    report = slice_report(split, {"vanilla": split.vanilla, "weighted": better}, dialogues, {normalised("YES yes")})
    parts = {s["slice"]: {p["part"]: p for p in s["parts"]} for s in report}
    assert set(parts) == {"scripted or improvised", "speaker", "sex", "position in the dialogue", "text"}
    kinds = parts["scripted or improvised"]
    assert kinds["improvised"]["labelled"] == 54
    assert kinds["improvised"]["accuracy"]["vanilla"] == pytest.approx(5 / 9)
    assert kinds["improvised"]["accuracy"]["weighted"] == 1
    assert kinds["improvised"]["accuracy"]["low"] > 0
    assert kinds["scripted"]["accuracy"]["difference"] == 0
    assert parts["sex"]["F"]["accuracy"]["vanilla"] == 1
    assert parts["sex"]["M"]["accuracy"]["vanilla"] == 0
    assert parts["text"]["also said in training"]["labelled"] == 12
    assert parts["text"]["also said in training"]["accuracy"]["low"] is None
    assert {p["labelled"] for p in parts["position in the dialogue"].values()} == {36}


def test_unlabelled_rows_and_crowds_of_speakers_are_left_out() -> None:
    dialogues = corpus()
    split = table(dialogues)
    split = replace(split, labels=np.where(np.arange(len(split)) % 3, -1, split.labels))
    report = slice_report(split, {"vanilla": split.vanilla}, dialogues, ())
    assert {p["labelled"] for s in report if s["slice"] == "sex" for p in s["parts"]} == {24, 12}
    many = {
        d.id: Dialogue(d.id, tuple(Utterance(u.id, u.id, u.text, u.label) for u in d.utterances))
        for d in dialogues.values()
    }
    assert "speaker" not in {s["slice"] for s in slice_report(split, {"vanilla": split.vanilla}, many, ())}


def test_agreement_is_the_share_of_external_votes_for_the_commonest_category() -> None:
    votes: list[object] = [
        {"C-E1": ["Anger"], "C-E2": ["Anger"], "C-E3": ["Anger", "Frustration"]},
        {"C-E1": ["Anger"], "C-E2": ["Anger"], "C-E3": ["Neutral"], "C-F1": ["Neutral"], "C-M1": ["Neutral"]},
        {"C-E1": ["Anger"], "C-E2": ["Neutral"]},
        {"C-E1": ["Anger"], "C-E2": []},
        {"C-F1": ["Anger"]},
        "Anger",
    ]
    said = tuple(Utterance(f"d_{i}", "F", "word", label=0, extra={"votes": v}) for i, v in enumerate(votes))
    dialogues = {"d": Dialogue("d", said)}
    split = table(dialogues)
    report = slice_report(split, {"vanilla": split.vanilla}, dialogues, ())
    (found,) = (s for s in report if s["slice"] == "annotators who agree")
    assert {p["part"]: p["labelled"] for p in found["parts"]} == {
        "all annotators": 2,
        "a majority": 1,
        "half or fewer": 1,
    }


def test_turns_without_words_are_nobodys_twins() -> None:
    said = tuple(Utterance(f"d_{i}", "F", text, label=0) for i, text in enumerate(("...", "Yes!", "no")))
    dialogues = {"d": Dialogue("d", said)}
    split = table(dialogues)
    report = slice_report(split, {"vanilla": split.vanilla}, dialogues, {"", "yes"})
    (found,) = (s for s in report if s["slice"] == "text")
    assert {p["part"]: p["labelled"] for p in found["parts"]} == {"also said in training": 1, "new": 1}


def test_dialogue_lengths_are_cut_after_10_30_and_60_turns() -> None:
    def part(turns: int) -> str | None:
        said = tuple(Utterance(f"d_{i}", "A", "x") for i in range(turns))
        return SLICES["dialogue length"](Dialogue("d", said), 0)

    found = [part(turns) for turns in (1, 10, 11, 30, 31, 60, 61)]
    assert found == ["1-10 turns"] * 2 + ["11-30 turns"] * 2 + ["31-60 turns"] * 2 + ["over 60 turns"]
