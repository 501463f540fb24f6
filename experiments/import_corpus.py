"""Turn a raw corpus into a corpus folder: ``python -m experiments.import_corpus meld --csv DIR --out data/meld``."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.console import Parser, command, screen
from lantern.corpora.readers import SOURCES
from lantern.corpora.types import MODALITIES

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.corpora.folder import Corpus


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.import_corpus",
        description="Turn a raw corpus into a corpus folder, which runs read with corpus.path=DIR.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind")
    for name, source in SOURCES.items():
        own = kinds.add_parser(name, help=source.help)
        for argument, (flag, settings) in source.options.items():
            own.add_argument(flag, dest=argument, **settings)
        own.add_argument(
            "--features",
            dest="feature_files",
            action="append",
            default=[],
            metavar="MODALITY=FILE",
            help=f"features of {', '.join(MODALITIES)}: .npy, .npz, .safetensors or .csv, by utterance id or in "
            "transcript order",
        )
        own.add_argument(
            "--card",
            dest="cards",
            action="append",
            default=[],
            metavar="MODALITY=FILE.yaml",
            help="where those features come from: extractor, version, layer, fitted_on, licence",
        )
        own.add_argument(
            "--no-features", action="store_true", help="compute no text features by MiniLM where the source has none"
        )
        own.add_argument("--out", type=Path, required=True, metavar="DIR", help="corpus folder to write")
        own.add_argument("--overwrite", action="store_true", help="replace a corpus folder that is there")
    return parser


def main(arguments: list[str]) -> int:
    """Import one corpus and print its summary."""
    given = _parser().parse_args(arguments)

    from lantern.corpora.folder import check_target
    from lantern.features.extractors.feature_tables import read_feature_tables

    check_target(given.out, given.overwrite)
    console = screen()
    source = SOURCES[given.kind]
    corpus = source.read({argument: getattr(given, argument) for argument in source.options})
    # All files are read, and refused, before MiniLM takes its time.
    tables = read_feature_tables(given.feature_files, given.cards, [u.id for u in corpus.utterances])
    if not (given.no_features or corpus.features or "text" in tables):
        corpus = _with_text_features(corpus, console)
    for modality, (features, present, card) in tables.items():
        corpus = corpus.with_features(modality, features, card, present)
    corpus.save(given.out, overwrite=given.overwrite)
    print_summary(console, corpus, given.out)
    return 0


def _with_text_features(corpus: Corpus, console: Console) -> Corpus:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from lantern.environment import prepare

    prepare()
    from lantern.features.extractors.minilm import MiniLM, card

    encoder, texts, start = MiniLM(), [u.text for u in corpus.utterances], time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.completed}/{task.total} texts"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not os.isatty(1)) as bar:
        task = bar.add_task("text features by MiniLM", total=None)
        features = encoder.encode(texts, lambda done, total: bar.update(task, completed=done, total=total))
    _line(console, f"text features by MiniLM in {time.monotonic() - start:.0f} s")
    return corpus.with_features("text", features, card(len(texts)))


def print_summary(console: Console, corpus: Corpus, out: Path) -> None:
    """Counts per split, features, and the importer's notes and checks."""
    from rich.table import Table

    from lantern.corpora.summary import summarise

    parts = summarise(corpus)
    table = Table(title=f"{corpus.name} ({corpus.label_set.name}) in {out}", title_justify="left", box=None)
    table.add_column("split")
    for title in ("dialogues", "turns", "labelled", "scored", *corpus.label_set.classes):
        table.add_column(title, justify="right")
    for part in parts:
        cells = (part.dialogues, part.utterances, part.labelled, part.scored, *part.classes)
        table.add_row(part.name, *(f"{cell:,}" for cell in cells))
    console.print(table)
    whole = parts[-1]
    scale = "no dimension scores"
    if corpus.score_range is not None:
        scale = "valence, arousal and dominance on {:g}-{:g}".format(*corpus.score_range)
    total = len(corpus.utterances)
    features = ", ".join(f"{n} {c.dims}-d ({_share(c.count, total)} turns)" for n, c in corpus.cards.items()) or "none"
    _line(console, f"{whole.speakers} speakers, longest dialogue {whole.longest} turns; {scale}")
    _line(console, f"features: {features}")
    for note in (*corpus.notes, *corpus.checks):
        _line(console, note, "yellow" if note.startswith("differs") else None)
    if corpus.contaminated:
        _line(console, corpus.contaminated)


def _share(count: int, total: int) -> str:
    return f"{count:,}" if count == total else f"{count:,} of {total:,}"


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(f"  {text}", style=style)


if __name__ == "__main__":
    command(main)
