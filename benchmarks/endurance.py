"""What the refinement survives: python -m benchmarks.endurance [kills together faults ctrl_c damage disk]

Against a server on 127.0.0.1 in a process of its own, which counts what it answers; needs the repository's tests/.

kills     refinements killed (SIGKILL) at random moments and started again: nothing is paid twice but what was in flight
together  two and four processes refine the same dialogues through one ledger, a file or a PostgreSQL database: every
          prompt is paid once
faults    a run while 30 % of the calls go wrong in every way the server knows: it ends, and every utterance is counted
ctrl_c    a run interrupted while it asks: one line, exit code 130, all that was paid is kept
damage    a run whose ledger has a flipped byte: one line, exit code 2, the file stays as it was
disk      runs whose ledger is on a full and on a read-only file system (needs root): likewise, and the rest goes on
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lantern.config.compose import compose
from lantern.corpora.sample.generator import generate_sample
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.engine.engine import Engine
from lantern.refine.ledger.ledger import Ledger
from lantern.refine.ledger.location import is_url
from lantern.refine.ledger.repair import repair
from lantern.refine.prompt import Prompt
from lantern.refine.questions import Refiner
from lantern.tables import KINDS, PredictionTable, Row
from tests.postgres_server import PostgresServer, binaries
from tests.rows import table_from_rows

ROOT = Path(__file__).parents[1]
TOGETHER = 8
WRONG = (
    *("429", "429_after", "500", "503", "408", "html", "truncated", "empty_body", "no_choices", "null", "list"),
    *("drop", "reset", "hang", "trickle", "error200", "choices_null", "refusal", "refusal_field", "cut_off"),
    *("content_filter", "bad_numbers", "misspelt", "incomplete", "prose", "no_usage", "wrong_count", "echo_key"),
)
TRANSPORT = {"timeout", "connection", "server_error", "bad_body", "empty", "rate_limit"}
CONTENT = {"refusal", "cut_off", "unparsable", "incomplete", "bad_numbers", "wrong_classes"}


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    url: str
    log: Path

    @property
    def answered(self) -> list[str]:
        """A hash per prompt that was given a complete answer, as they went out."""
        return self.log.read_text().split() if self.log.is_file() else []


@contextmanager
def server(folder: Path, latency: float, behaviours: str = "right") -> Iterator[Server]:
    """A server process that logs under *folder*."""
    log = folder / "answered.txt"
    command = [sys.executable, str(ROOT / "tests" / "llm_server.py"), "--log", str(log)]
    command += ["--latency", str(latency), "--behaviours", behaviours]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Server(process.stdout.readline().strip(), log)
    finally:
        process.kill()
        process.wait()


def ask(url: str, ledger: str | Path, prompts: int, out: Path) -> None:
    """Refine whole dialogues of the sample corpus, *prompts* different prompts, and write the table to *out*."""
    config = compose(["llm=vllm", f"llm.api_base={url}", f"llm.concurrency={TOGETHER}"])
    corpus = generate_sample(dialogues=120)
    classes = corpus.label_set.classes
    rng = random.Random(0)
    prompt = Prompt(config.prompt, corpus.label_set, None, config.llm.elicitation)
    refiner = Refiner(corpus.by_id, prompt, config.refine, config.llm)
    rows: list[Row] = []
    for dialogue in corpus.dialogues:
        for index, turn in enumerate(dialogue.utterances):
            drawn = [rng.random() for _ in classes]
            vector = [value / sum(drawn) for value in drawn]
            rows.append(Row(dialogue.id, turn.id, index, turn.speaker, turn.label, None, vector))
        if len(refiner.questions(table_from_rows(classes, rows, "dev"))) >= prompts:
            break
    table = table_from_rows(classes, rows, "dev")
    with Ledger(ledger) as opened:
        refined, stats = refiner.refine(table, Engine(LiteLLMBackend(config.llm), opened))
    refined.save(out)
    print(json.dumps({"prompts": stats.prompts, "calls": stats.calls, "failed": stats.failed_fields}))


def _asking(url: str, ledger: str | Path, prompts: int, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.endurance", "--ask", url, str(ledger), str(prompts), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _ended(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate()
    _must(process.returncode == 0 and err == "", f"exit code {process.returncode}: {err!r}")
    return json.loads(out.splitlines()[-1])


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def kills(folder: Path, prompts: int = 500, times: int = 10) -> None:
    """Ten refinements killed once, and one killed ten times."""
    with server(folder, 0.05) as asked:
        calm = _ended(_asking(asked.url, folder / "calm.sqlite", prompts, folder / "calm.parquet"))
        whole = (folder / "calm.parquet").read_bytes()
        count = calm["prompts"]
        _must(len(asked.answered) == count == calm["calls"], "an undisturbed run asks every prompt once")
        moments = random.Random(time.time_ns())
        for name, per_ledger in (("ten refinements, each killed once", 1), ("one refinement, killed ten times", times)):
            extra = []
            for trial in range(times // per_ledger):
                ledger, before = folder / f"{per_ledger}.{trial}.sqlite", len(asked.answered)
                for kill in range(per_ledger):
                    process = _asking(asked.url, ledger, prompts, folder / "part.parquet")
                    done = len(asked.answered) - before
                    share = 1 / (per_ledger - kill + 1) if per_ledger > 1 else 1.0
                    until = done + moments.randrange(1, max(2, int((count - done) * share)))
                    while len(asked.answered) - before < until and process.poll() is None:
                        time.sleep(0.001)
                    process.kill()
                    process.communicate()
                _ended(_asking(asked.url, ledger, prompts, folder / "again.parquet"))
                with Ledger(ledger) as opened:
                    stored = opened.verify()
                extra.append(len(asked.answered) - before - stored)
                _must(stored == count, f"{stored} rows for {count} prompts")
                _must(0 <= extra[-1] <= TOGETHER * per_ledger, f"{extra[-1]} calls were paid twice")
                _must((folder / "again.parquet").read_bytes() == whole, "another result than the undisturbed run's")
            print(f"kills: {name}: {count} rows each, results identical, answered beyond the rows: {extra}")


def together(folder: Path, prompts: int = 500, processes: tuple[int, ...] = (2, 4)) -> None:
    """Several processes, one ledger: a file, and a PostgreSQL database where there is a server for the tests."""
    with server(folder, 0.05) as asked, ExitStack() as stack:
        databases = [stack.enter_context(closing(PostgresServer()))] if binaries() else []
        cases = [(n, str(folder / f"{n}.sqlite")) for n in processes]
        cases += [(n, there.database(f"together{n}")) for there in databases for n in processes]
        for number, ledger in cases:
            before = len(asked.answered)
            outs = [folder / f"{number}.{n}.parquet" for n in range(number)]
            ended = [_ended(process) for process in [_asking(asked.url, ledger, prompts, out) for out in outs]]
            answered = len(asked.answered) - before
            _must(answered == ended[0]["prompts"], f"{answered} calls for {ended[0]['prompts']} prompts")
            _must(len({out.read_bytes() for out in outs}) == 1, "the processes have different results")
            kind = "PostgreSQL" if is_url(ledger) else "SQLite"
            calls = [e["calls"] for e in ended]
            print(f"together: {kind}, {number} processes, {answered} answered calls, by process {calls}")


def run_arguments(folder: Path, url: str, *more: str) -> list[str]:
    """The arguments of a small run whose LLM is at *url*."""
    given = ["backbone=gru", "backbone.epochs=1", "backbone.hidden=16", "weighting.epochs=2", "weighting.fit_on=dev"]
    given += ["llm=vllm", f"llm.api_base={url}", f"llm.concurrency={TOGETHER}", "trainer.threads=1"]
    return [*given, f"runs={folder / 'runs'}", *more]


def run(arguments: list[str]) -> subprocess.Popen[str]:
    """``experiments.run``, which Ctrl-C reaches even where this process was started without it."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.run", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def refused(arguments: list[str], told: str) -> str:
    """The one line with which a run must end."""
    process = run(arguments)
    _, err = process.communicate()
    _must(process.returncode == 2, f"exit code {process.returncode}: {err!r}")
    _must(err.count("\n") == 1 and err.startswith("error: ") and told in err, f"not one line about {told!r}: {err}")
    return err.strip()


