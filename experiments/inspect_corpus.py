"""Look into a corpus folder: ``python -m experiments.inspect_corpus data/meld`` prints its card and writes a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.console import Parser, command, screen

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.corpora.folder import Corpus


def _parser() -> Parser:
    parser = Parser(
        prog="python -m experiments.inspect_corpus",
        description="Print the card of a corpus folder, and write a page in which to see its histograms and read its "
        "dialogues. The page is one file that loads nothing; it holds the text of the corpus.",
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS_FOLDER")
    parser.add_argument("--out", type=Path, metavar="PAGE.html", help="default: beside the folder, under its name")
    return parser


def main(arguments: list[str]) -> int:
    """Verify the folder, print, write."""
    given = _parser().parse_args(arguments)

    from experiments.import_corpus import print_summary
    from lantern.corpora.folder import load_corpus
    from lantern.files import check_place
    from lantern.report.corpus_page import write_page

    console = screen()
    corpus = load_corpus(given.corpus)
    folder = given.corpus.resolve()
    out = given.out or folder.with_name(f"{folder.name}.html")
    check_place("--out", out, folder=False)
    page = write_page(corpus, out)
    print_summary(console, corpus, given.corpus)
    _print_facts(console, corpus)
    own = "for your own use: it holds text that may not be passed on" if corpus.redistribution == "forbidden" else ""
    console.print(f"  page: {page}{f' ({own})' if own else ''}", soft_wrap=True)
    return 0


def _print_facts(console: Console, corpus: Corpus) -> None:
    lines = [f"source: {corpus.source or 'unknown'}", f"redistribution of the text: {corpus.redistribution}"]
    for name, card in corpus.cards.items():
        lines.append(f"{name}: {card.extractor}, version {card.version}, layer {card.layer or 'unknown'}")
        lines.append(f"  {card.dims}-d, fitted on labels: {card.fitted_on}, sha256 {card.sha256} (verified)")
        lines += [f"  {card.licence}"] if card.licence else []
    for line in lines:
        console.print(f"  {line}")


if __name__ == "__main__":
    command(main)
