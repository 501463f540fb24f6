"""The commands that texts and configuration files name, and the small copies of the data they speak of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from benchmarks.release import Said, write_dialogue
from lantern.config.groups import CONFIG_DIR
from lantern.corpora.folder import load_corpus
from tests.corpora import pickles
from tests.corpora.readers import test_emorynlp, test_meld
from tests.features.conftest import write_wavs

README = CONFIG_DIR.parent / "README.md"
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(python -m experiments\.[^`]+)`")
_PLACEHOLDER = re.compile(r"<[^<>]+>")
IEMOCAP_CODES = ("hap", "sad", "neu", "ang", "exc", "fru")
MELD_CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
MADE = {
    "meld --csv <folder of the CSVs>": "meld --csv raw/meld",
    "emorynlp --csv <folder of the CSVs>": "emorynlp --csv raw/emorynlp",
    "<IEMOCAP_full_release>": "raw/IEMOCAP_full_release",
    "iemocap-pickle --pickle <file.pkl>": "iemocap-pickle --pickle raw/iemocap.pkl",
    "meld-pickle --pickle <file.pkl>": "meld-pickle --pickle raw/meld.pkl",
    "--wav <folder>": "--wav raw/wav",
    "runs/<one>": "one",
}
"""What is typed where a text has a placeholder."""


def commands(text: str) -> list[str]:
    """The lines of a Markdown text's ``bash`` blocks, and the ``python -m experiments`` commands in its prose."""
    found = [line for block in _BLOCK.findall(text) for line in _lines(block)]
    prose = _BLOCK.sub("", text)
    return [*found, *(" ".join(inline.split()).rstrip(" …") for inline in _INLINE.findall(prose))]


def _lines(block: str) -> Iterator[str]:
    for line in block.replace("\\\n", " ").splitlines():
        bare = re.sub(r"(^|\s)#.*", "", line)
        yield from filter(None, (part.strip() for part in re.split(r"\s&&\s|;\s", bare)))


def in_comments(folder: Path = CONFIG_DIR) -> list[str]:
    """The commands that comments of configuration files name, those of the experiments left out."""
    found = []
    for path in sorted(folder.glob("**/*.yaml")):
        if path.parent.name != "experiment":
            found += re.findall(r"^#.*?(python -m experiments\.\S.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found


def fill(command: str) -> list[str]:
    """The words of *command*, with paths of the workshop in place of its placeholders."""
    for words, typed in MADE.items():
        command = command.replace(words, typed)
    unknown = _PLACEHOLDER.search(command)
    assert unknown is None, f"{command}: tests/documented.py does not say what stands for {unknown and unknown[0]}"
    return shlex.split(command)


def write_raw(raw: Path) -> None:
    """Every raw corpus that the commands import, a few dialogues each."""
    for name in ("meld", "emorynlp"):
        (raw / name).mkdir(parents=True)
    rows = {
        part: [test_meld.row(f"Line {n} of {d}", MELD_CLASSES[(d + n) % 7], d, n, "AB"[n % 2]) for d, n in _grid(8, 4)]
        for part in ("train", "dev", "test")
    }
    test_meld.write(raw / "meld", rows)
    dialogues = {d: [(d + n) % 7 for n in range(4)] for d in range(8)}
    numbered = {**dialogues, **{1153 + d: labels for d, labels in dialogues.items() if d < 2}}
    pickles.write(raw / "meld.pkl", pickles.meld(numbered, list(range(8)), [1153, 1154]))
    test_emorynlp.write_csv(raw / "emorynlp")
    pickles.write(raw / "iemocap.pkl", pickles.twelve(pickles.iemocap()), protocol=2)
    for name, labels in pickles.LABELS.items():
        turns = [
            Said(f"{name}_{'FM'[n % 2]}{2 * n:03d}", f"zorp {n} blick, {name[3:6]}", n, n + 0.9, IEMOCAP_CODES[label])
            for n, label in enumerate(labels)
        ]
        write_dialogue(raw / "IEMOCAP_full_release", name, turns)


def _grid(dialogues: int, turns: int) -> list[tuple[int, int]]:
    return [(d, n) for d in range(dialogues) for n in range(turns)]


def write_recordings(corpus: Path, raw: Path) -> None:
    """A wav file per utterance of a corpus folder."""
    write_wavs(load_corpus(corpus, features=False), raw / "wav")
