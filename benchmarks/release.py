"""Writes made-up releases in the layout of ``IEMOCAP_full_release``: small ones for tests, one of full size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lantern.corpora.labels import COUNTS
from lantern.corpora.readers.iemocap import CODE_COUNTS, DIALOGUES

WORDS = [
    *("brass", "candle", "river", "quietly", "ladder", "under", "seven", "orange", "marble", "never", "folding"),
    *("lantern", "garden", "slowly", "paper", "window", "whistle", "amber", "copper", "maybe", "tangled", "harbour"),
    *("upward", "thimble", "gravel", "silver", "meadow", "button", "winter", "kettle"),
]
_NAMES = {"ang": "Anger", "hap": "Happiness", "exc": "Excited", "sad": "Sadness", "neu": "Neutral state"}
_NAMES |= {"fru": "Frustration", "fea": "Fear", "sur": "Surprise", "dis": "Disgust", "oth": "Other", "xxx": "Other"}
_LAST_SESSION = {"fea": 10, "sur": 18, "xxx": 520}
"""Codes without a class in session 5, whose 2,170 turns are the usual test split."""


@dataclass(frozen=True, slots=True)
class Said:
    """One turn: the contents of its evaluation block and of its transcript line."""

    id: str
    text: str = "amber ladder."
    start: float = 1.0
    end: float = 2.5
    code: str = "neu"
    scores: tuple[float, float, float] = (3.0, 3.0, 3.0)
    votes: dict[str, str] = field(default_factory=lambda: {"C-E2": "Neutral;", "C-E3": "Neutral;", "C-F1": "Neutral;"})
    ratings: dict[str, str] = field(default_factory=lambda: {"A-E3": "val 3; act 2; dom  2;"})

    @property
    def block(self) -> str:
        """Of the evaluation file."""
        scores = ", ".join(f"{score:.4f}" for score in self.scores)
        lines = [f"[{self.start:.4f} - {self.end:.4f}]\t{self.id}\t{self.code}\t[{scores}]"]
        lines += [f"{who}:\t{what}\t()" for who, what in {**self.votes, **self.ratings}.items()]
        return "\n".join(lines) + "\n\n"

    @property
    def line(self) -> str:
        """Of the transcript."""
        return f"{self.id} [{self.start:08.4f}-{self.end:08.4f}]: {self.text}"


def write_dialogue(root: Path, name: str, turns: Sequence[Said], transcript: Sequence[str] | None = None) -> None:
    """Write the two files of dialogue *name*; *transcript* replaces the lines of *turns*."""
    folder = root / f"Session{int(name[3:5])}" / "dialog"
    for part in ("EmoEvaluation", "transcriptions"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    # Evaluations are in the order of time, transcripts need not be.
    blocks = "".join(turn.block for turn in sorted(turns, key=lambda turn: turn.start))
    header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    (folder / "EmoEvaluation" / f"{name}.txt").write_text(header + blocks, encoding="latin-1")
    lines = [turn.line for turn in turns] if transcript is None else transcript
    (folder / "transcriptions" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="latin-1")


def write_full_release(root: Path, seed: int = 0) -> None:
    """151 dialogues with 10,039 turns, every known count as in the corpus, 48 extra transcript lines, stray files."""
    rng = np.random.default_rng(seed)
    kinds = {5: _kinds(rng, last=True)}
    early = _kinds(rng, last=False)
    for session, part in zip((1, 2, 3, 4), np.array_split(np.arange(len(early)), np.cumsum(DIALOGUES[:3]) * 66)):
        kinds[session] = [early[i] for i in part]
    extra = 48
    for session in range(1, 6):
        names = list(_names(session))
        cuts = np.array_split(np.arange(len(kinds[session])), len(names))
        for name, cut in zip(names, cuts):
            turns = list(_turns(rng, name, [kinds[session][i] for i in cut]))
            lines = [turn.line for turn in turns]
            if extra:
                lines.insert(
                    len(lines) // 2, f"{name}_MXX0 [001.0000-002.0000]: [LAUGHTER], {WORDS[extra % len(WORDS)]}."
                )
                extra -= 1
            write_dialogue(root, name, turns, lines)
        folder = root / f"Session{session}" / "dialog"
        (folder / "EmoEvaluation" / f"._{names[0]}.txt").write_bytes(b"\0\5\x16\7\xff")
        (folder / "EmoEvaluation" / "Categorical").mkdir()
        (folder / "EmoEvaluation" / "Categorical" / f"{names[0]}_e2_cat.txt").write_text("x :Anger; ()\n")
        (folder / "transcriptions" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


def _kinds(rng: np.random.Generator, last: bool) -> list[tuple[str, bool]]:
    """Code of every turn of session 5, or of all others, and whether the published files call it happy anyway."""
    official, legacy = COUNTS["iemocap-6"], COUNTS["iemocap-6-legacy"]
    part = "test" if last else "train"
    counts = dict(zip(("hap", "sad", "neu", "ang", "exc", "fru"), official[part]))
    rest = {code: n for code, n in CODE_COUNTS.items() if code not in counts}
    counts |= {code: _LAST_SESSION.get(code, 0) if last else n - _LAST_SESSION.get(code, 0) for code, n in rest.items()}
    hidden = legacy[part][0] - official[part][0]
    codes = [(code, False) for code, n in counts.items() for _ in range(n - (hidden if code == "xxx" else 0))]
    codes += [("xxx", True)] * hidden
    return [codes[i] for i in rng.permutation(len(codes))]


def _names(session: int) -> Iterator[str]:
    """Made-up dialogue names, the odd ones of the release among them."""
    odd = {3: ["M_impro05a", "M_impro05b", "M_impro08a", "M_impro08b"], 5: ["M_script01_1b"]}.get(session, [])
    regular = [f"{actor}_{kind}" for actor in "FM" for kind in [f"impro{n:02d}" for n in range(11, 19)]]
    regular += [f"{actor}_script{n:02d}_{part}" for actor in "FM" for n in (1, 2, 3) for part in (1, 2, 3)]
    yield from (f"Ses{session:02d}{name}" for name in [*odd, *regular][: DIALOGUES[session - 1]])


def _turns(rng: np.random.Generator, name: str, kinds: Sequence[tuple[str, bool]]) -> Iterator[Said]:
    clock, numbers = 3.0, {"F": 0, "M": 0}
    for code, hidden in kinds:
        letter = "FM"[int(rng.integers(2))]
        length = float(rng.uniform(0.5, 8))
        votes = {f"C-E{n}": f"{_NAMES[code]};" for n in (1, 2, 3)}
        votes[f"C-{letter}1"] = "Happiness;" if hidden else f"{_NAMES[code]};"
        votes |= {"C-E1": "Happiness; Excited;"} if hidden else {}
        ratings = {
            f"A-{who}": "val {}; act {}; dom  {};".format(*rng.integers(1, 6, 3)) for who in ("E1", "E2", f"{letter}1")
        }
        yield Said(
            id=f"{name}_{letter}{numbers[letter]:03d}",
            text=" ".join(WORDS[i] for i in rng.integers(0, len(WORDS), int(rng.integers(1, 25)))),
            start=clock,
            end=clock + length,
            code=code,
            scores=(2.5, 3.0, float(rng.integers(2, 11)) / 2),
            votes=votes,
            ratings=ratings,
        )
        clock += length
        numbers[letter] += 1
