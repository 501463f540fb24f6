"""Replies whose meaning is certain are read whatever they look like; where two readings are possible they fail."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lantern.refine import reply as replies
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Answer, Failure, Outcome, Reply

CLASSES = ("happy", "sad", "very sad")
FIRST = '{"happy": 0.2, "sad": 0.3, "very sad": 0.5}'
SECOND = '{"happy": 0.7, "sad": 0.3, "very sad": 0}'
GOOD = f'{{"1": {FIRST}, "2": {SECOND}}}'
EXPECTED = [[0.2, 0.3, 0.5], [0.7, 0.3, 0.0]]


def parse(text: str, count: int = 2, finish: str | None = "stop") -> Outcome:
    return replies.parse(Reply(text=text, finish_reason=finish), ReplyShape(count, CLASSES))


def keyed(first: str, second: str) -> str:
    return f'{{"{first}": {FIRST}, "{second}": {SECOND}}}'


@pytest.mark.parametrize(
    "text",
    [
        # commas, comments, quotes, words of Python
        GOOD.replace("}", ",}"),
        GOOD.replace(", ", ",\n  // next\n  "),
        GOOD.replace("{", "{ # a note\n"),
        GOOD.replace("{", "{ /* a note: {not this} */ "),
        GOOD.replace('"', "'"),
        GOOD.replace('"', "'").replace("}}", "}, 'sure': True, 'why': None}"),
        GOOD.replace('"happy"', "happy").replace('"1"', "1"),
        GOOD.replace('"1"', "\u201c1\u201d"),
        GOOD.replace("0.2", ".2").replace("0.3", "+0.3"),
        # prose around it, with braces and brackets of its own
        f"I use {{class}} and [number] as you say. {GOOD} That is all {{so far}}.",
        f"See [1], and {{}}: {GOOD} :-}}",
        f"Here: \ufeff\u200b{GOOD}\n\n[1] my own estimate",
        f"```json\n{GOOD}\n```\nIn short:\n```\n{GOOD}\n```",
        f'<think>maybe {{"1": {SECOND}}}? no</think>\n{GOOD}',
        f"~~~\n{GOOD}",
        # percent
        GOOD.replace("0.2", '"20%"').replace("0.3", '"30 %"').replace("0.5", '"50%"').replace("0.7", '"70%"'),
        GOOD.replace("0.2", "20%").replace("0.3", "30%").replace("0.5", "50 %").replace("0.7", "70%"),
        GOOD.replace("0.2", "20").replace("0.3", "30").replace("0.5", "50").replace("0.7", "70"),
        GOOD.replace("0.2", '"20"').replace("0.3", "30").replace("0.5", "50.0").replace("0.7", '" 70 "'),
        # numbers as text
        GOOD.replace("0.2", '"0.2"').replace("0.5", '" .5 "').replace("0.7", '"7e-1"'),
        # an object for each utterance, or for each class
        f'{{"1": {FIRST}}}\n{{"2": {SECOND}}}',
        FIRST.replace("{", '{"utterance": 1, ') + "\n" + SECOND.replace("{", '{"Utterance_ID": "2", '),
        GOOD.replace(
            FIRST,
            '[{"label": "happy", "score": 0.2}, {"score": "30%", "label": "Sad"}, {"label": "very sad", "score": 0.5}]',
        ),
        # JSON inside of JSON
        json.dumps(GOOD),
        json.dumps({"name": "answer", "arguments": GOOD}),
        # names of classes
        GOOD.replace("very sad", "very_sad"),
        GOOD.replace("very sad", "Very-Sad"),
        GOOD.replace("happy", "HAPPY").replace("very sad", " Very  Sad "),
        GOOD.replace('"sad"', '"Sad\\n"'),
        # numbers of utterances
        *[
            keyed(*pair)
            for pair in [
                ("1.", "2."),
                ("#1", "#2"),
                ("utterance 1", "Utterance 2"),
                ("utterance_1", "utterance-2"),
                ("Utt. 1", "u2"),
                ("(1)", "2)"),
                ("[1]", "2:"),
                ("01", " 2 "),
                ("Utterance #1", "line 2"),
            ]
        ],
        # further keys
        GOOD.replace("}}", '}, "comment": "the second laughs", "confidence": 0.8, "sources": ["a"]}'),
        GOOD.replace('"sad"', '"reason": "tired", "valence": 3.5, "sad"'),
        # wrapped
        f'{{"answer": {GOOD}}}',
        f'{{"reasoning": "x {{1}}", "utterances": {GOOD}, "n": 2}}',
        f'{{"result": {{"utterances": {GOOD}}}}}',
        f'{{"1": {{"probabilities": {FIRST}}}, "2": {{"speaker": "A", "emotions": {SECOND}}}}}',
        # lists
        f'[{{"id": 1, {FIRST[1:]}, {{"id": 2, {SECOND[1:]}]',
        f'{{"utterances": [{{"utterance": "1", {FIRST[1:]}, {{"utterance": "2", {SECOND[1:]}]}}',
        f'[{{"number": "#1", "text": "oh", "emotions": {FIRST}}}, {{"number": "#2", "emotions": {SECOND}}}]',
        f'[{{"index": 2, {SECOND[1:]}, {{"index": 1, {FIRST[1:]}]',
    ],
)
def test_certain_meaning_is_read(text: str) -> None:
    parsed = parse(text)
    assert isinstance(parsed, Answer), parsed
    assert [pytest.approx(row) for row in EXPECTED] == parsed.probabilities
    assert parsed.sums == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # two objects, or the beginning of a second
        (GOOD + keyed("1", "2").replace("0.2", "0.25"), "unparsable"),
        (GOOD + " or " + GOOD.replace("0.7", "0.8"), "unparsable"),
        (GOOD + ' {"1": {"happy": 0.9,', "unparsable"),
        (GOOD + ' {"note": "not sure"}', "unparsable"),
        (f'[{FIRST}, {{"id": 2}}', "unparsable"),
        (f'{{"1": {FIRST}}} {{"1": {SECOND}}}', "unparsable"),
        (f'{{"1": {FIRST}}} {{"1.": {FIRST}, "2": {SECOND}}}', "unparsable"),
        (f'{{"id": 1, {FIRST[1:]} {{"id": 1, {SECOND[1:]}', "unparsable"),
        (f"{FIRST} {SECOND}", "unparsable"),
        (json.dumps({"a": GOOD, "b": GOOD.replace("0.2", "0.1")}), "incomplete"),
        (GOOD.replace(FIRST, '[{"label": "happy", "score": 1}, {"label": "happy", "score": 0}]'), "unparsable"),
        # a class, an utterance or a key twice
        (GOOD.replace('"sad": 0.3,', '"sad": 0.3, "Sad": 0.4,'), "wrong_classes"),
        (GOOD.replace('"sad": 0.3,', '"sad": 0.3, "sad": 0.3,'), "unparsable"),
        (keyed("1", "1."), "unparsable"),
        (keyed("#1", "utterance 1"), "unparsable"),
        (f'[{{"id": 1, {FIRST[1:]}, {{"id": 1, {SECOND[1:]}]', "unparsable"),
        # counted from 0, or one too many
        (keyed("0", "1"), "unparsable"),
        (keyed("2", "3"), "unparsable"),
        (keyed("-1", "2"), "incomplete"),
        (keyed("1.5", "2"), "incomplete"),
        (keyed("one", "two"), "incomplete"),
        (keyed("1", "2nd"), "incomplete"),
        # lists without numbers
        (f"[{FIRST}, {SECOND}]", "unparsable"),
        (f'{{"utterances": [{FIRST}, {SECOND}]}}', "unparsable"),
        (f'[{{"id": 1, "number": 2, {FIRST[1:]}]', "unparsable"),
        # two things that may be the answer
        (f'{{"first": {GOOD}, "second": {GOOD.replace("0.2", "0.1")}}}', "incomplete"),
        # a share for a class that there is not
        (GOOD.replace('"very sad": 0.5', '"very sad": 0.4, "bored": 0.1'), "wrong_classes"),
        (GOOD.replace('"very sad": 0.5', '"very sad": 0.4, "bored": "10%"'), "wrong_classes"),
        (GOOD.replace("very sad", "verysad"), "wrong_classes"),
        (GOOD.replace('"happy"', '"happiness"'), "wrong_classes"),
        # numbers that may mean two things, or nothing
        (GOOD.replace("0.2", '"20%"').replace("0.3", "30").replace("0.5", "50"), "bad_numbers"),
        (GOOD.replace("0.2", '"0,2"'), "bad_numbers"),
        (GOOD.replace("0.2", '"about 0.2"'), "bad_numbers"),
        (GOOD.replace("0.2", '"-0.2"'), "bad_numbers"),
        (GOOD.replace("0.2", '"nan"'), "bad_numbers"),
        (GOOD.replace("0.2", "NaN"), "bad_numbers"),
        (GOOD.replace("0.2", "-Infinity"), "bad_numbers"),
        (GOOD.replace("0.2", "[0.2]"), "bad_numbers"),
        (GOOD.replace("0.2", "true"), "bad_numbers"),
        (GOOD.replace("0.2", "high"), "bad_numbers"),
        (GOOD.replace("0.2", "1e308").replace("0.3", "1e308"), "bad_numbers"),
        (GOOD.replace("0.2", '"1e999"'), "bad_numbers"),
        (GOOD.replace("0.2", "9" * 400), "bad_numbers"),
        (GOOD.replace("0.2", "9" * 5000), "unparsable"),
        (GOOD.replace("0.2", "0.2.1"), "unparsable"),
        (GOOD[:-1], "unparsable"),
        (GOOD.replace(",", ""), "unparsable"),
        (GOOD.replace(",", ",,"), "unparsable"),
    ],
)
def test_two_readings_or_none_are_a_failure(text: str, kind: str) -> None:
    failure = parse(text)
    assert isinstance(failure, Failure), failure
    assert failure.kind == kind
    assert failure.reply is not None
    assert failure.reply.text == text


def test_a_sum_that_is_no_whole_is_kept_as_it_is() -> None:
    parsed = parse(GOOD.replace("0.2", "1").replace("0.3", "2").replace("0.5", "1"))
    assert isinstance(parsed, Answer)
    assert parsed.probabilities[0] == pytest.approx([0.25, 0.5, 0.25])
    assert parsed.sums[0] == pytest.approx(4)


def test_classes_that_differ_in_case_only_are_kept_apart() -> None:
    shape = ReplyShape(1, ("Happy", "happy"))
    parsed = replies.parse(Reply('{"1": {"Happy": 0.9, "happy": 0.1}}', "stop"), shape)
    assert isinstance(parsed, Answer)
    assert parsed.probabilities == [[0.9, 0.1]]
    assert isinstance(replies.parse(Reply('{"1": {"Happy": 0.9, "HAPPY": 0.1}}', "stop"), shape), Failure)


def test_one_utterance_needs_no_number() -> None:
    parsed = parse(FIRST, count=1)
    assert isinstance(parsed, Answer)
    assert isinstance(parse(FIRST, count=2), Failure)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"1": ' + "[" * 100_000,
        "{a" * 100_000,
        "[{" * 100_000,
        '{"1": "' + "\\" * 900_001,
        '{"1": ' + "1" * 900_000 + "x}",
        "{'" * 300_000,
        "{/*" * 100_000,
        "{/*" + "*" * 900_000,
        "{a " + "b " * 450_000,
        "x" * 5_000_000,
        '{"\ud800": {"happy": 1}, "1": "\\ud800\0"}',
        "\0" * 1000,
        '{"\\ud800": 1, "\\udfff": {"happy\\u0000": 1}}',
        "1: " * 300_000,
        json.dumps({str(n): {"happy": 1} for n in range(20_000)}),
    ],
)
@pytest.mark.parametrize("elicitation", ["json", "letters"])
def test_no_content_raises_or_takes_long(text: str, elicitation: str) -> None:
    top = [{"token": "A", "logprob": 10**400}]
    tokens = [{"token": part, "logprob": 0.0, "top_logprobs": top} for part in text[:100_000]]
    reply = Reply(text, "stop", logprobs=tokens if elicitation == "logprobs" else None)
    start = time.process_time()
    failure = replies.parse(reply, ReplyShape(2, CLASSES, elicitation))
    assert isinstance(failure, Failure)
    failure.message.encode()
    assert time.process_time() - start < 10


@given(st.text(alphabet="{}[]:,\"'12.%# hapysdver\\/*\n-", max_size=120))
def test_any_mix_of_marks_parses_or_fails(text: str) -> None:
    assert isinstance(parse(text, count=1), Answer | Failure)


NUMBERS = st.floats(0, 1e12) | st.integers(0, 10**13) | st.sampled_from(["40%", "0.4", 1e308, 5e-324, 10**400, True])
NAMES = st.sampled_from(["happy", "HAPPY", "sad", " sad", "very sad", "other", "id"])
KEYS = st.sampled_from(["1", "1.", "#2", "2", "utterance 2", "answer", "0", "3"])
VECTORS = st.dictionaries(NAMES, NUMBERS, max_size=5)


@given(st.dictionaries(KEYS, VECTORS | st.dictionaries(KEYS, VECTORS, max_size=3), max_size=4))
def test_whatever_is_read_is_probabilities(value: object) -> None:
    parsed = parse(json.dumps(value))
    if isinstance(parsed, Answer):
        for row in parsed.probabilities:
            assert len(row) == len(CLASSES)
            assert all(0 <= number <= 1 for number in row)
            assert sum(row) == pytest.approx(1)
