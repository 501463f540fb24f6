"""Turn a raw corpus into a corpus folder: ``python -m experiments.import_corpus meld --csv … --out data/meld``."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.console import command

if TYPE_CHECKING:
    from lantern.corpora.folder import Corpus
    from lantern.corpora.meld import ImportReport


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.import_corpus", description=__doc__.split(":")[0] + "."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="kind")
    meld = kinds.add_parser("meld", help="MELD from its CSV files, text features by MiniLM")
    meld.add_argument("--csv", type=Path, required=True, help="folder with train_, dev_ and test_sent_emo.csv")
    meld.add_argument("--no-features", action="store_true", help="transcript and labels only")
    sample = kinds.add_parser("sample", help="the made-up sample corpus, written out")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--dialogues", type=int, default=60)
    for kind in (meld, sample):
        kind.add_argument("--out", type=Path, required=True, help="corpus folder to write")
        kind.add_argument("--overwrite", action="store_true", help="replace an existing corpus folder")
    return parser


def main(arguments: list[str]) -> int:
    """Import one corpus and print its summary."""
    given = _parser().parse_args(arguments)
    from lantern.corpora.folder import check_target

    check_target(given.out, given.overwrite)
    if given.kind == "sample":
        from lantern.corpora.meld import ImportReport
        from lantern.corpora.sample import generate_sample

        corpus, report = generate_sample(given.seed, given.dialogues), ImportReport(["made up by a generator"])
    else:
        from lantern.corpora.meld import import_meld

        corpus, report = import_meld(given.csv)
        if not given.no_features:
            corpus = _with_text_features(corpus)
    corpus.save(given.out, overwrite=given.overwrite)
    _print_summary(corpus, report, given.out)
    return 0


def _with_text_features(corpus: Corpus) -> Corpus:
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress

    from lantern.environment import prepare

    prepare()
    from lantern.corpora.minilm import MiniLM, card

    encoder = MiniLM()
    texts = [u.text for u in corpus.utterances]
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("MiniLM text features", total=len(texts))
        features = encoder.encode(texts, lambda done, total: bar.update(task, completed=done, total=total))
    everyone = np.ones(len(texts), bool)
    return dataclasses.replace(
        corpus, features={"text": features}, present={"text": everyone}, cards={"text": card(len(texts))}
    )


def _print_summary(corpus: Corpus, report: ImportReport, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if os.isatty(1) else 120)
    table = Table(title=f"{corpus.name} ({corpus.label_set.name}) in {out}", title_justify="left", box=None)
    table.add_column("split")
    for title in ("dialogues", "utterances", "labelled", *corpus.label_set.classes):
        table.add_column(title, justify="right")
    for split, ids in corpus.splits.items():
        chosen = [d for d in corpus.dialogues if d.id in set(ids)]
        turns = [u for d in chosen for u in d.utterances]
        counts = Counter(u.label for u in turns)
        cells = [len(chosen), len(turns), len(turns) - counts[None]]
        cells += [counts[k] for k in range(len(corpus.label_set))]
        table.add_row(split, *(f"{cell:,}" for cell in cells))
    console.print(table)
    rated = sum(u.scores is not None for u in corpus.utterances)
    speakers = len({u.speaker for u in corpus.utterances})
    features = ", ".join(f"{name} {card.dims}-d" for name, card in corpus.cards.items()) or "none"
    told = [f"{speakers} speakers; dimension scores on {rated:,} utterances; features: {features}"]
    told += report.notes
    told.append("counts differ from the published ones" if report.deviations else "counts checked")
    told += [f"  {line}" for line in report.deviations]
    told += [corpus.contaminated] if corpus.contaminated else []
    for line in told:
        console.print(f"  {line}", highlight=False, markup=False)


if __name__ == "__main__":
    command(main)
