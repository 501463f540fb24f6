from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import FailureKind, UserError
from lantern.refine.backends.simulated import SimulatedConfig, oracle, simulate
from lantern.refine.prompt import Prompt
from lantern.refine.questions import RefineConfig, Refiner, RefineStats
from lantern.refine.reply import parse
from lantern.refine.types import Failure, Outcome, Reply, Request, Stored, Usage
from lantern.tables import PredictionTable, Row
from tests.composed import compose
from tests.rows import table_from_rows

LABELS = LabelSet("two", ("happy", "sad"))


def dialogues(lengths: Sequence[int]) -> dict[str, Dialogue]:
    made = {}
    for number, length in enumerate(lengths):
        turns = tuple(Utterance(f"d{number}_{i}", "AB"[i % 2], f"line {number} {i}", i % 2) for i in range(length))
        made[f"d{number}"] = Dialogue(f"d{number}", turns)
    return made


def table_of(found: dict[str, Dialogue]) -> PredictionTable:
    rows = [
        Row(d.id, u.id, i, u.speaker, u.label, None, [0.5, 0.5])
        for d in found.values()
        for i, u in enumerate(d.utterances)
    ]
    return table_from_rows(LABELS.classes, rows, "dev")


class ScriptedEngine:
    """Replies by a function of the request; follow-ups are sent as the real engine does."""

    def __init__(self, answer: Callable[[Request], Stored]) -> None:
        self.answer, self.calls, self.asked = answer, 0, []

    def run(
        self, requests: Sequence[Request], follow_up: Callable[[Request, Outcome], Request | None] | None = None
    ) -> list[list[Outcome]]:
        histories = []
        for request in requests:
            history = [self._ask(request)]
            again = follow_up(request, history[0]) if follow_up else None
            if again is not None:
                history.append(self._ask(again))
            histories.append(history)
        return histories

    def _ask(self, request: Request) -> Outcome:
        self.calls += 1
        self.asked.append(request)
        stored = self.answer(request)
        assert request.shape is not None
        return parse(stored, request.shape) if isinstance(stored, Reply) else stored


def refiner(found: dict[str, Dialogue], simulated: SimulatedConfig | None = None, **settings: object) -> Refiner:
    config = compose(["llm=simulated"])
    refine = dataclasses.replace(RefineConfig(stride=2, coverage=2), **settings)
    return Refiner(found, Prompt(config.prompt, LABELS, None), refine, config.llm, simulated)


cut = Failure(FailureKind.CUT_OFF, reply=Reply("{", "length"))


def good(request: Request) -> Reply:
    assert request.shape is not None
    return Reply(request.shape.write([[3, 1]] * request.shape.count), "stop", Usage(10, 4, 5), cost=0.5)


def test_every_utterance_gets_one_entry_per_band() -> None:
    found = dialogues([5, 1])
    table, stats = refiner(found).refine(table_of(found), ScriptedEngine(good))
    for row in table:
        assert [entry.band for entry in row.fields] == [0, 1]
        assert all(entry.probabilities == [0.75, 0.25] and entry.raw_sum == 4 for entry in row.fields)
    assert stats.fields == 4 + 2
    assert stats.failed_fields == 0
    assert stats.cost == pytest.approx(0.5 * stats.prompts)
    assert stats.cached_input_tokens == 4 * stats.prompts


def test_fields_that_read_the_same_are_paid_once() -> None:
    found = dialogues([1])
    _, stats = refiner(found).refine(table_of(found), ScriptedEngine(good))
    assert (stats.fields, stats.prompts) == (2, 1)
    assert stats.cost == 0.5


def test_a_failure_masks_its_field_and_is_counted() -> None:
    found = dialogues([4])
    broken = Reply("no idea", "stop", Usage(1, 0, 1), cost=0.1)

    def answer(request: Request) -> Stored:
        if "line 0 0" in request.messages[1]["content"] and "line 0 2" not in request.messages[1]["content"]:
            return Failure(FailureKind.UNPARSABLE, "there is no JSON object in it", reply=broken)
        return good(request)

    table, stats = refiner(found).refine(table_of(found), ScriptedEngine(answer))
    assert stats.failures == {"unparsable": 1}
    assert table.row(0).fields[0].failure == "unparsable"
    assert table.row(0).fields[1].probabilities is not None
    assert table.fields is not None
    assert table.fields.mask.sum() == table.fields.mask.size - 2
    assert stats.cost == pytest.approx(2 * 0.5 + 2 * 0.1)


