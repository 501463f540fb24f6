"""What every stage of a run takes at a given size: ``python -m benchmarks.scale 10000 100000``.

Made-up dialogues of 14 turns on average, the simulated LLM, one epoch of a small backbone. Each size runs in processes
of its own. Per stage it prints seconds, CPU seconds and the peak memory of the process while the stage ran; rates are
per CPU second, which a busy machine changes least. A million utterances, with the weighting fitted on the dev dialogues
and 20,000 prompts asked through engine and ledger (all others get their replies in memory), take 10 CPU
minutes and 5 GB: ``python -m benchmarks.scale 1000000 --fit-on dev --calls 20000``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lantern.environment import prepare
from lantern.refine.backends.simulated import simulate
from lantern.refine.reply import parse
from lantern.refine.types import Outcome, Request

TURNS = 14
"""Utterances of a made-up dialogue, on average."""


@contextmanager
def stage(name: str) -> Iterator[list[str]]:
    """Time a stage; what the block appends to the list stands behind its line."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    notes: list[str] = []
    start, cpu = time.perf_counter(), time.process_time()
    yield notes
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    print(f"  {name:<42}{seconds:>8.1f} s {cpu:>8.1f} s {peak:>6.2f} GB  {'; '.join(notes)}", flush=True)


class Quiet:
    """A reporter that reports nothing."""

    def stage(self, title: str) -> None: ...

    def training(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None: ...

    def asking(self, progress: object) -> None: ...

    def note(self, text: str) -> None: ...


def generate(utterances: int, folder: Path) -> None:
    """Write the corpus folder."""
    from lantern.corpora.sample.generator import generate_sample

    with stage("generate and save the corpus"):
        generate_sample(dialogues=utterances // TURNS).save(folder / "corpus")


class InMemory:
    """In place of the engine: simulated replies that are stored nowhere."""

    calls = 0

    def run(self, requests: Sequence[Request], follow_up: object = None) -> list[list[Outcome]]:
        """A reply to each request."""
        return [[parse(simulate(request), request.shape)] for request in requests if request.shape]


def measure(folder: Path, backbone: str, threads: int, fit_on: str, most_calls: int | None) -> None:
    """Every stage of one run, in order."""
    prepare(threads)
    from lantern.config.compose import compose
    from lantern.corpora.data import CorpusDataModule
    from lantern.corpora.protocols.overlaps import training_texts
    from lantern.metrics.slices import slice_parts, slice_report
    from lantern.pipeline import train as stages
    from lantern.pipeline import vanilla
    from lantern.pipeline.preflight import preflight, read_corpus
    from lantern.pipeline.refinement import Refinement
    from lantern.pipeline.store import modalities
    from lantern.results.groups import Group
    from lantern.results.scores import methods, split_result
    from lantern.weighting.stage import apply_weighting, compare_baselines, fit_weighting

    options = [f"backbone={backbone}", "trainer.epochs=1", "llm=simulated", f"runs={folder / 'runs'}"]
    config = compose([*options, "corpus=sample", f"corpus.path={folder / 'corpus'}"])
    with stage("load the corpus") as notes:
        corpus = read_corpus(config)
        turns = len(corpus.utterances)
        notes.append(f"{len(corpus.dialogues):,} dialogues, {turns:,} utterances")
        notes.append(f"{_bytes(folder / 'corpus') / turns:,.0f} bytes an utterance on disk")
    del corpus
    with stage("preflight: load, split, protocol") as notes:
        ready = preflight(config)
        many = ready.protocol["labelled"]
        notes.append(f"labelled {many}")
    corpus, split = ready.corpus, ready.split
    # One model in place of a model per fold: as many predictions, a part of the training.
    refined = (*(split.train if fit_on == "oof" else split.dev), *split.test)
    data = CorpusDataModule(corpus, split.train, split.dev, split.test, batch_size=32)
    with stage(f"train {backbone}, one epoch") as notes, ready.store.open("train", {"scale": turns}) as place:
        start = time.process_time()
        stages.train(config, corpus, data, place, Quiet(), False, [])
        trained = sum(len(corpus.by_id[i]) for i in split.train)
        notes.append(f"{trained / (time.process_time() - start):,.0f} utterances/s, batches of 32 dialogues")
    with stage("predict what will be refined, save") as notes:
        chosen = modalities(config, corpus)
        module = stages.load_module(place.path)
        both = vanilla.predict_corpus(config, module, corpus, refined, chosen, 32, "all")
        path = folder / "vanilla.parquet"
        both.save(path)
        notes.append(f"{len(both):,} rows, {path.stat().st_size / len(both):,.0f} bytes a row")
    del data, module
    with Refinement(config, ready.backend, vanilla.transcripts(corpus)) as llm:
        with stage("prompts") as notes:
            start = time.process_time()
            questions = llm.refiner.questions(both)
            seconds = time.process_time() - start
            notes.append(f"{len(questions):,} fields, {len(questions) / seconds:,.0f} fields/s")
        with stage("keys") as notes:
            start = time.process_time()
            keys = {request.key for question in questions for request in question.requests}
            notes.append(f"{len(questions) / (time.process_time() - start):,.0f} keys/s, {len(keys):,} different")
        # The first dialogues, as many as hold most_calls fields.
        share = 1.0 if most_calls is None else min(1.0, most_calls / len(questions))
        few = both.keep(refined[: int(share * len(refined))])
        del questions, keys
        with stage("refine, every prompt asked (simulated)") as notes:
            start = time.process_time()
            calls = llm.refine(few)[1].calls
            notes.append(f"{calls:,} calls, {calls / (time.process_time() - start):,.0f}/s")
        with stage("refine, every prompt in the ledger") as notes:
            start = time.process_time()
            whole, stats = llm.refine(few)
            notes.append(f"{stats.prompts:,} prompts, {stats.prompts / (time.process_time() - start):,.0f}/s")
        if share < 1:
            with stage("refine the rest in memory"):
                whole, _ = llm.refiner.refine(both, InMemory())
    fitted_on = split.train if fit_on == "oof" else split.dev
    tables = {name: whole.keep(ids) for name, ids in ((fit_on, fitted_on), ("test", split.test))}
    del both, few, whole
    size = sum(path.stat().st_size for path in Path(config.runs).glob("ledger.sqlite*"))
    print(f"    ledger {size / 1e6:,.0f} MB, {size / calls:,.0f} bytes an answer", flush=True)
    range_ = corpus.score_range
    with stage("fit the weighting") as notes:
        fitted = fit_weighting(config.weighting, tables[fit_on], seed=0, score_range=range_)
        notes.append(f"{fitted.report['fitted_on']:,} utterances; {fitted.choice} is used")
    with stage("fit and apply the baselines"):
        baselines = compare_baselines(
            tables[fit_on], tables["test"], config=config.weighting, score_range=range_, fitted=fitted
        )
    with stage("apply the weighting to both tables"):
        for name in tables:
            tables[name], _ = apply_weighting(fitted, tables[name])
    test = tables["test"]
    with stage("metrics and bootstrap of test") as notes:
        merged = methods(test, baselines)
        result = split_result(test, merged, 0)
        notes.append(f"{len(test):,} rows, {result['dialogues']:,} dialogues, {len(merged)} methods")
    with stage("slices of test") as notes:
        slices = slice_report(test, merged, slice_parts(test, corpus.by_id, training_texts(corpus, split)))
        notes.append(f"{sum(len(one['parts']) for one in slices)} parts")
    del corpus, ready, merged, baselines
    path = folder / "predictions.test.parquet"
    with stage("save the test table") as notes:
        test.save(path)
        notes.append(f"{path.stat().st_size / len(test):,.0f} bytes a row")
    del tables, test
    with stage("read it for a comparison and resample"):
        assert Group("all", [{"folder": str(folder), "test": result}]).difference is not None


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Measure each size in processes of its own."""
    parser = argparse.ArgumentParser(description="Seconds and memory of every stage; see the head of this file.")
    parser.add_argument("utterances", nargs="*", type=int, default=[10_000, 100_000], help="default: %(default)s")
    parser.add_argument("--backbone", default="gru", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--fit-on", choices=("oof", "dev"), default="oof", help="default: %(default)s")
    parser.add_argument("--calls", type=int, help="prompts to ask through engine and ledger; default: all")
    parser.add_argument("--step", choices=("generate", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step == "generate":
        generate(given.utterances[0], given.folder)
    elif given.step == "measure":
        measure(given.folder, given.backbone, given.threads, given.fit_on, given.calls)
    else:
        for utterances in given.utterances:
            print(f"{utterances:,} utterances, {given.backbone}, {given.threads} thread(s)", flush=True)
            with tempfile.TemporaryDirectory() as folder:
                for step in ("generate", "measure"):
                    command = [sys.executable, "-m", "benchmarks.scale", str(utterances), "--step", step]
                    command += ["--folder", folder, "--backbone", given.backbone, "--threads", str(given.threads)]
                    command += ["--fit-on", given.fit_on]
                    command += [] if given.calls is None else ["--calls", str(given.calls)]
                    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
