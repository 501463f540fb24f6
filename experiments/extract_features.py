"""Add a modality to a corpus folder: ``python -m experiments.extract_features FOLDER --modality audio --clips DIR``."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.console import Parser, command, screen
from lantern.errors import UserError

if TYPE_CHECKING:
    from lantern.corpora.folder import Corpus
    from lantern.features.sources import Sources

_SHOWN = 20
_OF_SOURCE = {"text": None, "sound": "clips", "frames": "clips", "arrays": "arrays"}
"""The option that names what an extractor reads."""


def _parser() -> argparse.ArgumentParser:
    from lantern.features.registry import DEFAULT, EXTRACTORS

    parser = Parser(
        prog="python -m experiments.extract_features",
        description="Add a modality to a corpus folder. Interrupted, the same command goes on where it stopped; the "
        "folder can be used at every moment.",
        epilog="extractors:\n"
        + "\n".join(
            f"  {name:<23}{e.modalities[0] if len(e.modalities) == 1 else 'any':<8}{e.help}"
            for name, e in EXTRACTORS.items()
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = ", ".join(f"{name} for {modality}" for modality, name in DEFAULT.items())
    parser.add_argument("corpus", type=Path, metavar="CORPUS_FOLDER")
    parser.add_argument("--modality", required=True, choices=tuple(DEFAULT))
    parser.add_argument("--extractor", choices=tuple(EXTRACTORS), help=f"default: {defaults}")
    parser.add_argument(
        "--clips",
        "--wav",
        type=Path,
        metavar="DIR",
        help="wav, mp4, avi and the like, in folders as they come: **/<utterance id>.mp4, the names of MELD's and "
        "EmoryNLP's archives, or **/<dialogue id>.avi, cut by the utterances' start and end; also folders of images",
    )
    parser.add_argument(
        "--arrays",
        type=Path,
        metavar="DIR|FILE",
        help="**/<utterance id>.npy, [D] or [time, D]; or one .npy, .npz, .safetensors or .csv for all",
    )
    parser.add_argument("--model", default="", metavar="FOLDER|NAME", help="the model of an extractor that takes one")
    parser.add_argument("--download", action="store_true", help="fetch that model if it is not on this machine")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="", help="for that model; default: a GPU if any")
    parser.add_argument("--card", type=Path, metavar="FILE.yaml", help="extractor, version, layer, fitted_on, licence")
    parser.add_argument("--raw", action="store_true", help="do not standardise audio features on the training split")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace the modality if the folder has it")
    return parser


def main(arguments: list[str]) -> int:
    """Extract and report the result."""
    given = _parser().parse_args(arguments)
    extractor = _extractor(given)
    if given.jobs < 1:
        raise UserError(f"--jobs {given.jobs} must be at least 1")
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from lantern.environment import prepare

    # Only models gain from threads of their own, and only where there is one process.
    prepare(None if given.jobs == 1 and (given.modality == "text" or given.model) else 1)
    from lantern.corpora.folder import load_corpus
    from lantern.features.extract import Plan, add_table, extract_features, utterances
    from lantern.features.registry import EXTRACTORS
    from lantern.features.types import Recipe

    console = screen()

    def say(text: str, style: str | None = None) -> None:
        console.print(f"  {text}", style=style)

    corpus = load_corpus(given.corpus, features=False)
    if given.arrays and given.arrays.is_file():
        corpus = add_table(corpus, given.modality, given.arrays, given.card, given.overwrite)
        _print_card(say, corpus, given.modality)
        return 0
    sources = _sources(given, corpus, extractor)
    if EXTRACTORS[extractor].place.startswith("smile:"):
        from lantern.features.extractors.smile import LICENCE

        say(LICENCE, "yellow")
    plan = Plan(
        given.modality,
        Recipe(extractor, given.model, given.download, given.device),
        given.jobs,
        given.raw,
        given.card,
        given.overwrite,
    )
    start = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.completed}/{task.total} utterances"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not os.isatty(1)) as bar:
        task = bar.add_task(f"{given.modality} by {extractor}", total=len(sources.items))
        corpus, made = extract_features(corpus, plan, sources, lambda done, total: bar.update(task, completed=done))
    again = f", {made.reused:,} of them from the interrupted command" if made.reused else ""
    say(f"{utterances(len(sources.items))} in {time.monotonic() - start:.0f} s{again}")
    for reason, count in sources.missing.items():
        say(f"masked: {utterances(count)}: {reason}")
    for note in sources.notes:
        say(note)
    for number, (identity, reason) in enumerate(made.unusable.items()):
        if number == _SHOWN:
            say(f"and {len(made.unusable) - _SHOWN:,} more")
            break
        say(f"masked: {identity}: {reason}", "yellow")
    _print_card(say, corpus, given.modality)
    return 0


def _extractor(given: argparse.Namespace) -> str:
    """The extractor named or meant; refuses one that does not fit, and options that it would not use."""
    from lantern.features.registry import DEFAULT, EXTRACTORS, WITH_MODEL

    implied = "arrays" if given.arrays else (WITH_MODEL if given.model else DEFAULT)[given.modality]
    name = given.extractor or implied
    entry = EXTRACTORS[name]
    if given.modality not in entry.modalities:
        valid = ", ".join(n for n, e in EXTRACTORS.items() if given.modality in e.modalities)
        raise UserError(f"extractor {name} makes no {given.modality} features. Valid: {valid}")
    wanted = _OF_SOURCE[entry.source]
    for key in ("clips", "arrays"):
        if getattr(given, key) and key != wanted:
            reads = f"--{wanted} DIR" if wanted else "the texts"
            raise UserError(f"--{key} is not what extractor {name} reads ({reads})")
    if wanted and not getattr(given, wanted):
        raise UserError(f"extractor {name} needs --{wanted} DIR")
    if (given.model or given.download or given.device) and not entry.model:
        valid = ", ".join(n for n, e in EXTRACTORS.items() if e.model)
        raise UserError(f"--model, --download and --device are for {valid}, not for extractor {name}")
    if given.raw and not entry.scaled:
        raise UserError(f"--raw: features of {name} are never standardised")
    return name


def _sources(given: argparse.Namespace, corpus: Corpus, extractor: str) -> Sources:
    from lantern.features.registry import EXTRACTORS
    from lantern.features.sources import SOUNDS, VIDEOS, find_arrays, find_clips, utterance_texts

    source = EXTRACTORS[extractor].source
    if source == "sound":
        return find_clips(corpus, given.clips, SOUNDS)
    if source == "frames":
        return find_clips(corpus, given.clips, VIDEOS, frames=True)
    return find_arrays(corpus, given.arrays) if source == "arrays" else utterance_texts(corpus)


def _print_card(say: Callable[[str], None], corpus: Corpus, modality: str) -> None:
    card, total = corpus.cards[modality], len(corpus.utterances)
    say(f"{modality}: {card.dims}-d for {card.count:,} of {total:,} utterances, {card.extractor}, {card.version}")
    say(f"fitted_on {card.fitted_on}, sha256 {card.sha256[:16]}…, in {corpus.path}")


if __name__ == "__main__":
    command(main)
