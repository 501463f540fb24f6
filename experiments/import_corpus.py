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
from lantern.errors import UserError

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
    from lantern.corpora.readers.meld import import_meld

    corpus = import_meld(given.csv, given.label_set)
    return corpus if given.no_features else _with_text_features(corpus, console)


def _iemocap_arguments(parser: argparse.ArgumentParser) -> None:
    sets = "iemocap-6 (default), iemocap-6-legacy, iemocap-4-hap, iemocap-4-hap-legacy or iemocap-4-happexc"
    parser.add_argument("--release", type=Path, required=True, metavar="DIR", help="IEMOCAP_full_release")
    parser.add_argument("--label-set", default="iemocap-6", metavar="NAME", help=sets)
    _no_features(parser)


def _iemocap(given: argparse.Namespace, console: Console) -> Corpus:
    from lantern.corpora.readers.iemocap import import_iemocap

    corpus = import_iemocap(given.release, given.label_set)
    return corpus if given.no_features else _with_text_features(corpus, console)


def _emorynlp_arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--json", type=Path, metavar="DIR", help="holds emotion-detection-{trn,dev,tst}.json: all of it")
    form.add_argument("--csv", type=Path, metavar="DIR", help="holds emorynlp_{train,dev,test}_final.csv: with times")
    _no_features(parser)


def _emorynlp(given: argparse.Namespace, console: Console) -> Corpus:
    from lantern.corpora.readers.emorynlp import import_csv, import_json

    corpus = import_json(given.json) if given.json else import_csv(given.csv)
    return corpus if given.no_features else _with_text_features(corpus, console)


def _custom_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--transcript",
        type=Path,
        required=True,
        metavar="FILE",
        help=".csv or .jsonl with dialogue, speaker, text; optional: utterance (id), label, valence, arousal, "
        "dominance, split, session, start, end",
    )
    parser.add_argument(
        "--label-set",
        required=True,
        metavar="NAME|FILE.yaml",
        help="a label set of Lantern's, or your own: name, classes (a list), definitions (a line per class; optional)",
    )
    parser.add_argument("--name", default="", help="of the corpus; default: that of the transcript")
    parser.add_argument("--score-range", metavar="LOW,HIGH", help="scale of the scores, for example 1,5")
    parser.add_argument(
        "--redistribution",
        choices=("allowed", "forbidden"),
        default="forbidden",
        help="whether the text may be passed on, which sending it to a remote LLM is; default: %(default)s",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="PART=ID,...",
        help="dialogues of train, dev or test, by id or pattern (test='s05_*'); in place of a column split",
    )
    parser.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="MODALITY=FILE",
        help="text, audio or visual features: .npy, .npz, .safetensors or .csv, by utterance id or in transcript order",
    )
    parser.add_argument(
        "--card",
        action="append",
        default=[],
        metavar="MODALITY=FILE.yaml",
        help="where those features come from: extractor, version, layer, fitted_on, licence",
    )
    parser.add_argument("--no-features", action="store_true", help="no text features by MiniLM")


def _custom(given: argparse.Namespace, console: Console) -> Corpus:
    from lantern.corpora.labels import label_set, read_label_set
    from lantern.corpora.readers.custom import import_custom
    from lantern.corpora.types import MODALITIES
    from lantern.features.extractors.feature_tables import card_of, read_feature_table

    own = given.label_set.endswith((".yaml", ".yml"))
    files, cards = _pairs(given.features, "--features"), _pairs(given.card, "--card")
    if set(cards) - set(files):
        raise UserError(f"--card {sorted(set(cards) - set(files))[0]}=…: no --features of this modality are given")
    corpus = import_custom(
        given.transcript,
        read_label_set(Path(given.label_set)) if own else label_set(given.label_set),
        name=given.name,
        score_range=_range(given.score_range) if given.score_range else None,
        redistribution=given.redistribution,
        splits={part: ids.split(",") for part, ids in _pairs(given.split, "--split").items()},
    )
    for modality in files:
        if modality not in MODALITIES:
            raise UserError(f"--features {modality}=…: {modality!r} is not one of {', '.join(MODALITIES)}")
    # All files are read, and refused, before MiniLM takes its time.
    ids = [u.id for u in corpus.utterances]
    tables = {modality: read_feature_table(Path(file), ids) for modality, file in files.items()}
    given_cards = {m: card_of(Path(file), Path(cards[m]) if m in cards else None) for m, file in files.items()}
    if not given.no_features and "text" not in files:
        corpus = _with_text_features(corpus, console)
    for modality in (m for m in MODALITIES if m in tables):
        features, present = tables[modality]
        corpus = corpus.with_features(modality, features, given_cards[modality], present)
    return corpus


def _pairs(given: list[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise UserError(f"{option} {pair}: expected {'PART=ID,...' if option == '--split' else 'MODALITY=FILE'}")
        if key in found:
            raise UserError(f"{option} {key} is given twice")
        found[key] = value
    return found


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not -float("inf") < low < high < float("inf"):
        raise UserError(f"--score-range {text}: expected LOWEST,HIGHEST, for example 1,5")
    return low, high


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--dialogues", type=int, default=60, help="default: %(default)s")
    parser.add_argument(
        "--minilm",
        action="store_true",
        help="only text features, by MiniLM from the words: runs on it can predict conversations of your own",
    )


def _sample(given: argparse.Namespace, console: Console) -> Corpus:
    from dataclasses import replace

    from lantern.corpora.sample.generator import generate_sample

    corpus = generate_sample(given.seed, given.dialogues)
    if not given.minilm:
        return corpus
    return _with_text_features(replace(corpus, features={}, present={}, cards={}), console)


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
    "emorynlp": Kind("EmoryNLP from its JSON or CSV files; text features by MiniLM", _emorynlp_arguments, _emorynlp),
    "custom": Kind("your own transcript, labels, scores and feature files", _custom_arguments, _custom),
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
    """Counts per split, features, and what the importer found."""
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
    console.print(f"  {text}", style=style, highlight=False, markup=False)


if __name__ == "__main__":
    command(main)