def finished(arguments: list[str]) -> dict:
    """The result of a run that must end well and say nothing on the error output."""
    process = run(arguments)
    out, err = process.communicate()
    _must(process.returncode == 0 and err == "", f"exit code {process.returncode}: {err!r}")
    _must(not any(word in out for word in ("Traceback", "Error", "Exception", "exception")), out)
    runs = next(a for a in arguments if a.startswith("runs=")).removeprefix("runs=")
    newest = max(Path(runs).glob("*/metrics.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text())


def faults(folder: Path, dialogues: int = 60, timeout: int = 2) -> None:
    """A run under faults."""
    shares = ",".join(["right=0.7", *(f"{name}={0.3 / len(WRONG)}" for name in WRONG)])
    with server(folder, 0.02, shares) as asked:
        more = [f"corpus.dialogues={dialogues}", f"llm.timeout={timeout}", f"refine.ledger={folder / 'l.sqlite'}"]
        result = finished(run_arguments(folder, asked.url, *more))
    llm = result["llm"]
    left: Counter[str] = Counter()
    entries = utterances = 0
    for split in ("dev", "test"):
        fields = PredictionTable.load(Path(result["folder"]) / f"predictions.{split}.parquet").fields
        _must(fields is not None and fields.failures.shape[1] == 2, f"not two fields per utterance of {split}")
        assert fields is not None
        utterances += len(fields.mask)
        entries += fields.mask.size
        sums = fields.probabilities.sum(axis=2)
        _must(bool(np.allclose(sums, fields.mask)), f"a field of {split} has neither probabilities nor a failure")
        left.update(KINDS[code] for code in fields.failures[~fields.mask])
    _must(set(left) == set(llm["failures"]), f"metrics.json counts {llm['failures']}, the tables {left}")
    _must(sum(llm["failures"].values()) == llm["failed_fields"], str(llm))
    with Ledger(folder / "l.sqlite") as ledger:
        stats = ledger.stats()
    attempts = stats.failures
    _must(set(attempts) <= TRANSPORT | CONTENT, f"unknown kinds in {attempts}")
    _must(llm["calls"] == stats.answers + sum(attempts.values()), f"{llm['calls']} calls, stored: {stats}")
    print(f"faults: exit 0; {llm['fields']} fields in {llm['calls']} calls, {llm['repaired']} repaired")
    print(f"  failed attempts by kind, all in the ledger: {attempts}")
    print(f"  {utterances} utterances, {entries} entries accounted for; failed fields by kind: {llm['failures']}")


def ctrl_c(folder: Path, dialogues: int = 60) -> None:
    """Interrupted while it asks."""
    with server(folder, 0.3) as asked:
        arguments = run_arguments(folder, asked.url, f"corpus.dialogues={dialogues}")
        process = run(arguments)
        while len(asked.answered) < 20:
            _must(process.poll() is None, "it ended before it could be interrupted")
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, err = process.communicate()
        took = time.monotonic() - start
        _must(process.returncode == 130, f"exit code {process.returncode}: {err!r}")
        _must(err.strip().count("\n") == 0 and "interrupted" in err, f"not one line: {err}")
        with Ledger(folder / "runs" / "ledger.sqlite") as ledger:
            stats = ledger.stats()
        paid = len(asked.answered)
        _must(stats.answers == paid, f"{paid} answered, {stats.answers} stored")
        _must(stats.claims == 0, f"{stats.claims} claims are left")
        result = finished(arguments)
        total = len(asked.answered)
    llm = result["llm"]
    _must(llm["calls"] == total - paid and total == llm["prompts"], f"{llm} after {paid} paid calls")
    print(f"ctrl_c: exit 130 after {took:.1f} s, {paid} paid and kept: {err.strip()!r}; the rest took {llm['calls']}")


def damage(folder: Path, dialogues: int = 15) -> None:
    """A flipped byte."""
    with server(folder, 0.0) as asked:
        ledger = folder / "l.sqlite"
        arguments = run_arguments(folder, asked.url, f"corpus.dialogues={dialogues}", f"refine.ledger={ledger}")
        first = finished(arguments)
        raw = ledger.read_bytes()
        at = raw.index(b'{"1": {"happy": 0.') + 18
        ledger.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        again = finished(arguments)
        _must(again["llm"]["calls"] == 1 and again["test"] == first["test"], "something was lost")
        done = repair(str(ledger), do_it=True)
        _must(len(done.damaged) == 1 and done.aside is not None, "the damaged row was not set aside")
    print(f"damage: one question asked again, its old row is in {done.aside}")


def disk(folder: Path, dialogues: int = 60) -> None:
    """A small file system that fills up, then one that cannot be written."""
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        print("disk: left out, this user may not mount a file system")
        return
    try:
        with server(folder, 0.0) as asked:
            ledger = small / "l.sqlite"
            arguments = run_arguments(folder, asked.url, f"corpus.dialogues={dialogues}", f"refine.ledger={ledger}")
            told = refused(arguments, "what it holds is safe")
            print(f"disk: full: exit 2: {told}")
            paid = len(asked.answered)
            subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
            with Ledger(ledger) as opened:
                kept = opened.verify()
            lost = paid - kept
            _must(0 <= lost <= TOGETHER, f"{paid} answered, {kept} stored")
            first = finished(arguments)
            _must(first["llm"]["calls"] == first["llm"]["prompts"] - kept, "something stored was asked again")
            print(f"  {paid} answered, {kept} stored when it was full; with space the run ends, asking the rest only")
            again = [*arguments, "seed=1"]
            subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
            before = len(asked.answered)
            print(f"disk: read-only: exit 2: {refused(again, 'writable')}")
            _must(len(asked.answered) == before, "it paid for what it could not store")
    finally:
        subprocess.run(["umount", str(small)], check=True)


PARTS: dict[str, Callable[[Path], None]] = {
    "kills": kills,
    "together": together,
    "faults": faults,
    "ctrl_c": ctrl_c,
    "damage": damage,
    "disk": disk,
}


def main() -> None:
    """Run the chosen parts; an assertion fails as soon as one does not hold."""
    parser = argparse.ArgumentParser(description="Kills, interrupts and starves runs; see the head of this file.")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--ask", nargs=4, metavar=("URL", "LEDGER", "PROMPTS", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        url, ledger, prompts, out = given.ask
        ask(url, ledger, int(prompts), Path(out))
        return
    for part in given.parts or PARTS:
        if part not in PARTS:
            parser.error(f"unknown part {part}; valid: {', '.join(PARTS)}")
    for part in given.parts or PARTS:
        with tempfile.TemporaryDirectory(prefix=f"lantern-{part}-") as folder:
            PARTS[part](Path(folder))


if __name__ == "__main__":
    main()
