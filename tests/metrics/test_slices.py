from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lantern.corpora.types import Dialogue, Utterance
from lantern.metrics.slices import SLICES, by_context, in_order, normalised, slice_parts, slice_report
from lantern.tables import FieldReply, PredictionTable, Row
from tests.rows import table_from_rows


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
    return table_from_rows(("a", "b"), rows)


def report_of(
    split: PredictionTable,
    probabilities: Mapping[str, np.ndarray],
    dialogues: dict[str, Dialogue],
    training_texts: Collection[str],
) -> list[dict[str, Any]]:
    return slice_report(split, probabilities, slice_parts(split, dialogues, training_texts))


def test_slices_by_hand() -> None:
    dialogues = corpus()
    split = table(dialogues)
    improvised = np.array(["impro" in name for name in split.dialogues])
    better = np.where(improvised[:, None], np.eye(2)[split.labels], split.vanilla)
    report = report_of(split, {"vanilla": split.vanilla, "weighted": better}, dialogues, {normalised("YES yes")})
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
    report = report_of(split, {"vanilla": split.vanilla}, dialogues, ())
    assert {p["labelled"] for s in report if s["slice"] == "sex" for p in s["parts"]} == {24, 12}
    many = {
        d.id: Dialogue(d.id, tuple(Utterance(u.id, u.id, u.text, u.label) for u in d.utterances))
        for d in dialogues.values()
    }
    assert "speaker" not in {s["slice"] for s in report_of(split, {"vanilla": split.vanilla}, many, ())}


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
    report = report_of(split, {"vanilla": split.vanilla}, dialogues, ())
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
    report = report_of(split, {"vanilla": split.vanilla}, dialogues, {"", "yes"})
    (found,) = (s for s in report if s["slice"] == "text")
    assert {p["part"]: p["labelled"] for p in found["parts"]} == {"also said in training": 1, "new": 1}


def test_dialogue_lengths_are_cut_after_10_30_and_60_turns() -> None:
    def part(turns: int) -> str | None:
        said = tuple(Utterance(f"d_{i}", "A", "x") for i in range(turns))
        return SLICES["dialogue length"](Dialogue("d", said), 0)

    found = [part(turns) for turns in (1, 10, 11, 30, 31, 60, 61)]
    assert found == ["1-10 turns"] * 2 + ["11-30 turns"] * 2 + ["31-60 turns"] * 2 + ["over 60 turns"]


def test_parts_come_in_their_natural_order() -> None:
    assert in_order({"last third", "first third", "middle third"}) == ["first third", "middle third", "last third"]
    assert in_order(["over 60 turns", "31-60 turns", "1-10 turns"]) == ["1-10 turns", "31-60 turns", "over 60 turns"]
    assert in_order(["half or fewer", "all annotators", "a majority"]) == AGREEMENT_ORDER
    assert in_order(["M", "F"]) == ["F", "M"]
    dialogues = corpus()
    split = table(dialogues)
    report = report_of(split, {"vanilla": split.vanilla}, dialogues, set())
    (positions,) = [one["parts"] for one in report if one["slice"] == "position in the dialogue"]
    assert [one["part"] for one in positions] == ["first third", "middle third", "last third"]


AGREEMENT_ORDER = ["all annotators", "a majority", "half or fewer"]


def replied(seed: int, dialogues: int, vanilla_right: float = 0.5, reply_right: float = 0.7) -> PredictionTable:
    """Six turns a dialogue with fields of 2 (the first two turns) or 4 turns in band 0 and of 4 in band 1."""
    rng = np.random.default_rng(seed)
    rows = []
    for d in range(dialogues):
        for i in range(6):
            right = np.array([0.9, 0.1])
            vanilla, *said = (right if rng.random() < p else right[::-1] for p in (vanilla_right, *[reply_right] * 2))
            fields = [FieldReply(0, 2 if i < 2 else 4, 0, said[0].tolist()), FieldReply(1, 4, 0, said[1].tolist())]
            label = None if i == 5 else 0
            weights = [0.5, 0.3, 0.2] if i < 2 else [0.2, 0.5, 0.3]
            rows.append(
                Row(
                    f"d{d}", f"d{d}_{i}", i, "A", label, None, vanilla.tolist(), None, fields, weights, said[0].tolist()
                )
            )
    return table_from_rows(("a", "b"), rows, width=4)


def test_replies_by_context_length_by_hand() -> None:
    split = replied(0, 40)
    short, long = by_context([split])
    assert (short.length, long.length) == (2, 4)
    assert (short.replies, long.replies) == (80, 40 * 3 + 40 * 5)
    assert split.fields is not None
    known = split.labelled & (split.indices < 2)
    right = split.fields.probabilities[known, 0].argmax(1) == 0
    assert short.gain == pytest.approx(right.mean() - (split.vanilla[known].argmax(1) == 0).mean())
    for one in (short, long):
        assert one.low is not None
        assert one.high is not None
        assert one.gain is not None
        assert one.low < one.gain < one.high
    assert short.weights == (pytest.approx(0.3), None)
    assert long.weights == pytest.approx((0.5, (0.2 * 2 + 0.3 * 4) / 6))


def test_intervals_by_context_length_hold_the_true_gain_as_often_as_they_say() -> None:
    held = []
    for seed in range(120):
        (_, long) = by_context([replied(seed, 30)], seed)
        assert long.low is not None
        assert long.high is not None
        held.append(long.low <= 0.2 <= long.high)
    assert 0.88 <= np.mean(held) <= 1


def test_a_handful_of_dialogues_and_no_replies_have_no_interval() -> None:
    assert {(one.low, one.high) for one in by_context([replied(0, 4)])} == {(None, None)}
    unlabelled = replace(replied(0, 9), labels=np.full(54, -1))
    assert {(one.replies, one.gain) for one in by_context([unlabelled])} == {(0, None)}
    split = replied(0, 9)
    assert split.fields is not None
    nothing = replace(split, fields=replace(split.fields, failures=np.zeros_like(split.fields.failures)))
    assert by_context([nothing]) == []
    unmerged = replace(split, weights=None)
    assert {one.weights for one in by_context([unmerged])} == {()}


def test_seeds_are_resampled_together() -> None:
    one, both = by_context([replied(0, 30)]), by_context([replied(0, 30), replied(0, 30)])
    assert [(a.gain, a.low, a.high) for a in one] == [(b.gain, b.low, b.high) for b in both]
    assert [2 * a.replies for a in one] == [b.replies for b in both]
