"""CPU seconds of short commands: ``python -m benchmarks.startup [--against <checkout>] [--times 3]``.

A small run, the same command again, four that are refused, a table of 100 runs, and predictions for a chat. With
``--against`` another checkout of Lantern does the same in turn, with the same packages. Each figure is the median over
the times, of a process and all that it starts.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import copy

HERE = Path(__file__).resolve().parent.parent
RUN = ["experiments.run", "backbone=gru", "llm=simulated", "corpus.dialogues=20"]
REFUSED = {
    "refused: no such corpus": ["experiments.run", "corpus=meld", "corpus.path=nowhere", "backbone=gru"],
    "refused: no key": ["experiments.run", "backbone=gru", "llm=gpt-4o"],
    "refused: no GPU": [*RUN, "trainer.accelerator=gpu"],
    "refused: no such run": ["experiments.compare", "nowhere"],
}
CHAT = "Ann: we won, I cannot believe it!\nBob: that is wonderful\n"


def main() -> None:
    """Measure all commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--times", type=int, default=3, help="default: %(default)s")
    given = parser.parse_args()
    checkouts = [HERE, *([given.against.resolve()] if given.against else [])]
    found: dict[str, list[list[float]]] = {}
    for _ in range(given.times):
        for number, checkout in enumerate(checkouts):
            with tempfile.TemporaryDirectory() as place:
                for name, seconds in measured(checkout, Path(place)):
                    found.setdefault(name, [[] for _ in checkouts])[number].append(seconds)
    print("| command | CPU seconds" + " | of the other checkout" * (len(checkouts) - 1) + " |")
    print("|---" * (len(checkouts) + 1) + "|")
    for name, columns in found.items():
        print(f"| {name} | " + " | ".join(f"{statistics.median(column):.1f}" for column in columns) + " |")


def measured(checkout: Path, place: Path) -> Iterator[tuple[str, float]]:
    """What was done in the empty folder *place*, and its CPU seconds."""
    yield "small run", spent(checkout, place, RUN)
    yield "the same again", spent(checkout, place, RUN)
    for name, command in REFUSED.items():
        yield name, spent(checkout, place, command, refused=True)
    (run,) = (path.parent for path in (place / "runs").glob("*/metrics.json"))
    for number in range(100):
        copy(run, place / "many" / str(number), number)
    yield "compare 100 runs", spent(checkout, place, ["experiments.compare", "many"])
    spent(checkout, place, ["experiments.import_corpus", "sample", "--dialogues", "20", "--minilm", "--out", "words"])
    spent(checkout, place, [*RUN[:2], "refine.enabled=false", "corpus.path=words", "trainer.epochs=1", "runs=read"])
    (reader,) = (path.parent for path in (place / "read").glob("*/metrics.json"))
    (place / "chat.txt").write_text(CHAT)
    yield "predict a chat", spent(checkout, place, ["experiments.predict", "chat.txt", "--run", str(reader)])


def spent(checkout: Path, place: Path, command: list[str], refused: bool = False) -> float:
    """CPU seconds of *command*, which must succeed or, where it is *refused*, end with 2."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OPENAI_API_KEY": ""}
    done = subprocess.run([sys.executable, "-m", *command], cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode != (2 if refused else 0):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
