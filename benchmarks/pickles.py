"""Time and memory of importing a feature pickle of IEMOCAP's size: python -m benchmarks.pickles

A made-up 12-tuple in SDT's layout, written to a temporary folder: 151 dialogues, 7,433 utterances, four text views of
1,024 values, 1,582 audio and 342 visual. The import is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.labels import COUNTS

DIALOGUES = {"train": 120, "test": 31}
SIZES = (("f4", 1024),) * 4 + (("f8", 1582), ("f4", 342))


def content(lists: bool) -> tuple[Any, ...]:
    """The 12-tuple, with the published count of every class in both splits; vectors as arrays or as *lists*."""
    rng = np.random.default_rng(0)
    labels: dict[str, list[int]] = {}
    splits: dict[str, list[str]] = {}
    for part, counts in COUNTS["iemocap-6-legacy"].items():
        mixed = rng.permutation(np.repeat(np.arange(6), counts))
        shares = np.array_split(mixed, DIALOGUES[part])
        splits[part] = [f"Ses0{5 if part == 'test' else n // 30 + 1}F_impro{n:03d}" for n in range(len(shares))]
        labels |= {name: share.tolist() for name, share in zip(splits[part], shares)}
    turns = {i: [f"{i}_{'FM'[n % 2]}{n:03d}" for n in range(len(of))] for i, of in labels.items()}
    speakers = {i: ["FM"[n % 2] for n in range(len(of))] for i, of in labels.items()}
    sentences = {i: [f"zorp {n} blick" for n in range(len(of))] for i, of in labels.items()}
    features = []
    for kind, dims in SIZES:
        rows = {i: list(rng.normal(size=(len(of), dims)).astype(kind)) for i, of in labels.items()}
        features.append({i: [row.tolist() for row in of] for i, of in rows.items()} if lists else rows)
    return (turns, speakers, labels, *features, sentences, splits["train"], splits["test"])


def main() -> None:
    """Write the pickle, import it, print seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--protocol", type=int, default=2, help="of the pickle; default: %(default)s")
    parser.add_argument("--lists", action="store_true", help="vectors as lists of numbers instead of arrays")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the pickle and stop")
    given = parser.parse_args()
    if given.write:
        with given.write.open("wb") as file:
            pickle.dump(content(given.lists), file, protocol=given.protocol)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sdt.pkl")
        # In a process of its own: a child's peak memory counts what its parent held when it started.
        subprocess.run([sys.executable, "-m", "benchmarks.pickles", *sys.argv[1:], "--write", str(path)], check=True)
        print(f"pickle of {path.stat().st_size / 2**20:.0f} MB, protocol {given.protocol}", flush=True)
        command = [sys.executable, "-m", "experiments.import_corpus", "iemocap-pickle", "--pickle", str(path)]
        start = time.perf_counter()
        process = subprocess.Popen([*command, "--out", str(Path(folder, "out"))])
        _, _, used = os.wait4(process.pid, 0)
        print(f"imported in {time.perf_counter() - start:.1f} s, peak memory {used.ru_maxrss / 2**10:.0f} MB")


if __name__ == "__main__":
    main()
