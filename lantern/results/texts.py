"""The words of the test turns, for the dialogue reader. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.results.load import Run


@dataclass(frozen=True, slots=True)
class Texts:
    """Text by utterance id, or why there is none."""

    by_id: dict[str, str]
    note: str = ""


def texts_of(run: Run, with_text: bool) -> Texts:
    """Text of the utterances of *run*'s corpus, read from the corpus folder that its configuration names.

    Args:
        run: any run of the corpus.
        with_text: also where the licence forbids passing the text on.
    """
    try:
        corpus = _corpus(run)
    except UserError as error:
        return Texts({}, f"turns are shown by their ids, without text: {error}")
    if corpus.redistribution == "forbidden" and not with_text:
        return Texts({}, f"turns are shown by their ids: the licence of {corpus.name} forbids passing its text on")
    if corpus.fingerprint != run.result["corpus"].get("fingerprint"):
        where = run.config["corpus"].get("path") or "the generator's corpus"
        return Texts({}, f"turns are shown by their ids, without text: {where} is not the corpus of the run any more")
    return Texts({u.id: u.text for u in corpus.utterances})


def _corpus(run: Run) -> Corpus:
    wanted = run.config["corpus"]
    limit = wanted.get("limit_dialogues")
    if wanted.get("path") is not None:
        corpus = load_corpus(Path(wanted["path"]), features=limit is not None)  # they are part of a cut fingerprint
    elif wanted.get("name") == "sample":
        corpus = generate_sample(seed=wanted.get("seed", 0), dialogues=wanted.get("dialogues", 60))
    else:
        raise UserError(f"the run's configuration names no folder of corpus {wanted.get('name')!r}")
    return corpus if limit is None else corpus.limit(int(limit))
