"""Readers of raw corpora, and the table of what ``experiments.import_corpus`` can import.

A new source is a reader module and an entry of :data:`SOURCES`. This module imports no reader, so listing is fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lantern.corpora.folder import Corpus


Option = tuple[str, dict[str, Any]]
"""A flag of the command line and the other arguments of ``argparse.ArgumentParser.add_argument``."""


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of raw corpus."""

    help: str
    reader: str
    """``module:function`` below ``lantern.corpora``; the function returns a :class:`Corpus`."""
    options: dict[str, Option]
    """By keyword argument of the reader."""
    of: str = ""
    """The corpus, for a reader of several; its argument ``of``."""

    def read(self, arguments: dict[str, Any]) -> Corpus:
        """The corpus that the reader makes of *arguments*, one per option. Errors are those of the reader."""
        module, function = self.reader.split(":")
        given = {**arguments, "of": self.of} if self.of else arguments
        return getattr(import_module(f"lantern.corpora.{module}"), function)(**given)


def _option(flag: str, help: str, **settings: Any) -> Option:
    return flag, {"help": help, **settings}


def _path(flag: str, help: str, metavar: str = "DIR", **settings: Any) -> Option:
    return _option(flag, help, type=Path, metavar=metavar, **settings)


def _label_set(help: str, default: str | None = None, metavar: str = "NAME", **settings: Any) -> Option:
    return _option("--label-set", help, default=default, metavar=metavar, **settings)


def _published(name: str, origin: str, layouts: tuple[str, ...], **more: Option) -> Source:
    """Features of the corpus *name* as other projects publish them; *origin* has its full transcript."""
    joined = f"corpus folder imported from {origin}: its full transcript, labels and scores with these features"
    options = {
        "path": _path("--pickle", _PICKLE, "FILE|DIR", required=True),
        "layout": _option("--layout", "accept only this layout; default: the one that fits", choices=layouts),
        "folder": _path("--join", joined),
        **more,
    }
    return Source(
        f"{name} from published features: {', '.join(_PROJECTS[layout] for layout in layouts)}",
        "readers.join:import_pickle",
        options,
        name.lower(),
    )


_PROJECTS = {
    "mmgcn": "MMGCN (also COGMEN, CORECT)",
    "sdt": "SDT",
    "corect": "CORECT's preprocessed dict",
    "cosmic-roberta": "COSMIC's RoBERTa files (also M3NET, DialogueCRN, SACL-LSTM)",
    "cosmic": "COSMIC's text-only files",
    "dialoguernn": "DialogueRNN (also DialogueGCN)",
    "dag-erc": "JSON of DAG-ERC and DialogXL",
}
"""Who published a layout."""
_IEMOCAP_SETS = "iemocap-6 (default), iemocap-6-legacy, iemocap-4-hap, iemocap-4-hap-legacy or iemocap-4-happexc"
_COLUMNS = (
    ".csv or .jsonl with dialogue, speaker, text; optional: utterance (id), label, valence, arousal, dominance, split, "
    "session, start, end"
)
_YAML = "one of Lantern's, or a file with name, classes (a list), definitions (a line per class; optional)"
_SPLIT = "dialogues of train, dev or test, by id or pattern (test='s05_*'); in place of a column split"
_TERMS = "whether the text may be passed on, for example to a remote LLM; default: %(default)s"
_PICKLE = "a pickle, read without running anything in it; or the folder of DAG-ERC's or DialogXL's JSON files"
_MINILM = "only text features, by MiniLM from the words: such runs can predict your own conversations"

SOURCES: dict[str, Source] = {
    "meld": Source(
        "MELD from its CSV files; text features by MiniLM on the CPU, minutes",
        "readers.meld:import_meld",
        {
            "folder": _path("--csv", "holds train_, dev_, test_sent_emo.csv", required=True),
            "label_set_name": _label_set("meld-7 (default) or meld-3 (sentiment)", "meld-7"),
        },
    ),
    "iemocap": Source(
        "IEMOCAP from its raw release; text features by MiniLM, minutes",
        "readers.iemocap:import_iemocap",
        {
            "root": _path("--release", "IEMOCAP_full_release", required=True),
            "label_set_name": _label_set(_IEMOCAP_SETS, "iemocap-6"),
        },
    ),
    "iemocap-pickle": _published(
        "IEMOCAP",
        "the raw release",
        ("mmgcn", "sdt", "corect", "cosmic-roberta", "cosmic", "dialoguernn", "dag-erc"),
        label_set_name=_label_set("of the pickle's labels; default: iemocap-6-legacy or iemocap-4-hap-legacy"),
        ids=_path("--ids", "another pickle, to take turn ids from", "PICKLE"),
    ),
    "meld-pickle": _published(
        "MELD", "the CSV files", ("mmgcn", "sdt", "cosmic-roberta", "cosmic", "dialoguernn", "dag-erc")
    ),
    "emorynlp-pickle": _published(
        "EmoryNLP", "its CSV or JSON files", ("cosmic-roberta", "cosmic", "dialoguernn", "dag-erc")
    ),
    "emorynlp": Source(
        "EmoryNLP from its JSON or CSV files; text features by MiniLM",
        "readers.emorynlp:import_emorynlp",
        {
            "json": _path("--json", "holds emotion-detection-{trn,dev,tst}.json: all of it"),
            "csv": _path("--csv", "holds emorynlp_{train,dev,test}_final.csv: the part with times"),
        },
    ),
    "custom": Source(
        "your own transcript, labels, scores and feature files",
        "readers.custom:read_custom",
        {
            "path": _path("--transcript", _COLUMNS, "FILE", required=True),
            "label_set_name": _label_set(_YAML, metavar="NAME|FILE.yaml", required=True),
            "name": _option("--name", "of the corpus; default: that of the transcript", default=""),
            "score_range": _option("--score-range", "scale of the scores, for example 1,5", metavar="LOW,HIGH"),
            "redistribution": _option(
                "--redistribution", _TERMS, choices=("allowed", "forbidden"), default="forbidden"
            ),
            "split": _option("--split", _SPLIT, action="append", default=[], metavar="PART=ID,..."),
        },
    ),
    "sample": Source(
        "the made-up sample corpus, written out",
        "sample.generator:generate_sample",
        {
            "seed": _option("--seed", "default: %(default)s", type=int, default=0),
            "dialogues": _option("--dialogues", "default: %(default)s", type=int, default=60),
            "features": _option("--minilm", _MINILM, action="store_false"),
        },
    ),
}
