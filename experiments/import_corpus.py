"""Turn a raw corpus into a corpus folder: ``python -m experiments.import_corpus meld --csv DIR --out data/meld``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import import_pickle
from experiments.console import Parser, command

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.corpora.folder import Corpus


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of raw corpus: its own options, and how it becomes a corpus."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    build: Callable[[argparse.Namespace, Console], Corpus]


def _meld_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", type=Path, required=True, metavar="DIR", help="holds train_, dev_, test_sent_emo.csv")
    parser.add_argument("--label-set", default="meld-7", metavar="NAME", help="meld-7 (default) or meld-3 (sentiment)")
    _no_features(parser)


def _no_features(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-features", action="store_true", help="transcript and labels only; cannot be trained on")


def _meld(given: argparse.Namespace, console: Console) -> Corpus:
    from lantern.corpora.meld import import_meld

    corpus = import_meld(given.csv, given.label_set)
    return corpus if given.no_features else _with_text_features(corpus, console)


def _iemocap_arguments(parser: argparse.ArgumentParser) -> None:
    sets = "iemocap-6 (default), iemocap-6-legacy, iemocap-4-hap, iemocap-4-hap-legacy or iemocap-4-happexc"
    parser.add_argument("--release", type=Path, required=True, metavar="DIR", help="IEMOCAP_full_release")
    parser.add_argument("--label-set", default="iemocap-6", metavar="NAME", help=sets)
    _no_features(parser)


def _iemocap(given: argparse.Namespace, console: Console) -> Corpus:
    from lantern.corpora.iemocap import import_iemocap

    corpus = import_iemocap(given.release, given.label_set)
    return corpus if given.no_features else _with_text_features(corpus, console)


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--dialogues", type=int, default=60, help="default: %(default)s")


def _sample(given: argparse.Namespace, console: Console) -> Corpus:
    from lantern.corpora.sample import generate_sample

    return generate_sample(given.seed, given.dialogues)


def _iemocap_pickle(given: argparse.Namespace, console: Console) -> Corpus:
    corpus = import_pickle.iemocap(given)
    return corpus if corpus.features or given.no_features else _with_text_features(corpus, console)


def _meld_pickle(given: argparse.Namespace, _console: Console) -> Corpus:
    return import_pickle.meld(given)


KINDS: dict[str, Kind] = {
    "meld": Kind("MELD from its CSV files; text features by MiniLM on the CPU, minutes", _meld_arguments, _meld),
    "iemocap": Kind("IEMOCAP from its raw release; text features by MiniLM, minutes", _iemocap_arguments, _iemocap),
    "iemocap-pickle": Kind(
        "IEMOCAP from a published feature pickle (MMGCN, COGMEN, CORECT, SDT, COSMIC)",
        import_pickle.iemocap_arguments,
        _iemocap_pickle,
    ),
    "meld-pickle": Kind(
        "MELD from a published feature pickle (MMGCN, SDT)", import_pickle.meld_arguments, _meld_pickle
    ),
    "sample": Kind("the made-up sample corpus, written out", _sample_arguments, _sample),
}


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.import_corpus",
        description="Turn a raw corpus into a corpus folder, which runs read with corpus.path=DIR.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind")
    for name, kind in KINDS.items():
        own = kinds.add_parser(name, help=kind.help)
        kind.arguments(own)
        own.add_argument("--out", type=Path, required=True, metavar="DIR", help="corpus folder to write")
        own.add_argument("--overwrite", action="store_true", help="replace a corpus folder that is there")
    return parser


def main(arguments: list[str]) -> int:
    """Import one corpus and print its summary."""
    given = _parser().parse_args(arguments)
    from rich.console import Console

    from lantern.corpora.folder import check_target

    check_target(given.out, given.overwrite)
    console = Console(width=None if os.isatty(1) else 120)
    corpus = KINDS[given.kind].build(given, console)
    corpus.save(given.out, overwrite=given.overwrite)
    _print_summary(console, corpus, given.out)
    return 0


def _with_text_features(corpus: Corpus, console: Console) -> Corpus:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from lantern.environment import prepare

    prepare()
    from lantern.corpora.minilm import MiniLM, card

    encoder, texts, start = MiniLM(), [u.text for u in corpus.utterances], time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.completed}/{task.total} texts"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not os.isatty(1)) as bar:
        task = bar.add_task("text features by MiniLM", total=None)
        features = encoder.encode(texts, lambda done, total: bar.update(task, completed=done, total=total))
    _line(console, f"text features by MiniLM in {time.monotonic() - start:.0f} s")
    return corpus.with_features("text", features, card(len(texts)))


def _print_summary(console: Console, corpus: Corpus, out: Path) -> None:
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
    features = ", ".join(f"{n} {c.dims}-d ({c.count:,} turns)" for n, c in corpus.cards.items()) or "none"
    _line(console, f"{whole.speakers} speakers, longest dialogue {whole.longest} turns; {scale}")
    _line(console, f"features: {features}")
    for note in (*corpus.notes, *corpus.checks):
        _line(console, note, "yellow" if note.startswith("differs") else None)
    if corpus.contaminated:
        _line(console, corpus.contaminated)


def _line(console: Console, text: str, style: str | None = None) -> None:
    console.print(f"  {text}", style=style, highlight=False, markup=False)


if __name__ == "__main__":
    command(main)