def test_one_repair_turn_shows_the_error() -> None:
    found = dialogues([2])

    def answer(request: Request) -> Stored:
        if len(request.messages) == 2:
            return Failure(FailureKind.INCOMPLETE, "utterances missing: 2", reply=Reply('{"1": 0}', "stop"))
        return good(request)

    engine = ScriptedEngine(answer)
    table, stats = refiner(found).refine(table_of(found), engine)
    assert stats.repaired == stats.fields
    assert all(entry.repaired for row in table for entry in row.fields)
    assert engine.asked[1].messages[2] == {"role": "assistant", "content": '{"1": 0}'}
    assert "utterances missing: 2" in engine.asked[1].messages[3]["content"]
    assert engine.asked[1].key != engine.asked[0].key


def test_cut_off_is_asked_again_with_room_and_transport_failures_are_not_repaired() -> None:
    found = dialogues([2])
    asking = refiner(found)
    request = asking.questions(table_of(found))[0].requests[0]
    again = asking.repair(request, Failure(FailureKind.CUT_OFF, reply=Reply("{", "length")))
    assert again is not None
    assert again.sampling["max_tokens"] == 2 * request.sampling["max_tokens"]
    assert asking.repair(request, Failure(FailureKind.TIMEOUT)) is None
    for kind in ("no_logprobs", "low_mass"):  # the same question would bring the same numbers
        assert asking.repair(request, Failure(FailureKind(kind), reply=Reply("1: A", "stop"))) is None
    assert (
        refiner(found, repair=False).repair(request, Failure(FailureKind.CUT_OFF, reply=Reply("{", "length"))) is None
    )


def test_a_repair_turn_that_fails_too_mended_nothing() -> None:
    found = dialogues([2])
    engine = ScriptedEngine(lambda r: Failure(FailureKind.UNPARSABLE, "no", reply=Reply("no", "stop")))
    table, stats = refiner(found).refine(table_of(found), engine)
    assert (stats.calls, stats.repaired, stats.failed_fields) == (2 * stats.fields, 0, stats.fields)
    assert not any(entry.repaired for row in table for entry in row.fields)


def test_refining_again_takes_the_place_of_what_was_there() -> None:
    found = dialogues([3])
    table = table_of(found)
    for _ in range(2):
        table, _ = refiner(found).refine(table, ScriptedEngine(good))
        assert [[entry.band for entry in row.fields] for row in table] == [[0, 1]] * 3


def test_each_entry_says_where_its_utterance_sits() -> None:
    found = dialogues([5])
    both, _ = refiner(found).refine(table_of(found), ScriptedEngine(good))
    causal, _ = refiner(found, context="causal").refine(table_of(found), ScriptedEngine(good))
    # Fields [0, 2), [0, 4), [2, 5), [4, 5); of each utterance the field of band 0, then that of band 1.
    places = [[(entry.length, entry.position) for entry in row.fields] for row in both]
    assert places[:2] == [[(2, 0), (4, 0)], [(2, 1), (4, 1)]]
    assert places[2:] == [[(4, 2), (3, 0)], [(4, 3), (3, 1)], [(3, 2), (1, 0)]]
    # Of a causal field it is the last one; there are two or four turns, as far as the dialogue goes back.
    places = [[(entry.length, entry.position) for entry in row.fields] for row in causal]
    lengths = [(1, 1), (2, 2), (2, 3), (2, 4), (2, 4)]
    assert places == [[(n, n - 1) for n in pair] for pair in lengths]
    asked = refiner(found, SimulatedConfig(), context="causal").questions(causal)
    shares = [question.requests[0].oracle["context"] for question in asked]  # type: ignore[index]
    assert shares == [n / 4 for pair in lengths for n in pair]


def test_a_cost_that_is_not_known_is_not_stated() -> None:
    found = dialogues([3])

    def answer(request: Request) -> Stored:
        return dataclasses.replace(good(request), cost=None if "line 0 2" in request.messages[1]["content"] else 0.5)

    _, unknown = refiner(found).refine(table_of(found), ScriptedEngine(answer))
    assert unknown.cost is None
    _, known = refiner(found).refine(table_of(found), ScriptedEngine(good))
    assert known.cost == 0.5 * known.prompts
    whole = RefineStats(failures={"refusal": 2}, cost=1.0, cached_input_tokens=1)
    whole.add(dataclasses.replace(known, failures={"cut_off": 1, "refusal": 1}))
    assert whole.cost == 1.0 + 0.5 * known.prompts
    assert whole.failures == {"cut_off": 1, "refusal": 3}
    assert (whole.calls, whole.cached_input_tokens) == (known.calls, 1 + known.cached_input_tokens)
    whole.add(unknown)
    assert whole.cost is None


