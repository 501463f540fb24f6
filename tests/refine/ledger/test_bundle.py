"""A bundle lets others redo a result without an LLM, and holds no word of what was said."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.ledger import main
from lantern.corpora.types import LabelSet, Utterance
from lantern.errors import FailureKind, UserError
from lantern.pipeline import preflight as prepare
from lantern.pipeline.preflight import preflight
from lantern.pipeline.run import run
from lantern.refine.backends.base import Backend
from lantern.refine.backends.config import BackendConfig, make_request
from lantern.refine.ledger.bundle import DAMAGED, KNOWN, NO_NUMBERS, NO_SHAPE, QUOTES, export_bundle, import_bundle
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.schema import request_json, request_of
from lantern.refine.prompt import Prompt, Turn
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Failure, Reply, Request, Usage
from tests.composed import compose
from tests.pipeline.test_run import Recorder

Tiny = Callable[..., list[str]]


class Chatty(Backend):
    """Quotes the dialogue in every third first reply, refuses the repair of some, and else answers with numbers."""

    def __init__(self, config: Any, forbidden: bool = False) -> None:
        super().__init__(config)
        self.forbidden = forbidden

    async def call(self, request: Request, timeout: float) -> Reply:
        assert not self.forbidden, "the LLM was asked"
        number = int(request.key[:8], 16)
        usage = Usage(100, 10, 20)
        if len(request.messages) == 2 and number % 3 == 0:
            return Reply(f"They say: {request.messages[1]['content']}", "stop", usage, 0.01, model="chatty")
        if len(request.messages) == 4 and number % 2 == 0:
            return Reply("I'm sorry, I cannot do that.", "stop", usage, 0.01, model="chatty")
        rng = np.random.default_rng(number)
        shape = request.shape
        assert shape is not None
        vectors = rng.random((shape.count, len(shape.classes))).tolist()
        return Reply(f"Here: {shape.write(vectors)}", "stop", usage, 0.01, model="chatty")


@pytest.fixture
def chatty(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def install(forbidden: bool) -> None:
        monkeypatch.setattr(prepare, "backend_of", lambda config: Chatty(config.llm, forbidden))

    return install


def go(overrides: list[str]) -> dict[str, Any]:
    return run(preflight(compose([*overrides, "llm=vllm", "llm.free=true"])), Recorder())


def test_results_come_back_from_a_bundle_without_an_llm(
    tiny: Tiny, tmp_path: Path, chatty: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    chatty(False)
    first = go(tiny("trainer.epochs=1"))
    assert first["llm"]["repaired"] > 0
    assert first["llm"]["failures"].get("refusal", 0) > 0
    bundle, ledger = tmp_path / "answers.jsonl", tmp_path / "runs" / "ledger.sqlite"
    assert main(["export", str(bundle), "--ledger", str(ledger)]) == 0
    assert main(["import", str(bundle), "--ledger", str(tmp_path / "new.sqlite")]) == 0
    assert "left out" not in capsys.readouterr().out
    chatty(True)
    again = go(tiny("trainer.epochs=1", f"refine.ledger={tmp_path}/new.sqlite"))
    assert again["llm"]["calls"] == 0
    assert again["test"] == first["test"]
    assert again["weighting"] == first["weighting"]
    for name in ("failures", "repaired", "cost", "input_tokens", "output_tokens"):
        assert again["llm"][name] == first["llm"][name]
    corpus = preflight(compose(tiny())).corpus
    text = bundle.read_text()
    assert not [u.text for u in corpus.utterances if len(u.text) > 3 and u.text in text]
    assert not any(word in text for word in ("sorry", "They say", "Here:", "<dialogue>"))
    assert Ledger(tmp_path / "new.sqlite").verify() > 0
    assert main(["import", str(bundle), "--ledger", str(tmp_path / "new.sqlite")]) == 0
    assert "0 answers and 0 failures are new" in capsys.readouterr().out


def test_what_holds_no_probabilities_stays_at_home(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l.sqlite")
    system = {"role": "system", "content": "Emotions:\n- happy: glad\n- sad: low"}
    user = {"role": "user", "content": '<dialogue>\n1. A: "x"\n</dialogue>\nGo.'}
    shape = ReplyShape(1, ("happy", "sad"))
    good = Request("p", "m", None, (system, user), {}, shape=shape)
    ledger.store_reply(good, Reply('{"1": {"happy": 0.123456789, "sad": 0.5}} secret words', "stop"))
    ledger.store_reply(Request("p", "m", None, (user,), {}), Reply('{"1": {"happy": 1, "sad": 0}}', "stop"))
    other = Request("p", "n", None, (system, user), {})
    ledger.store_failure(other, Failure(FailureKind.REFUSAL, "secret", 200, Reply("secret", "stop")))
    words = Request("p", "o", None, (system, user), {}, shape=shape)
    ledger.store_reply(words, Reply("only words", "stop"))
    counts = export_bundle(ledger, tmp_path / "b.jsonl")
    assert (counts.answers, counts.failures, counts.skipped) == (1, 1, {NO_SHAPE: 1, NO_NUMBERS: 1})
    assert "secret" not in (tmp_path / "b.jsonl").read_text()
    target = Ledger(tmp_path / "t.sqlite")
    import_bundle(target, tmp_path / "b.jsonl")
    found = target.get(good.key)
    assert isinstance(found, Reply)
    assert json.loads(found.text) == {"1": {"happy": 0.123456789, "sad": 0.5}}
    failed = target.get(other.key)
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.status, failed.message) == ("refusal", 200, "")
    assert target.stored() == []


def test_a_prompt_with_a_list_of_its_own_is_exported(tmp_path: Path) -> None:
    config = compose([])
    system = "- Tone: judge the words only\n- Length: short\n" + config.prompt.system
    labels = LabelSet("two", ("happy", "sad"))
    prompt = Prompt(replace(config.prompt, system=system), labels, None)
    turn = Turn(Utterance("u", "A", "Hello."), [0.5, 0.5])
    request = make_request(config.llm, prompt.messages([turn]), prompt.shape(1))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.store_reply(request, Reply('{"1": {"happy": 0.5, "sad": 0.5}}', "stop"))
        counts = export_bundle(ledger, tmp_path / "b.jsonl")
    assert (counts.answers, counts.skipped) == (1, {})


def test_rows_of_an_older_lantern_are_exported_by_their_schema(tmp_path: Path) -> None:
    shape = ReplyShape(1, ("happy", "sad"))
    config = BackendConfig(name="t", model="openai/m")
    request = replace(make_request(config, [{"role": "user", "content": "x"}], shape), shape=None)
    quoting = replace(request, messages=(*request.messages, {"role": "assistant", "content": "words"}))
    with Ledger(tmp_path / "l.sqlite") as ledger:
        for one in (request, quoting):
            ledger.store_reply(one, Reply('{"1": {"happy": 0.5, "sad": 0.5}}', "stop"))
        counts = export_bundle(ledger, tmp_path / "b.jsonl")
        assert (counts.answers, counts.skipped) == (1, {QUOTES: 1})
        assert {stored.shape for stored, _ in ledger.stored()} == {shape}
        assert ledger.verify() == 2


def test_a_shape_stored_under_the_older_name_is_one_by_letters() -> None:
    request = Request(
        "p", "m", None, ({"role": "user", "content": "x"},), {}, shape=ReplyShape(2, ("a", "b"), "letters")
    )
    older = request_json(request).replace('"letters"', '"logprobs"')
    assert request_of(older) == request
    assert '"logprobs"' in older


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is not a bundle"),
        ("[1]\n", "is not a bundle"),
        ('{"format": "lantern-bundle", "version": 2}\n', "version 2"),
        ('{"format": "lantern-bundle", "version": 1}\nnope\n', "line 2: not a bundle row"),
        ('{"format": "lantern-bundle", "version": 1}\n{"key": "a", "backend": "x"}\n', "line 2: not a bundle row"),
    ],
)
def test_a_bad_bundle_changes_nothing(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "b").write_text(content)
    ledger = Ledger(tmp_path / "l.sqlite")
    with pytest.raises(UserError, match=told):
        import_bundle(ledger, tmp_path / "b")
    assert ledger.stats().answers == 0
    with pytest.raises(UserError, match="cannot be read"):
        import_bundle(ledger, tmp_path / "none")


@pytest.fixture
def filled(place: str) -> str:
    with Ledger(place) as ledger:
        for n, (model, created) in enumerate((("m_1", 1e9), ("m_1", 2e9), ("mx1", 1e9))):
            asked_of = Request("openai", model, None, ({"role": "user", "content": str(n)},), {})
            ledger.store_reply(
                asked_of, Reply("x", "stop", Usage(7, 2, 3), 0.5, model=f"{model}-2026", created=created)
            )
        refused = Request("openai", "m_1", None, ({"role": "user", "content": "f"},), {})
        ledger.store_failure(refused, Failure(FailureKind.REFUSAL, "no", None, Reply("no", "stop")))
    return place


def test_stats_verify_and_retry(filled: str, capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--ledger", filled]
    assert main(["stats", *at]) == 0
    out = capsys.readouterr().out
    assert "answers         3, from 2001-09-09 to 2033-05-18" in out
    assert "m_1-2026: 2" in out
    assert "refusal 1" in out
    assert "21 in (6 of them from the provider's cache), 9 out" in out
    assert "$1.5000, and 1 replies of unknown price" in out
    assert main(["verify", *at]) == 0
    assert "3 answers, every one is what was stored" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"no failure 'refusl'\. Did you mean 'refusal'"):
        main(["retry-failed", "--kinds", "refusl", *at])
    assert main(["retry-failed", "--kinds", "cut_off", *at]) == 0  # there is none, and that is no mistake
    assert "0 failures will be sent again" in capsys.readouterr().out
    assert main(["retry-failed", "--kinds", "refusal", *at]) == 0
    assert Ledger(filled).stats().settled_failures == 0


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--failures"], (3, 0)),
        (["--model", "openai/m_1"], (1, 1)),
        (["--model", "mx1-2026"], (2, 1)),
        (["--answers-older-than", "1000"], (1, 1)),
        (["--answers-older-than", "1000", "--model", "openai/m_1"], (2, 1)),
    ],
)
def test_prune_asks_first(
    filled: str, options: list[str], left: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", *options, "--ledger", filled]) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert Ledger(filled).stats().answers == 3
    assert main(["prune", *options, "--yes", "--ledger", filled]) == 0
    stats = Ledger(filled).stats()
    assert (stats.answers, sum(stats.failures.values())) == left


def test_mistakes(filled: str, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    at = ["--ledger", filled]
    for arguments, told in (
        (["stats", "--ledger", "/none"], "--ledger=/none: no such file"),
        (["prune", *at], "prune what"),
        (["prune", "--answers-older-than", "-1", *at], "must be 0 or more"),
        (["export", f"{tmp_path}/there", *at], "exists"),
        (["burn", *at], "invalid choice"),
    ):
        with pytest.raises(UserError, match=told):
            main(arguments)


GOOD = {
    "key": "a" * 64,
    "backend": "openai/m",
    "reply": '{"1": {"happy": 0.5, "sad": 0.25}}',
    "finish_reason": "stop",
    "usage": [10, 4, 5],
    "cost": 0.25,
    "latency": 1.5,
    "model": "m-2026",
    "created": 123.0,
}
FAILED = {"key": "b" * 64, "backend": "openai/m", "kind": "refusal", "status": 200}


def line(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in GOOD.items() if key != name})


BAD_ROWS = [
    (line(cost=float("nan")), "NaN is no number of JSON"),
    (line(cost=float("inf")), "Infinity is no number of JSON"),
    (line().replace("0.25,", "-Infinity,", 1), "-Infinity is no number of JSON"),
    (line().replace('"cost": 0.25', '"cost": 1e999'), "cost is Infinity; it must be dollars from 0 to 1000000 or null"),
    (line(cost=-0.5), "cost is -0.5; it must be dollars from 0"),
    (line(cost="0.5"), 'cost is "0.5"; it must be'),
    (line(cost=True), "cost is true; it must be"),
    (line(cost=[1]), r"cost is \[1\]; it must be"),
    (line(latency={}), r"latency is \{\}; it must be seconds"),
    (line(latency=None), "latency is null; it must be"),
    (line(created=1e30), r"created is 1e\+30; it must be a Unix time"),
    (line(usage=[1, 2]), r"usage is \[1, 2\]; it must be three whole numbers"),
    (line(usage=[1, 2, 3.5]), "usage is"),
    (line(usage=[1, -2, 3]), "usage is"),
    (line(usage=[1, 2, 10**30]), "usage is"),
    (line(usage=[1, True, 2]), "usage is"),
    (line(usage={"input": 1}), "usage is"),
    (line(usage=None), "usage is null"),
    (line(model=7), "model is 7; it must be text"),
    (line(model="\ud800"), r"model is \"\\ud800\"; it must be text in UTF-8"),
    (line(finish_reason=["stop"]), "finish_reason is"),
    (line(backend="openai"), 'backend is "openai"; it must be provider/model'),
    (line(backend=["openai", "m"]), "backend is"),
    (line(key="a" * 63), 'key is "aaa'),
    (line(key="A" * 64), 'key is "AAA'),
    (line(key=5), "key is 5; it must be 64 digits"),
    (line(reply=None), "reply is null; it must be JSON of a probability"),
    (line(reply={"1": {"happy": 1}}), "reply is"),
    (line(reply="words"), 'reply is "words"'),
    (line(reply='{"1": {"happy": NaN}}'), "reply is"),
    (line(reply='{"1": {"happy": 1e999}}'), "reply is"),
    (line(reply='{"1": {"happy": -0.1, "sad": 1}}'), "reply is"),
    (line(reply='{"1": {"happy": true}}'), "reply is"),
    (line(reply='{"1": {"happy": "0.5"}}'), "reply is"),
    (line(reply='{"1": {"happy": 0}}'), "reply is"),
    (line(reply='{"1": {"happy": 1, "happy": 1}}'), "reply is"),
    (line(reply='{"2": {"happy": 1}}'), "reply is"),
    (line(reply='{"1": {"happy": 1}, "2": {"sad": 1}}'), "reply is"),
    (line(reply='{"1": {"happy": 1}} she said'), "reply is"),
    (line(reply="{}"), "reply is"),
    (line(text="words"), "'text' is unknown"),
    (without("cost"), "'cost' is missing"),
    (without("key"), "'key' is missing"),
    (without("reply"), "'reply' is missing"),
    ('{"key": "x", ' + line()[1:], "the key 'key' is there twice"),
    (json.dumps({**FAILED, "kind": "bored"}), 'kind is "bored"; it must be one of empty, refusal, cut_off'),
    (json.dumps({**FAILED, "kind": "timeout"}), "kind is"),
    (json.dumps({**FAILED, "kind": ["refusal"]}), "kind is"),
    (json.dumps({**FAILED, "status": "200"}), "status is"),
    (json.dumps({**FAILED, "status": 10**20}), "status is"),
    (json.dumps({**GOOD, **FAILED}), "reply is .*; it must be empty, for a failure"),
    (json.dumps({**FAILED, "cost": 1.0}), "'cost' is unknown"),
    ("[]", r"it is \[\], not an object"),
    ("7", "it is 7, not an object"),
    ('{"key": ', "its JSON is broken at character"),
    ('{"key": ' + "9" * 5000 + "}", "a number in it is too long"),
    ("[" * 200_000, "its JSON is nested too deep"),
]


@pytest.mark.parametrize(("bad", "told"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_and_nothing_is_imported(tmp_path: Path, bad: str, told: str) -> None:
    head = json.dumps({"format": "lantern-bundle", "version": 1})
    (tmp_path / "b").write_text("\n".join([head, line(key="c" * 64), bad, line(key="d" * 64)]) + "\n")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(UserError, match=rf"b, line 3: not a bundle row: {told}") as error:
            import_bundle(ledger, tmp_path / "b")
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 600
        assert ledger.stats().answers == 0


def test_bytes_that_are_no_utf_8_are_named(tmp_path: Path) -> None:
    head = json.dumps({"format": "lantern-bundle", "version": 1}).encode()
    (tmp_path / "b").write_bytes(head + b"\n" + line().encode() + b"\n" + line().encode().replace(b"stop", b"st\xffp"))
    with Ledger(tmp_path / "l.sqlite") as ledger, pytest.raises(UserError, match=r"line 3: .*is not UTF-8"):
        import_bundle(ledger, tmp_path / "b")


def test_what_is_right_in_a_bundle_is_taken(place: str, tmp_path: Path) -> None:
    rows = [
        line(),
        line(),  # a second answer under the same key: the first one stays
        line(key="c" * 64, cost=None, latency=0, model=None, finish_reason=None, created=0, usage=[0, 0, 0]),
        json.dumps(FAILED),
        json.dumps({**GOOD, "reply": "", **FAILED, "key": "d" * 64, "status": None}),
    ]
    head = json.dumps({"format": "lantern-bundle", "version": 1})
    (tmp_path / "b").write_bytes("\r\n".join([head, *rows, "", ""]).encode())
    with Ledger(place) as ledger:
        counts = import_bundle(ledger, tmp_path / "b")
        assert (counts.answers, counts.failures, counts.skipped) == (2, 2, {KNOWN: 1})
        assert ledger.verify() == 2
        found = ledger.get("a" * 64)
        assert isinstance(found, Reply)
        assert found == Reply(GOOD["reply"], "stop", Usage(10, 4, 5), 0.25, 1.5, "m-2026", None, 123.0)  # type: ignore[arg-type]


def test_a_bundle_replaces_what_is_damaged_and_an_export_leaves_it_out(place: str, tmp_path: Path) -> None:
    shape = ReplyShape(1, ("happy", "sad"))
    asked = [Request("p", "m", None, ({"role": "user", "content": str(n)},), {}, shape=shape) for n in range(5)]
    with Ledger(place) as ledger:
        for one in asked:
            ledger.store_reply(one, Reply('{"1": {"happy": 0.5, "sad": 0.5}}', "stop"))
        assert export_bundle(ledger, tmp_path / "whole").skipped == {}
        schema = "" if ledger.store.dialect == "sqlite" else "lantern."
        damage = f"UPDATE {schema}answers SET text = 'x' WHERE key = '{asked[2].key}'"
        ledger.apply([lambda db: db.exec_driver_sql(damage)])
        counts = export_bundle(ledger, tmp_path / "rest")
        assert (counts.answers, counts.skipped) == (4, {DAMAGED: 1})
        again = import_bundle(ledger, tmp_path / "whole")
        assert (again.answers, again.skipped) == (1, {KNOWN: 4})
        assert isinstance(ledger.get(asked[2].key), Reply)
        with pytest.raises(UserError, match="is damaged"):
            ledger.verify()


@pytest.mark.parametrize(
    "bad", [line(cost=float("nan")), line(reply='{"1": {"happy": NaN}}'), line(usage=[1, 2, 2**70])]
)
def test_what_is_no_number_comes_into_neither_store(place: str, tmp_path: Path, bad: str) -> None:
    head = json.dumps({"format": "lantern-bundle", "version": 1})
    (tmp_path / "b").write_text("\n".join([head, line(key="c" * 64), bad]))
    assert main(["import", "--ledger", place, str(_good(tmp_path, head))]) == 0
    with pytest.raises(UserError, match="line 3: not a bundle row"):
        main(["import", "--ledger", place, str(tmp_path / "b")])
    with Ledger(place) as ledger:
        assert (ledger.verify(), ledger.stats().cost) == (1, 0.25)


def _good(folder: Path, head: str) -> Path:
    (folder / "good").write_text(f"{head}\n{line()}\n")
    return folder / "good"
