"""Conversations, run folders, ledgers and bundles, and what a plan reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lantern.tables import PredictionTable
from tests.bad_inputs.place import DEEP, Case, Place, Prepare, cases

TALKS: list[Case] = [
    ("cut UTF-16", lambda p: p.file("t.txt", "A: hi".encode("utf-16")[:-1]), "t.txt, line 1: damaged UTF-16"),
    ("chat without names", lambda p: p.file("t.txt", "hello\n"), "line 1: 'hello' is not of the form 'Name: text'"),
    ("chat without turns", lambda p: p.file("t.txt", " \n\n"), "t.txt holds no turns"),
    ("colons", lambda p: p.file("t.csv", "speaker:text\nA:x\n"), "t.csv, line 1", "found speaker:text", "commas"),
    (
        "dialogue that is a list",
        lambda p: p.file("t.jsonl", '{"speaker": "A", "text": "x", "dialogue": ["a"]}'),
        "t.jsonl, line 1: dialogue is ['a']",
    ),
    ("JSON nested too deep", lambda p: p.file("t.jsonl", DEEP), "t.jsonl, line 1", "nested too deep"),
    (
        "half a character",
        lambda p: p.file("t.jsonl", '{"speaker": "A", "text": "\\ud800"}'),
        "t.jsonl, line 1",
        "surrogates",
    ),
    (
        "subtitle that ends before it starts",
        lambda p: p.file("t.srt", "1\n00:00:05,000 --> 00:00:02,000\nA: hi\n"),
        "t.srt, line 2",
        "ends before it starts",
    ),
    ("subtitle without a time", lambda p: p.file("t.vtt", "1\n00:01 --> 2\nA: hi\n"), "t.vtt, line 2", "hh:mm:ss,mmm"),
    ("a folder", lambda p: p.folder("t.txt"), "t.txt cannot be read: Is a directory"),
    ("another format", lambda p: p.file("t.pdf"), "t.pdf: a transcript ends in .csv", "'.pdf'"),
]


@cases(TALKS)
def test_a_conversation(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["predict", prepare(place), "--run", place.at], told)


PREDICT: list[Case] = [
    ("folder of runs", lambda p: [p.runs()], "runs is not a finished run"),
    ("config of another version", lambda p: [p.run("config.yaml", "newkey: 1\n")], "not a configuration of", "newkey"),
    ("setting that is refused now", lambda p: [_stride_zero(p)], "config.yaml: refine.stride=0 must be at least 1"),
    ("checkpoint cut off", lambda p: [p.run("checkpoints/best.ckpt", b"PK\x03\x04")], "best.ckpt is not a checkpoint"),
    ("no checkpoint", lambda p: [p.run("checkpoints/best.ckpt")], "best.ckpt is missing", "again"),
    ("empty weighting", lambda p: [p.run("checkpoints/weighting.ckpt", "")], "weighting.ckpt is not a weighting"),
    ("card of another corpus", lambda p: [p.run("corpus.json", features={})], "best.ckpt are of different runs"),
    ("scale of one number", lambda p: [p.run("corpus.json", score_range=[1])], "corpus.json: not a corpus card"),
    ("LLM misspelt", lambda p: [p.run(), "--llm", "smolm2"], "llm=smolm2", "Did you mean 'smollm2'"),
    ("simulated LLM", lambda p: [p.run(), "--llm", "simulated"], "--llm=simulated answers from gold labels"),
]


def _stride_zero(place: Place) -> object:
    folder = place.run()
    config = (folder / "config.yaml").read_text()
    assert "stride: 4" in config
    (folder / "config.yaml").write_text(config.replace("stride: 4", "stride: 0"))
    return folder


@cases(PREDICT)
def test_a_run_that_is_to_predict(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    run, *more = prepare(place)
    place.refused(["predict", place.file("talk.txt", "A: hello\n"), "--run", run, *more], told)


TABLE = "predictions.test.parquet"


def _nan(table: PredictionTable) -> PredictionTable:
    return replace(table, vanilla=np.where(np.arange(len(table))[:, None] == 1, np.nan, table.vanilla))


def _one_class(table: PredictionTable) -> PredictionTable:
    return replace(table, vanilla=table.vanilla[:, :1])


COMPARE: list[Case] = [
    ("empty folder", lambda p: [p.folder()], "holds no finished run"),
    ("--out that is a file", lambda p: [p.run(), "--out", p.file("f")], "--out=", "is a file; name a folder"),
    ("numbers cut off", lambda p: [p.run("metrics.json", '{"title": "x')], "cannot be read"),
    ("numbers nested too deep", lambda p: [p.run("metrics.json", DEEP)], "cannot be read"),
    ("seed that is a word", lambda p: [p.run("metrics.json", seed="x")], "metrics.json: seed is 'x'", "run it again"),
    ("older version", lambda p: [p.run("metrics.json", test={})], "metrics.json: no test.methods", "run it again"),
    ("LLM that is a word", lambda p: [p.run("metrics.json", llm="x")], "metrics.json: llm is 'x'"),
    (
        "three rows",
        lambda p: [p.predictions(lambda t: t.select(slice(3)))],
        f"{TABLE}: 3 rows, expected 52",
        "repeat the run's command",
    ),
    ("predictions cut off", lambda p: [p.cut_off()], f"{TABLE}: not a predictions table", "repeat the run's command"),
    ("predictions of another program", lambda p: [p.run(TABLE, b"\xff\xfe")], f"{TABLE}: not a predictions table"),
    ("no predictions", lambda p: [p.run(TABLE)], "has a metrics.json but no", TABLE),
    ("label that is no class", lambda p: [p.labels("glum")], f"{TABLE}: not a predictions table", "glum"),
    ("probability that is no number", lambda p: [p.predictions(_nan)], TABLE, "a probability is not a finite number"),
    ("vectors of one class", lambda p: [p.predictions(_one_class)], TABLE, "a vector is not of 6 classes"),
]


@cases(COMPARE)
def test_compare(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["compare", *prepare(place)], told)


LEDGER: list[Case] = [
    ("no task of this name", lambda p: ["stat"], "invalid choice: 'stat'", "verify"),
    ("text", lambda p: ["stats", "--ledger", p.file("l", "hello " * 200)], "l is not a Lantern ledger"),
    ("no file", lambda p: ["stats", "--ledger", p.at / "l"], "l: no such file", "<runs>/ledger.sqlite"),
    ("no bundle", lambda p: ["import", p.file("b", "{}"), *_ledger(p)], "b is not a bundle", "export writes one"),
    ("bundle nested too deep", lambda p: ["import", p.file("b", DEEP), *_ledger(p)], "b is not a bundle"),
    ("a folder's place", lambda p: ["export", p.folder(), "--overwrite", *_ledger(p)], "is a folder; name a file"),
    ("no kinds", lambda p: ["retry-failed", "--kinds", ",", *_ledger(p)], "--kinds names no kind"),
    ("prune of nothing", lambda p: ["prune", *_ledger(p)], "prune what?", "--failures"),
    ("no days", lambda p: ["prune", "--answers-older-than", "nan", *_ledger(p)], "=nan must be 0 or more"),
]


def _ledger(place: Place) -> list[object]:
    return ["--ledger", place.runs() / "ledger.sqlite"]


@cases(LEDGER)
def test_ledger(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["ledger", *prepare(place)], told)


PLAN: list[Case] = [
    (
        "empty predictions",
        lambda p: p.stage("vanilla.dev.*", ""),
        "vanilla.dev.",
        "not a predictions",
        "delete that file",
    ),
    ("study", lambda p: ["experiment=simulate"], "nothing to plan"),
    ("option of run", lambda p: ["--config"], "unknown option --config"),
]


@cases(PLAN)
def test_plan(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["plan", *prepare(place)], told)
