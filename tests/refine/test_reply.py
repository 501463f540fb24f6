from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lantern.refine import reply as replies
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Failure, Outcome, Reply

CLASSES = ("happy", "sad", "neutral")
GOOD = {"1": {"happy": 0.2, "sad": 0.3, "neutral": 0.5}, "2": {"happy": 1, "sad": 2, "neutral": 1}}


def parse(text: str, count: int = 2, finish: str | None = "stop") -> Outcome:
    return replies.parse(Reply(text=text, finish_reason=finish), ReplyShape(count, CLASSES))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        f"```json\n{json.dumps(GOOD, indent=2)}\n```",
        f"Here is what I think: {json.dumps(GOOD)} I hope it helps.",
        json.dumps({k: dict(reversed(v.items())) for k, v in reversed(GOOD.items())}),
    ],
)
def test_good_replies_in_any_dress(text: str) -> None:
    parsed = parse(text)
    assert isinstance(parsed, Answer)
    assert parsed.probabilities[0] == pytest.approx([0.2, 0.3, 0.5])
    assert parsed.probabilities[1] == pytest.approx([0.25, 0.5, 0.25])
    assert parsed.sums == pytest.approx([1.0, 4.0])


@pytest.mark.parametrize(
    ("text", "finish", "kind"),
    [
        (json.dumps(GOOD), "length", "cut_off"),
        (json.dumps(GOOD), "max_tokens", "cut_off"),
        (json.dumps(GOOD)[:-9], "stop", "unparsable"),
        ("", "content_filter", "refusal"),
        ("I'm sorry, I cannot label these people.", "stop", "refusal"),
        ("I\u2019m sorry, no.", "stop", "refusal"),
        ('I\u2019m sorry, here it is: {"1": {"happy": ', "stop", "unparsable"),
        ("The speaker seems happy.", "stop", "unparsable"),
        ("[1, 2]", "stop", "unparsable"),
        (json.dumps({"1": GOOD["1"]}), "stop", "incomplete"),
        (json.dumps({**GOOD, "3": GOOD["1"]}), "stop", "unparsable"),
        (json.dumps({"1": GOOD["1"], "2": "happy"}), "stop", "unparsable"),
        (
            '{"1": {"happy": 1, "sad": 0, "neutral": 0}, "1": {"happy": 0, "sad": 1, "neutral": 0}}',
            "stop",
            "unparsable",
        ),
        (json.dumps(GOOD) + json.dumps({**GOOD, "2": GOOD["1"]}), "stop", "unparsable"),
        (json.dumps(GOOD) + "{", "stop", "unparsable"),
        (json.dumps({**GOOD, "2": {"happy": 1, "sad": 0, "neutrall": 0}}), "stop", "wrong_classes"),
        (json.dumps({**GOOD, "2": {"happy": 1, "sad": 0}}), "stop", "wrong_classes"),
        (json.dumps({**GOOD, "2": {"happy": -0.1, "sad": 1, "neutral": 0}}), "stop", "bad_numbers"),
        (json.dumps({**GOOD, "2": {"happy": 0, "sad": 0, "neutral": 0}}), "stop", "bad_numbers"),
        (json.dumps({**GOOD, "2": {"happy": True, "sad": 0, "neutral": 0}}), "stop", "bad_numbers"),
        (json.dumps({**GOOD, "2": {"happy": "half", "sad": 0, "neutral": 0}}), "stop", "bad_numbers"),
        (json.dumps({**GOOD, "2": {"happy": math.nan, "sad": 0, "neutral": 0}}), "stop", "bad_numbers"),
        (json.dumps({**GOOD, "2": {"happy": math.inf, "sad": 0, "neutral": 0}}), "stop", "bad_numbers"),
        (json.dumps({**GOOD, "2": {"happy": 10**400, "sad": 0, "neutral": 0}}), "stop", "bad_numbers"),
        (json.dumps({**GOOD, "2": {"happy": None, "sad": 0, "neutral": 0}}), "stop", "bad_numbers"),
        ("{" * 100000, "stop", "unparsable"),
        ("", "stop", "empty"),
        (" \n", None, "empty"),
    ],
)
def test_bad_replies_are_typed_failures_that_keep_the_paid_reply(text: str, finish: str, kind: str) -> None:
    failure = parse(text, finish=finish)
    assert isinstance(failure, Failure)
    assert failure.kind == kind
    assert failure.reply is not None
    assert failure.reply.text == text


@given(st.text(max_size=200))
def test_any_text_parses_or_fails_but_never_raises(text: str) -> None:
    assert isinstance(parse(text), Answer | Failure)


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3).filter(lambda v: sum(v) > 0))
def test_renormalised_to_one(values: list[float]) -> None:
    parsed = parse(json.dumps({"1": dict(zip(CLASSES, values))}), count=1)
    assert isinstance(parsed, Answer)
    assert sum(parsed.probabilities[0]) == pytest.approx(1)
