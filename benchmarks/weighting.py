"""Time of everything behind the LLM, on a corpus of IEMOCAP's size: python -m benchmarks.weighting

Made-up dialogues, about 10,000 turns, a simulated LLM. The first run fills stages and ledger. The second trains
nothing and asks nothing: reading the ledger, fitting the weighting and its baselines, metrics, 10,000 bootstrap
resamples per merge, slices, writing the tables.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time

from benchmarks.scale import Quiet
from lantern.environment import prepare

DIALOGUES = 720


def main() -> None:
    """Run twice and print the seconds of the second run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dialogues", type=int, default=DIALOGUES, help="default: %(default)s")
    parser.add_argument("--coverage", type=int, default=2, help="t, fields per utterance; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    given = parser.parse_args()
    prepare(given.threads)
    from lantern.config.compose import compose
    from lantern.pipeline.preflight import preflight
    from lantern.pipeline.run import run

    class Stages(Quiet):
        def stage(self, title: str) -> None:
            marks.append((time.perf_counter(), title))

    marks: list[tuple[float, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["backbone=gru", "backbone.epochs=2", "llm=simulated", f"corpus.dialogues={given.dialogues}"]
        overrides += [f"runs={folder}", f"refine.coverage={given.coverage}"]
        for turn in ("cold", "warm"):
            ready = preflight(compose(overrides))
            marks.clear()
            start = time.perf_counter()
            result = run(ready, Stages())
            print(f"{turn}: {time.perf_counter() - start:.1f} s, {result['llm']['calls']} calls", flush=True)
        turns = sum(len(d) for d in ready.corpus.dialogues)
        print(f"{len(ready.corpus.dialogues)} dialogues, {turns} turns, {result['llm']['fields']} fields")
        ends = [at for at, _ in marks[1:]] + [time.perf_counter()]
        for (at, title), end in zip(marks, ends):
            print(f"  {end - at:5.1f} s  {title}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MB")


if __name__ == "__main__":
    main()
