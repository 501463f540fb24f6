"""Use a finished run on your own conversation: ``python -m experiments.predict chat.txt --run runs/<one>``."""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.console import ConsoleReporter, Parser, command, screen
from lantern.errors import UserError
from lantern.report.sinks.escaping import to_csv

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.corpora.types import Dialogue
    from lantern.pipeline.predict import LoadedRun
    from lantern.results.texts import Asked
    from lantern.tables import PredictionTable


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.predict",
        description="Emotions, valence, arousal and dominance of every turn of a conversation, by a finished run.",
    )
    parser.add_argument(
        "transcript",
        type=Path,
        help=".csv, .jsonl or .json with speaker and text, subtitles (.srt, .vtt), a chat or a meeting's transcript "
        "(.txt, .json), or .cha; docs/corpora.md lists the forms",
    )
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="folder of a finished run")
    parser.add_argument(
        "--speakers",
        nargs="+",
        default=(),
        metavar="NAME",
        help="all speakers of subtitles or a plain chat, if unclear",
    )
    parser.add_argument("--llm", metavar="NAME", help="refine with this file of configs/llm and the run's prompt")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="write predictions.html (to read), .csv and .jsonl there; default: predicted/<transcript's name>",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the predictions of another file")
    return parser


def main(arguments: list[str]) -> int:
    """Predict one transcript and print a table."""
    given = _parser().parse_args(arguments)
    from lantern.corpora.readers.conversations import read_transcript
    from lantern.files import atomic, check_place

    out = given.out or Path("predicted") / given.transcript.stem
    check_place("--out", out, folder=True)
    dialogues = read_transcript(given.transcript, given.speakers)
    if not given.overwrite:
        _check_same(out, dialogues)

    from lantern.environment import prepare

    prepare()
    from lantern.pipeline.predict import load
    from lantern.report.conversation import conversation_html
    from lantern.results.load import read_run

    console = screen()
    run, record = load(given.run), read_run(given.run)
    asked: Asked | None = None
    if given.llm is None:
        table = run.predict(dialogues)
    else:
        table, asked = _refined(run, dialogues, given.llm, console)
    texts = {u.id: u.text for d in dialogues for u in d.utterances}
    rows = _rows(table, texts)
    _print(console, rows, several=len(dialogues) > 1)
    table.export(out / "predictions.jsonl")
    about = (record, run.corpus.score_range, given.llm, asked)
    page = conversation_html(given.transcript.name, table, texts, *about)
    for name, content in (("predictions.csv", to_csv(rows, list(rows[0]))), ("predictions.html", page)):
        with atomic(out / name) as partial:
            partial.write_text(content, encoding="utf-8", newline="")
    console.print(f"  to read in a browser: {out / 'predictions.html'}", soft_wrap=True)
    console.print(f"  as tables: {out / 'predictions.csv'}, predictions.jsonl", soft_wrap=True)
    return 0


def _check_same(out: Path, dialogues: list[Dialogue]) -> None:
    """Refuse to replace the predictions of another conversation: every export of WhatsApp for iOS is ``_chat.txt``."""
    if not any((out / f"predictions.{kind}").exists() for kind in ("html", "csv", "jsonl")):
        return
    columns = ("dialogue", "speaker", "text")
    turns = [(dialogue.id, turn.speaker, turn.text) for dialogue in dialogues for turn in dialogue.utterances]
    expected = io.StringIO(to_csv([dict(zip(columns, turn, strict=True)) for turn in turns], columns), newline="")
    try:
        with (out / "predictions.csv").open(encoding="utf-8", newline="") as file:
            there = [[row.get(key) for key in columns] for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error):
        there = []
    if there != list(csv.reader(expected))[1:]:
        raise UserError(
            f"{out} holds the predictions of another conversation; name another folder with --out, or --overwrite to "
            "replace them"
        )


def _refined(run: LoadedRun, dialogues: list[Dialogue], llm: str, console: Console) -> tuple[PredictionTable, Asked]:
    from dataclasses import replace

    from lantern.config.compose import compose
    from lantern.models.prediction import Transcripts
    from lantern.pipeline.preflight import backend_of
    from lantern.pipeline.refinement import Refinement
    from lantern.results.texts import asked_of

    chosen = compose([f"llm={llm}"]).llm
    if run.config.prompt.demonstrations:
        raise UserError(
            f"--llm={llm}: the prompts of the run {run.folder} show demonstrations from its corpus; take a run without "
            "prompt.demonstrations"
        )
    config = replace(run.config, llm=chosen)
    if config.llm.simulated is not None:
        raise UserError("--llm=simulated answers from gold labels, which a conversation of your own does not have")
    if run.weighting is None:
        raise UserError(f"--llm={llm}: the run {run.folder} has no weighting, since it was made without an LLM")
    backend = backend_of(config)
    backend.check_ready()
    where = f"sent to {config.llm.model}" if config.llm.remote else "shown to a model on this machine"
    console.print(f"  the conversation is {where}")
    by_id = {dialogue.id: dialogue for dialogue in dialogues}
    transcripts = Transcripts(by_id, run.corpus.label_set, run.corpus.score_range)
    with (
        ConsoleReporter(console) as reporter,
        Refinement(config, backend, transcripts, reporter.asking) as refinement,
    ):
        table = run.predict(dialogues, refine=refinement.refine)
        return table, asked_of(refinement.refiner, refinement.ledger, table)


def _rows(table: PredictionTable, texts: dict[str, str]) -> list[dict[str, object]]:
    from lantern.corpora.types import DIMENSIONS

    rows: list[dict[str, object]] = []
    for row in table:
        final = row.merged or row.vanilla
        best = max(range(len(final)), key=final.__getitem__)
        cells: dict[str, object] = {
            "dialogue": row.dialogue,
            "turn": row.index + 1,
            "speaker": row.speaker,
            "text": texts[row.utterance],
            "emotion": table.classes[best],
            "probability": round(final[best], 4),
        }
        if row.predicted_scores is not None:
            cells |= {name: round(value, 2) for name, value in zip(DIMENSIONS, row.predicted_scores, strict=True)}
        cells |= {f"p({name})": round(value, 4) for name, value in zip(table.classes, final, strict=True)}
        rows.append(cells)
    return rows


def _print(console: Console, rows: list[dict[str, object]], several: bool) -> None:
    from rich.table import Table

    from lantern.corpora.types import DIMENSIONS

    shown = Table(box=None, padding=(0, 1))
    names = [name for name in rows[0] if not name.startswith("p(") and (name != "dialogue" or several)]
    names = [name for name in names if name not in DIMENSIONS or console.width >= 100]  # else in the files alone
    for name in names:
        words = name in ("dialogue", "speaker", "text", "emotion")
        shown.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in rows:
        cells = (f"{row[n]:.2f}" if isinstance(row[n], float) else str(row[n]) for n in names)
        shown.add_row(*cells)
    console.print(shown)


if __name__ == "__main__":
    command(main)
