"""Prompts and replies behind a run, read back from its ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import lantern
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import FailureKind
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.reply import parse
from lantern.refine.types import Failure, Reply, Usage
from lantern.report.html import report_html
from lantern.results.comparison import compare_runs
from lantern.results.load import Run, read_run
from lantern.results.texts import Asked, asked_by, asked_of, refiner_of, texts_of
from lantern.tables import Fields, Row
from tests.composed import compose
from tests.rows import table_from_rows

Tiny = Callable[..., list[str]]


def test_every_kind_of_history_is_read_back_and_nothing_is_written(tmp_path: Path) -> None:
    corpus = generate_sample(dialogues=5)
    config = compose(["llm=gpt-4o", "refine.stride=2", "refine.coverage=2"])
    refiner = refiner_of(config, corpus.by_id, corpus.label_set, corpus.score_range)
    dialogue, classes = corpus.dialogues[0], corpus.label_set.classes
    vanilla = [1 / len(classes)] * len(classes)
    rows = [Row(dialogue.id, u.id, k, u.speaker, u.label, None, vanilla) for k, u in enumerate(dialogue.utterances)]
    table = table_from_rows(classes, rows)
    table = replace(table, fields=Fields.empty(len(table), 2, len(classes), 4))
    questions = refiner.questions(table)
    good, broken, refused = (question.requests[0] for question in questions[:3])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:

        def store(request: Any, text: str, **more: Any) -> None:
            ledger.store_reply(request, Reply(text, "stop", Usage(100, 0, 20), 0.001, 1.5, "gpt-4o-2024", **more))

        assert good.shape is not None
        store(good, good.shape.write([vanilla] * good.shape.count))
        store(broken, "not json")
        assert broken.shape is not None
        outcome = parse(Reply("not json", "stop"), broken.shape)
        repair = refiner.repair(broken, outcome)
        assert repair is not None
        store(repair, broken.shape.write([vanilla] * broken.shape.count))
        ledger.store_failure(refused, Failure(FailureKind.REFUSAL, "no"))
        before = ledger.stats()
        asked = asked_of(refiner, ledger, table)
        assert ledger.stats() == before
    first, second, third, fourth = asked.fields[:4]
    assert [(one.failure, one.repair) for one in first] == [("", False)]
    assert first[0].messages == tuple((m["role"], m["content"]) for m in good.messages)
    assert (first[0].tokens, first[0].cost, first[0].seconds, first[0].model) == ((100, 20), 0.001, 1.5, "gpt-4o-2024")
    assert [(bool(one.failure), one.repair) for one in second] == [(True, False), (False, True)]
    assert second[0].reply == "not json"
    assert any("not json" in text for _, text in second[1].messages)  # only what the repair turn adds
    assert len(second[1].messages) == len(repair.messages) - len(broken.messages)
    assert third[0].failure.startswith("refusal")
    assert fourth == []
    for number, question in enumerate(questions):
        at = [(row, question.field.band(i)) for row, i in zip(question.rows, question.targets, strict=True)]
        assert {int(asked.of[where]) for where in at} == {number}


@pytest.fixture
def run(tiny: Tiny) -> Run:
    return lantern.run_experiment(tiny())


def test_a_real_run_shows_every_prompt_where_its_text_may_be_shown(run: Run, tmp_path: Path) -> None:
    table, corpus = run.table(), texts_of(run, False).corpus
    assert corpus is not None
    asked = asked_by(run, corpus, table)
    assert isinstance(asked, Asked)
    assert all(len(attempts) == 1 and attempts[0].reply for attempts in asked.fields)
    assert (asked.of >= 0).all()
    for place in (0, len(table) // 2, len(table) - 1):
        text = corpus.by_id[table.dialogues[place]].utterances[table.indices[place]].text
        for band in range(table.coverage):
            assert text in asked.fields[asked.of[place, band]][0].messages[-1][1]
    page, notes = report_html(compare_runs([run]), [], False)
    assert '"asked":' in page
    assert notes == []
    moved = run.folder.parent.rename(tmp_path / "elsewhere")  # the ledger beside the run goes with it
    page, notes = report_html(compare_runs([read_run(moved / run.folder.name)]), [], False)
    assert '"asked":' in page
    (moved / "ledger.sqlite").unlink()
    page, (note,) = report_html(compare_runs([read_run(moved / run.folder.name)]), [], False)
    assert '"asked":' not in page
    assert "ledger.sqlite is not there" in note
    assert not (moved / "ledger.sqlite").exists()


def test_a_corpus_that_may_not_be_passed_on_lends_its_prompts_no_word(tiny: Tiny, tmp_path: Path) -> None:
    corpus = replace(generate_sample(dialogues=15), redistribution="forbidden")
    path = corpus.save(tmp_path / "closed")
    run = lantern.run_experiment(tiny(f"corpus.path={path}"))
    page, (note,) = report_html(compare_runs([run]), [], False)
    assert '"asked":' not in page
    assert "forbids passing its text on" in note
    words = run.table().utterances[0]
    text = next(u.text for u in corpus.utterances if u.id == words)
    assert text not in page
    page, _ = report_html(compare_runs([run]), [], True)
    assert '"asked":' in page
    assert text in page


def test_a_ledger_on_a_server_is_not_asked(run: Run) -> None:
    corpus = texts_of(run, False).corpus
    assert corpus is not None
    config = run.folder / "config.yaml"
    text = config.read_text().replace("ledger: null", "ledger: postgresql://nobody@127.0.0.1:1/none")
    config.write_text(text)
    assert asked_by(read_run(run.folder), corpus, run.table()) == (
        "prompts and replies are in a ledger on a server, which a report does not ask"
    )