def test_the_transcript_must_be_whole() -> None:
    found = dialogues([3])
    table = table_of(found).select([0, 2])
    with pytest.raises(ValueError, match="do not cover its transcript"):
        refiner(found).questions(table)


@pytest.mark.parametrize("setting", [{"stride": 0}, {"coverage": 0}, {"max_cost": -1.0}, {"limit_dialogues": 0}])
def test_nonsense_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"refine.{next(iter(setting))}="):
        RefineConfig(**setting)


def simulated_accuracy(config: SimulatedConfig, band: int) -> float:
    found = dialogues([40] * 10)
    table, _ = refiner(found, config).refine(table_of(found), ScriptedEngine(simulate))
    assert table.fields is not None
    assert table.fields.mask.all()
    return float((table.fields.probabilities[:, band].argmax(axis=1) == table.labels).mean())


def test_the_simulated_skill_is_the_stated_one() -> None:
    skilled = SimulatedConfig(skill=3.0, noise=1.0, band_decay=0.2)
    assert simulated_accuracy(skilled, 0) > 0.9
    assert simulated_accuracy(skilled, 0) > simulated_accuracy(skilled, 1) + 0.15
    assert abs(simulated_accuracy(SimulatedConfig(skill=0.0), 0) - 0.5) < 0.1


def test_the_simulated_reply_is_a_function_of_the_request() -> None:
    found = dialogues([6])
    first, _ = refiner(found, SimulatedConfig()).refine(table_of(found), ScriptedEngine(simulate))
    second, _ = refiner(found, SimulatedConfig()).refine(table_of(found), ScriptedEngine(simulate))
    assert first.fields is not None
    assert second.fields is not None
    np.testing.assert_array_equal(first.fields.probabilities, second.fields.probabilities)


def test_the_simulated_reply_follows_its_settings() -> None:
    def reply(config: SimulatedConfig, context: float = 1.0, band: int = 0) -> list[float]:
        given = oracle(config, LABELS.classes, [0, None], [band, band], context, [[0.9, 0.1], [0.2, 0.8]], 0)
        request = Request("simulated", "m", None, ({"role": "user", "content": "x"},), {}, oracle=given)
        values = json.loads(simulate(request).text)
        return [values["1"]["happy"], values["2"]["happy"]]

    def odds(skill: float) -> float:
        return 1 / (1 + np.exp(-skill))

    silent = SimulatedConfig(skill=2.0, noise=0.0, band_decay=0.5, context_exponent=2.0)
    assert reply(silent) == pytest.approx([odds(2.0), 0.5], abs=1e-3)
    assert reply(silent, context=0.5) == pytest.approx([odds(2.0 * 0.25), 0.5], abs=1e-3)
    assert reply(silent, band=2) == pytest.approx([odds(2.0 * 0.25), 0.5], abs=1e-3)
    assert reply(SimulatedConfig(skill=0.0, noise=0.0, trust=1.0)) == pytest.approx([0.9, 0.2], abs=1e-3)
    # Half the log-odds of the prediction: 0.9 / 0.1 becomes 3.
    assert reply(SimulatedConfig(skill=0.0, noise=0.0, trust=0.5))[0] == pytest.approx(0.75, abs=1e-3)


def test_simulated_failures_come_at_their_rate() -> None:
    found = dialogues([40] * 10)
    _, stats = refiner(found, SimulatedConfig(failure_rate=0.25), repair=False).refine(
        table_of(found), ScriptedEngine(lambda r: reply if (reply := simulate(r)).finish_reason == "stop" else cut)
    )
    assert stats.failed_fields == pytest.approx(0.25 * stats.fields, rel=0.3)


def test_simulated_failures_are_cut_off() -> None:
    found = dialogues([9])
    asking = refiner(found, SimulatedConfig(failure_rate=1.0))
    request = asking.questions(table_of(found))[0].requests[0]
    assert request.shape is not None
    failure = parse(simulate(request), request.shape)
    assert isinstance(failure, Failure)
    assert failure.kind == "cut_off"


def shown_of(request: Request) -> list[str]:
    """Number and words of every line of the dialogue in a prompt."""
    lines = request.messages[1]["content"].partition("</dialogue>")[0].splitlines()[1:]
    return [f"{line.split()[0]} {json.loads(line.partition(': ')[2].partition(' [')[0])}" for line in lines]


