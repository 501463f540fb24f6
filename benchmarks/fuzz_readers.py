"""Mutated conversations never end in a traceback: python -m benchmarks.fuzz_readers --files 20000

Every reader of conversations gets mutated copies of the files of tests/examples/conversations. It reads them or raises
UserError with one line; anything else is printed with the seed that makes it again. Prints files, refusals, seconds and
peak memory.
"""

from __future__ import annotations

import argparse
import logging
import random
import resource
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lantern.corpora.readers.conversations import read_transcript
from lantern.errors import UserError

EXAMPLES = Path(__file__).resolve().parent.parent / "tests" / "examples" / "conversations"
PIECES = (
    *(
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "  ",
        ": ",
        "：",
        "-",
        "- ",
        ">> ",
        " --> ",
        "<v ",
        "<v Mira>",
        "</v>",
        "<",
        ">",
        "&amp;",
    ),
    *(
        "&#0;",
        "&#1114112;",
        "\x00",
        "\x15",
        "\x151_2\x15",
        "\ufeff",
        "\u200e",
        "\u202e",
        "\ud7ff",
        "🦊",
        '"',
        "'",
        "{",
        "}",
        "[",
    ),
    *(
        "]",
        ",",
        "null",
        "1e999",
        "NaN",
        "9" * 40,
        "9" * 5000,
        "²",
        "٣",
        "12/03/2024, 10:15 - ",
        "[10:15] ",
        "00:00:01,000",
        "10:15",
    ),
    *(
        "WEBVTT",
        "NOTE",
        "Transcript",
        "=====",
        "{Attachments}",
        "*CHI:\t",
        "@Begin",
        "%mor:\t",
        "a" * 300,
        "(" * 200,
        "[" * 2000,
    ),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """*content* after one to six random changes: pieces put in, taken out or doubled, lines mixed."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 4, 40, 400)))
        change = rng.randrange(6)
        if change == 0:
            data[at:at] = rng.choice(PIECES).encode()
        elif change == 1:
            data[at:end] = rng.choice(PIECES).encode()
        elif change == 2:
            del data[at:end]
        elif change == 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 20))
        elif change == 4 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            lines = bytes(data).split(b"\n")
            rng.shuffle(lines)
            data = bytearray(b"\n".join(lines))
    return bytes(data)


def outcomes(folder: Path, files: int, seed: int) -> Iterator[tuple[int, str, BaseException | None]]:
    """Seed, example and error (None when it was read) of each of *files* mutated files, written to *folder*."""
    examples = sorted(EXAMPLES.iterdir())
    for number in range(seed, seed + files):
        rng = random.Random(number)
        example = rng.choice(examples)
        suffix = example.suffix if rng.random() < 0.9 else rng.choice(examples).suffix
        path = folder / f"fuzz{suffix}"
        path.write_bytes(mutated(example.read_bytes(), rng))
        try:
            read_transcript(path)
        except Exception as error:  # noqa: BLE001  whatever a reader raises is the result
            yield number, example.name, error
        else:
            yield number, example.name, None


def main() -> int:
    """Read mutated files; 1 when a reader raised anything but a UserError in one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the first file; default: %(default)s")
    given = parser.parse_args()
    logging.disable()
    counts: Counter[str] = Counter()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed, name, error in outcomes(Path(folder), given.files, given.seed):
            wrong = error is not None and (not isinstance(error, UserError) or "\n" in str(error))
            counts["wrong" if wrong else "read" if error is None else "refused"] += 1
            if wrong:
                print(f"--seed {seed} --files 1 ({name})")
                traceback.print_exception(error)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{dict(counts)}, {time.perf_counter() - start:.0f} s, peak memory {peak:.0f} MB")
    return int(bool(counts["wrong"]))


if __name__ == "__main__":
    raise SystemExit(main())
