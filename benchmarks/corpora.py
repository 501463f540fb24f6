"""Importing and loading IEMOCAP at full size: ``python -m benchmarks.corpora``.

Writes a made-up release of 151 dialogues and 10,039 turns, imports it with three modalities of random features (text
1024, audio 1582, visual 342), and loads the corpus folder as a run does. Prints seconds and the process's peak memory.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"text": 1024, "audio": 1582, "visual": 342}
LIMITS = {"import": (30.0, 1.5), "load": (1.0, 1.5)}
"""Seconds and gigabytes."""


def main() -> None:
    """Measure import and load, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.perf_counter()
        from benchmarks.release import write_full_release

        write_full_release(root / "release")
        print(f"made-up release written in {time.perf_counter() - start:.1f} s")
        for step in ("import", "load", "load"):
            subprocess.run([sys.executable, "-m", "benchmarks.corpora", step, folder], check=True)
        size = sum(path.stat().st_size for path in (root / "corpus").rglob("*") if path.is_file())
        print(f"corpus folder: {size / 1e6:.0f} MB")


def measure(step: str, root: Path) -> None:
    """Do *step* in this process and print what it took."""
    from lantern.corpora.feature_files import FeatureCard
    from lantern.corpora.folder import load_corpus
    from lantern.corpora.readers.iemocap import import_iemocap

    if step == "import":
        import numpy as np

        rng = np.random.default_rng(0)
        arrays = {name: rng.standard_normal((10_039, size), dtype=np.float32) for name, size in SIZES.items()}
        start = time.perf_counter()
        corpus = import_iemocap(root / "release")
        parsed = time.perf_counter() - start
        for name, values in arrays.items():
            corpus = corpus.with_features(name, values, FeatureCard("random", "0", values.shape[1], len(values)))
        corpus.save(root / "corpus")
        taken = time.perf_counter() - start
        print(f"  parsed in {parsed:.2f} s; " + "; ".join(corpus.checks))
    else:
        start = time.perf_counter()
        corpus = load_corpus(root / "corpus")
        taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    seconds, gigabytes = LIMITS[step]
    verdict = "within" if taken < seconds and peak < gigabytes else "OVER"
    print(
        f"{step}: {len(corpus.utterances):,} turns in {taken:.2f} s, peak {peak:.2f} GB "
        f"({verdict} {seconds:g} s and {gigabytes:g} GB; load average {os.getloadavg()[0]:.1f})"
    )


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
