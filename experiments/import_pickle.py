"""The kinds of ``experiments.import_corpus`` that read published pickles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lantern.errors import UserError

if TYPE_CHECKING:
    from lantern.corpora.folder import Corpus

JOIN = "corpus folder imported from {}: its full transcript, labels and scores with the pickle's features"


def iemocap_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``iemocap-pickle``."""
    _pickle(parser, ("mmgcn", "sdt", "corect", "cosmic"), "the raw release")
    parser.add_argument(
        "--label-set",
        metavar="NAME",
        help="what the pickle's labels are; default: iemocap-6-legacy or iemocap-4-hap-legacy",
    )
    parser.add_argument("--ids", type=Path, metavar="PICKLE", help="another pickle, to take turn ids from")
    parser.add_argument(
        "--no-features", action="store_true", help="a pickle without features: compute no text features"
    )


def meld_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``meld-pickle``."""
    _pickle(parser, ("mmgcn", "sdt"), "the CSV files")


def _pickle(parser: argparse.ArgumentParser, layouts: tuple[str, ...], origin: str) -> None:
    parser.add_argument(
        "--pickle", type=Path, required=True, metavar="FILE", help="read without running anything in it"
    )
    parser.add_argument("--layout", choices=layouts, help="accept this layout only; default: seen from the structure")
    parser.add_argument("--join", type=Path, metavar="DIR", help=JOIN.format(origin))


def iemocap(given: argparse.Namespace) -> Corpus:
    """IEMOCAP from a pickle, alone or joined."""
    from lantern.corpora.folder import load_corpus
    from lantern.corpora.readers.join import join, with_turn_ids
    from lantern.corpora.readers.pickled import iemocap_corpus, read_iemocap
    from lantern.corpora.readers.published import read_published

    folder = None if given.join is None else load_corpus(given.join)
    imported = read_iemocap(given.pickle, given.layout, given.label_set)
    if given.ids is not None:
        if imported.published.dialogues[0].turns is not None:
            raise UserError(f"--ids {given.ids}: {given.pickle} has turn ids of its own")
        imported = with_turn_ids(imported, read_published(given.ids, "iemocap"))
    return iemocap_corpus(imported) if folder is None else join(folder, imported)


def meld(given: argparse.Namespace) -> Corpus:
    """MELD from a pickle, alone or joined."""
    from lantern.corpora.folder import load_corpus
    from lantern.corpora.readers.join import join
    from lantern.corpora.readers.pickled import meld_corpus, read_meld

    folder = None if given.join is None else load_corpus(given.join)
    imported = read_meld(given.pickle, given.layout)
    return meld_corpus(imported) if folder is None else join(folder, imported)
