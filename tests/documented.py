"""The commands in documents and configuration files, and small copies of the data that they read."""

from __future__ import annotations

import json
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
from tests.features.made_clips import write_meld_clips

ROOT = CONFIG_DIR.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), CONFIG_DIR / "README.md")
"""Every command and link in them is tested."""
_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:python -m experiments\.|lantern )[^`]+)`")
_PLACEHOLDER = re.compile(r"<[^<>]+>")
IEMOCAP_CODES = ("hap", "sad", "neu", "ang", "exc", "fru")
MELD_CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
EMORY_CLASSES = ("Neutral", "Joyful", "Peaceful", "Powerful", "Scared", "Mad", "Sad")
MADE = {
    "meld --csv <folder of the CSVs>": "meld --csv raw/meld",
    "emorynlp --csv <folder of the CSVs>": "emorynlp --csv raw/emorynlp",
    "<IEMOCAP_full_release>": "raw/IEMOCAP_full_release",
    "iemocap-pickle --pickle <file.pkl>": "iemocap-pickle --pickle raw/iemocap.pkl",
    "meld-pickle --pickle <file.pkl>": "meld-pickle --pickle raw/meld.pkl",
    "emorynlp-pickle --pickle <folder of JSON files>": "emorynlp-pickle --pickle raw/dag-erc",
    "--clips <folder>": "--clips raw/wav",
    "<MELD.Raw>": "raw/MELD.Raw",
    "runs/<one>": "one",
    "tuned=<file>": "tuned=tuned.yaml",
    "experiment=<name>": "experiment=causal",
}
"""The value of each placeholder."""
CONSOLE = {"import": "import_corpus", "inspect": "inspect_corpus", "features": "extract_features"}
"""Modules of ``experiments`` that the console command has another name for."""


def commands(text: str) -> list[str]:
    """The lines of a Markdown text's ``bash`` blocks, and the commands in its prose."""
    in_blocks = [line for block in _BLOCK.findall(text) for line in _lines(block)]
    return [*in_blocks, *(" ".join(inline.split()) for inline in _INLINE.findall(_BLOCK.sub("", text)))]


def _lines(block: str) -> Iterator[str]:
    for line in block.replace("\\\n", " ").splitlines():
        bare = re.sub(r"(^|\s)#.*", "", line)
        yield from filter(None, (part.strip() for part in re.split(r"\s&&\s|;\s", bare)))


def in_comments(folder: Path = CONFIG_DIR) -> list[str]:
    """The commands in comments of configuration files, except those of the experiments."""
    paths = [path for path in sorted(folder.glob("**/*.yaml")) if path.parent.name != "experiment"]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [line for text in texts for line in re.findall(r"^#.*?(python -m experiments\.\S.*)$", text, re.MULTILINE)]


def fill(command: str) -> list[str]:
    """The words of *command*, with the workshop's paths for its placeholders and a module for the console command."""
    for placeholder, value in MADE.items():
        command = command.replace(placeholder, value)
    unknown = _PLACEHOLDER.search(command)
    assert unknown is None, f"{command}: tests/documented.py has no value for {unknown and unknown[0]}"
    words = shlex.split(command)
    if words[0] == "lantern":
        words[:2] = ["python", "-m", f"experiments.{CONSOLE.get(words[1], words[1])}"]
    return words


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
    scenes = {
        part: [test_emorynlp.row(f"Line {n}", EMORY_CLASSES[(d + n) % 7], first + d, n) for d, n in _grid(4, 3)]
        for part, first in (("train", 1), ("dev", 5), ("test", 9))
    }
    test_emorynlp.write_csv(raw / "emorynlp", scenes)
    (raw / "dag-erc").mkdir()
    for part in ("train", "dev", "test"):
        turns = [{"text": f"Line {n}", "speaker": "AB"[n % 2], "label": "Joyful", "cls": [n, 0.5]} for n in range(3)]
        (raw / "dag-erc" / f"{part}_data_roberta_v9.json.feature").write_text(json.dumps([turns] * 3))
    pickles.write(raw / "iemocap.pkl", pickles.twelve(pickles.iemocap()), protocol=2)
    for name, labels in pickles.LABELS.items():
        said = [
            Said(f"{name}_{'FM'[n % 2]}{2 * n:03d}", f"zorp {n} blick, {name[3:6]}", n, n + 0.9, IEMOCAP_CODES[label])
            for n, label in enumerate(labels)
        ]
        write_dialogue(raw / "IEMOCAP_full_release", name, said)


def _grid(dialogues: int, turns: int) -> list[tuple[int, int]]:
    return [(d, n) for d in range(dialogues) for n in range(turns)]


def write_recordings(corpus: Path, raw: Path) -> None:
    """A wav file per utterance of a corpus folder, and MELD's clips."""
    write_wavs(load_corpus(corpus, features=False), raw / "wav")
    grid = [(part, d, n, (d + n) % 7) for part in ("train", "dev", "test") for d, n in _grid(8, 4)]
    write_meld_clips(raw / "MELD.Raw", grid)