def test_context_lines_are_shown_and_not_asked_about() -> None:
    found = dialogues([9])
    plain, table = refiner(found).questions(table_of(found)), table_of(found)
    wide = refiner(found, before=3, after=1)
    questions = wide.questions(table)
    assert [q.rows for q in questions] == [q.rows for q in plain]
    assert [q.shape for q in questions] == [q.shape for q in plain]
    field = questions[2]
    assert (field.field.start, field.field.stop) == (2, 6)
    numbers = ["-", "-", "1.", "2.", "3.", "4.", "-"]
    assert shown_of(field.requests[0]) == [f"{number} line 0 {i}" for i, number in enumerate(numbers)]
    assert field.requests[0].messages[1]["content"].endswith(plain[2].requests[0].messages[1]["content"][-40:])
    engine = ScriptedEngine(good)
    refined, stats = wide.refine(table, engine)
    assert stats.failed_fields == 0
    assert refined.fields is not None
    first = refiner(found).refine(table, ScriptedEngine(good))[0].fields
    assert first is not None
    for name in ("probabilities", "lengths", "positions"):  # a field is as long as before
        np.testing.assert_array_equal(getattr(refined.fields, name), getattr(first, name))


def test_context_lines_of_a_causal_field_come_before_it() -> None:
    found = dialogues([6])
    questions = refiner(found, context="causal", before=2).questions(table_of(found))
    for question in questions:
        (row,) = question.rows
        lines = shown_of(question.requests[0])
        assert lines[-1] == f"1. line 0 {row}"
        assert lines[:-1] == [f"- line 0 {i}" for i in range(max(0, question.field.start - 2), row)]
    with pytest.raises(UserError, match=r"refine\.after=2: with refine\.context=causal .* refine\.after=0"):
        RefineConfig(context="causal", after=2)
    with pytest.raises(UserError, match=r"refine\.before=-1"):
        RefineConfig(before=-1)


def test_the_simulated_llm_sees_the_share_of_the_context_that_is_there() -> None:
    found = dialogues([12])
    questions = refiner(found, SimulatedConfig(), before=3, after=1).questions(table_of(found))
    shares = [(question.requests[0].oracle or {})["context"] for question in questions]
    assert shares == [pytest.approx(lines / 8, abs=1e-6) for lines in (3, 5, 7, 8, 8, 7, 5)]


def test_the_utterances_of_a_field_are_asked_about_one_by_one() -> None:
    found, table = dialogues([9, 1]), table_of(dialogues([9, 1]))
    together = refiner(found, before=2)
    alone = refiner(found, before=2, independent=True)
    asked = together.questions(table)
    single = alone.questions(table)
    assert [(q.field, (row,)) for q in asked for row in q.rows] == [(q.field, q.rows) for q in single]
    assert {question.shape.count for question in single} == {1}
    wholes = {(question.field, question.rows[0] // 9): question.requests[0] for question in asked}
    for question in single:
        lines = shown_of(question.requests[0])
        whole = shown_of(wholes[question.field, question.rows[0] // 9])
        assert [line.split(maxsplit=1)[1] for line in lines] == [line.split(maxsplit=1)[1] for line in whole]
        (numbered,) = [line for line in lines if not line.startswith("-")]
        assert numbered == f"1. line {question.rows[0] // 9} {question.targets[0]}"
    # What comes before the utterance reads alike, so that providers need not read it again.
    starts = [q.requests[0].messages[1]["content"].partition("1. ")[0] for q in single[2:6]]
    assert len({question.field for question in single[2:6]}) == 1
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(starts))

    def answer(request: Request) -> Stored:
        spoken = int(next(line for line in shown_of(request) if line.startswith("1. ")).split()[-1])
        return Reply(json.dumps({"1": {"happy": (spoken + 1) / 10, "sad": 1 - (spoken + 1) / 10}}), "stop")

    refined, stats = alone.refine(table, ScriptedEngine(answer))
    assert (stats.fields, stats.failed_fields) == (len(single), 0)
    assert refined.fields is not None
    expected = [(i + 1) / 10 for i in [*range(9), 0]]
    np.testing.assert_allclose(refined.fields.probabilities[:, :, 0], np.array([expected, expected]).T)
    for name in ("lengths", "positions"):
        first = together.refine(table, ScriptedEngine(good))[0].fields
        np.testing.assert_array_equal(getattr(refined.fields, name), getattr(first, name))


def test_a_failure_of_one_utterance_leaves_the_others() -> None:
    found = dialogues([4])

    def answer(request: Request) -> Stored:
        return Failure(FailureKind.TIMEOUT) if any(s == "1. line 0 2" for s in shown_of(request)) else good(request)

    refined, stats = refiner(found, independent=True).refine(table_of(found), ScriptedEngine(answer))
    assert refined.fields is not None
    assert refined.fields.mask.tolist() == [[True, True], [True, True], [False, False], [True, True]]
    assert stats.unanswered == stats.failed_fields == 2
