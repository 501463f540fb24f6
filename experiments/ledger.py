"""Look into, check, mend, share and clean the ledger: ``python -m experiments.ledger stats``."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.console import Parser, command, screen
from lantern.errors import FailureKind, UserError, did_you_mean

if TYPE_CHECKING:
    from lantern.refine.ledger.bundle import BundleCounts
    from lantern.refine.ledger.ledger import Ledger

DAY = 86_400.0
MOST = 20
"""Damaged rows that are listed; of the others the number is."""
Lines = Iterator[str]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.ledger",
        description="The ledger holds every LLM request, reply, usage, cost and failure of all runs.",
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="task")

    def task(name: str, work: Any, purpose: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = tasks.add_parser(name, help=purpose)
        added.set_defaults(work=work)
        return added

    task("stats", _stats, "what it holds, in calls, tokens and dollars")
    task("verify", _verify, "check every row; exit code 2 when something is damaged")
    repair = task("repair", _repair, "set damaged rows aside into a file; without --yes it only lists them")
    show = task("show", _show, "prompt, raw reply, tokens, time and cost of one question")
    show.add_argument("key", nargs="?", help="of the question, or its first digits")
    show.add_argument("--turn", metavar="DIALOGUE/UTTERANCE", help="instead of a key: all questions about an utterance")
    show.add_argument("--run", type=Path, metavar="FOLDER", help="with --turn: the run that asked them, and its ledger")
    export = task("export", _export, "write a bundle: keys, numbers, probabilities, no word of a transcript")
    export.add_argument("bundle", type=Path, help="file to write")
    export.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    task("import", _import, "add a bundle, so that its requests need no LLM").add_argument("bundle", type=Path)
    retry = task("retry-failed", _retry, "let the next run send again what brought no usable reply")
    retry.add_argument("--kinds", metavar="A,B", help="only these kinds of failure, e.g. refusal,cut_off")
    prune = task("prune", _prune, "delete rows; without --yes it only counts them")
    prune.add_argument("--answers-older-than", type=float, metavar="DAYS", help="paid answers older than this")
    prune.add_argument("--model", help="only answers of this model")
    prune.add_argument("--failures", action="store_true", help="all failures")
    for changing in (repair, prune):
        changing.add_argument("--yes", action="store_true", help="do it")
    for added in tasks.choices.values():
        added.add_argument(
            "--ledger", metavar="PATH|URL", default="runs/ledger.sqlite", help="or postgresql://…; default: %(default)s"
        )
    return parser


def main(arguments: list[str]) -> int:
    """Do one task on one ledger."""
    given = _parser().parse_args(arguments)

    console = screen()
    if given.task == "show" and (given.turn or given.run or not given.key):
        if not (given.turn and given.run) or given.key:
            raise UserError("show what? give a key, or --turn DIALOGUE/UTTERANCE together with --run FOLDER")
        for line in _turn(given.turn, given.run):
            console.print(line, soft_wrap=True)
        return 0
    from lantern.refine.ledger.ledger import Ledger, store_of
    from lantern.refine.ledger.location import is_url

    place: Any = given.ledger
    if given.task == "import":
        place = Ledger(given.ledger)
    elif given.task != "repair":
        place = Ledger.if_there(given.ledger)
    elif not is_url(given.ledger) and not store_of(given.ledger).exists():
        place = None
    if place is None:
        made = f"no ledger in this database; runs with refine.ledger={given.ledger} make it"
        made = made if is_url(given.ledger) else "no such file; runs write it to <runs>/ledger.sqlite"
        raise UserError(f"--ledger={given.ledger}: {made}")
    try:
        for line in given.work(place, given):
            console.print(line, soft_wrap=True)
    finally:
        if isinstance(place, Ledger):
            place.close()
    return 0


def _stats(ledger: Ledger, given: argparse.Namespace) -> Lines:
    stats = ledger.stats()
    yield f"{ledger.location}, {ledger.size() / 2**20:.1f} MiB"
    days = [time.strftime("%Y-%m-%d", time.gmtime(at)) for at in (stats.first, stats.last) if at is not None]
    yield f"  answers         {stats.answers:,}" + (f", from {days[0]} to {days[1]}" if days else "")
    for model, count in stats.models.items():
        yield f"    {model}: {count:,}"
    yield "  failures        " + (", ".join(f"{kind} {n:,}" for kind, n in stats.failures.items()) or "none")
    yield f"    settled, not sent again: {stats.settled_failures:,}; attempts: {stats.failed_attempts:,}"
    cached = f"({stats.cached_input_tokens:,} of them from the provider's cache)"
    yield f"  tokens          {stats.input_tokens:,} in {cached}, {stats.output_tokens:,} out"
    unpriced = f", and {stats.unpriced:,} replies of unknown price" if stats.unpriced else ""
    yield f"  cost            ${stats.cost:,.4f}{unpriced}"
    yield f"  in flight       {stats.claims:,}"


def _listed(damaged: list[str]) -> Lines:
    yield from (f"  {line}" for line in damaged[:MOST])
    if len(damaged) > MOST:
        yield f"  and {len(damaged) - MOST:,} more"


def _verify(ledger: Ledger, given: argparse.Namespace) -> Lines:
    sound, damaged = ledger.check()
    yield from _listed([one.text for one in damaged])
    if damaged:
        raise UserError(
            f"the ledger {ledger.location}: {len(damaged):,} damaged rows beside {sound:,} sound answers; a run asks "
            f"their questions again. Set them aside with: {ledger.store.command('repair')}"
        )
    yield f"{ledger.location}: {sound:,} answers, every one is what was stored"


def _repair(location: Any, given: argparse.Namespace) -> Lines:
    from lantern.refine.ledger.repair import repair

    done = repair(given.ledger, given.yes)
    if done.salvaged:
        yield f"{given.ledger} is damaged: {done.salvaged}"
        yield "  what can be read goes into a new file in its place; the old file is kept beside it"
    yield from _listed(done.damaged)
    sound = ", ".join(f"{count:,} sound rows of {name}" for name, count in done.kept.items()) or "no sound rows"
    yield f"  {sound}; {len(done.damaged):,} damaged rows"
    if done.old is not None:
        yield f"  the file as it was: {done.old}"
    if done.aside is not None:
        yield f"  the damaged rows are in {done.aside}; the next run that needs them asks their questions again"
    elif not done.damaged and not done.salvaged:
        yield "  nothing is damaged"
    elif not given.yes:
        yield "nothing was changed; --yes does it"


def _show(ledger: Ledger, given: argparse.Namespace) -> Lines:
    from lantern.refine.ledger.schema import ANSWERS, FAILURES, DamagedRow
    from lantern.refine.types import Reply

    if not re.fullmatch("[0-9a-f]{6,64}", given.key):
        raise UserError(f"{given.key!r} is no key: give its first 6 to 64 digits, of 0-9 and a-f")
    found = [
        (row, entry)
        for table in (FAILURES, ANSWERS)
        for row, entry in ledger.entries(table, table.c.key.startswith(given.key))
    ]
    keys = sorted({row["key"] for row, _ in found})
    if len(keys) != 1:
        some = f": {', '.join(keys[:3])}{', …' if len(keys) > 3 else ''}; give more digits" if keys else ""
        raise UserError(f"{given.ledger} has {len(keys)} questions {given.key!r}{some}")
    request = None
    yield f"question {keys[0]}"
    for row, entry in found:
        if isinstance(entry, DamagedRow):
            yield f"a damaged row: {entry}"
            continue
        if request is None and entry is not None and entry[0] is not None:
            request = entry[0]
            yield f"  to {request.provider}/{request.model} with {json.dumps(request.sampling)}"
            yield from _messages(request.messages)
        if isinstance(entry and entry[1], Reply) or row["text"] is not None:
            yield from _reply(row)
        if "kind" in row:
            status = "" if row["status"] is None else f" ({row['status']})"
            yield f"failed as {row['kind']}{status} at {_time(row['time'])}: {row['message']}"
    if request is None:
        yield "  its prompt is not here: the answer came with a bundle, or no attempt brought a reply"
        return
    for row, further in ledger.follow_ups(request):
        yield f"repair turn {row['key']}"
        yield from _messages(further.messages[len(request.messages) :])
        yield from _reply(row)


def _turn(turn: str, folder: Path) -> Lines:
    """What the run in *folder* asked about one utterance, field by field, and what came back."""
    from lantern.results.load import read_run
    from lantern.results.texts import asked_by, texts_of
    from lantern.tables import PredictionTable

    run = read_run(folder)
    corpus = (texts := texts_of(run, with_text=False)).corpus
    if corpus is None:
        raise UserError(f"--run={folder}: {texts.note}")
    dialogue, _, utterance = turn.partition("/")
    known = corpus.by_id.get(dialogue)
    if known is None:
        hint = did_you_mean(dialogue, list(corpus.by_id))
        raise UserError(f"--turn={turn}: {corpus.name} has no dialogue {dialogue!r}.{hint}")
    names = [said.id for said in known.utterances]
    if utterance not in names:
        hint = did_you_mean(utterance, names) or f" It has {', '.join(names[:3])}, …"
        raise UserError(f"--turn={turn}: dialogue {dialogue} has no utterance {utterance!r}.{hint}")
    for path in sorted(folder.glob("predictions.*.parquet")):
        table = PredictionTable.load(path)
        rows = [n for n in range(len(table)) if (table.dialogues[n], table.utterances[n]) == (dialogue, utterance)]
        asked = asked_by(run, corpus, table) if rows and table.coverage else None
        if isinstance(asked, str):
            raise UserError(f"--run={folder}: {asked}")
        if asked is None:
            continue
        fields = [(band, asked.fields[n]) for band, n in enumerate(asked.of[rows[0]]) if n >= 0]
        if not any(attempts for _, attempts in fields):
            raise UserError(f"--run={folder}: its ledger has no question about {turn}; it is not the one the run used")
        yield f"{turn} in {table.split}, {len(fields)} receptive fields"
        for band, attempts in fields:
            yield f"band {band}" + ("" if attempts else ": no reply")
            for attempt in attempts:
                yield from (["repair turn"] if attempt.repair else [])
                yield from _messages({"role": role, "content": text} for role, text in attempt.messages)
                cost = "of unknown price" if attempt.cost is None else f"${attempt.cost:.6f}"
                given, written = attempt.tokens
                model = attempt.model or "an unnamed model"
                yield f"reply of {model}: {given:,} tokens in, {written:,} out, {attempt.seconds:.2f} s, {cost}"
                yield from (f"    {line}" for line in attempt.reply.split("\n"))
                yield from ([f"failed as {attempt.failure}"] if attempt.failure else [])
        return
    raise UserError(f"--turn={turn}: the run asked nothing about this utterance")


def _messages(messages: Any) -> Lines:
    for message in messages:
        yield f"  {message['role']}:"
        yield from (f"    {line}" for line in str(message.get("content")).split("\n"))


def _reply(row: Any) -> Lines:
    cost = "of unknown price" if row["cost"] is None else f"${row['cost']:.6f}"
    yield (
        f"reply of {row['model'] or 'an unnamed model'}, {_time(row['created'])}: "
        f"{row['input']:,} tokens in ({row['cached_input']:,} cached), {row['output']:,} out, {row['latency']:.2f} s, "
        f"{cost}, finished by {row['finish_reason'] or 'nothing stated'}"
    )
    yield from (f"    {line}" for line in row["text"].split("\n"))


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at)) if at else "at an unknown time"


def _export(ledger: Ledger, given: argparse.Namespace) -> Lines:
    from lantern.files import check_place
    from lantern.refine.ledger.bundle import export_bundle

    if given.bundle.exists() and not given.overwrite:
        raise UserError(f"{given.bundle} exists; give another file, or --overwrite to replace it")
    check_place("bundle", given.bundle, folder=False)
    counts = export_bundle(ledger, given.bundle)
    yield f"{given.bundle}: {counts.answers:,} answers and {counts.failures:,} failures, numbers only"
    yield from _skipped(counts)


def _import(ledger: Ledger, given: argparse.Namespace) -> Lines:
    from lantern.refine.ledger.bundle import import_bundle

    counts = import_bundle(ledger, given.bundle)
    yield f"{ledger.location}: {counts.answers:,} answers and {counts.failures:,} failures are new"
    yield from _skipped(counts)


def _skipped(counts: BundleCounts) -> Lines:
    yield from (f"  {count:,} rows left out: {reason}" for reason, count in counts.skipped.items())


def _retry(ledger: Ledger, given: argparse.Namespace) -> Lines:
    kinds = None if given.kinds is None else [kind.strip() for kind in given.kinds.split(",") if kind.strip()]
    if kinds == []:
        raise UserError("--kinds names no kind of failure; leave it out for all of them")
    valid = [kind.value for kind in FailureKind]
    for kind in kinds or ():
        if kind not in valid:
            hint = did_you_mean(kind, valid)
            raise UserError(f"--kinds: there is no failure {kind!r}.{hint} Valid: {', '.join(valid)}")
    count = ledger.unsettle(None if kinds is None else [FailureKind(kind) for kind in kinds])
    yield f"{count:,} failures will be sent again by the next run that needs them"


def _prune(ledger: Ledger, given: argparse.Namespace) -> Lines:
    from lantern.refine.ledger.rows import Prune

    if given.answers_older_than is None and given.model is None and not given.failures:
        raise UserError("prune what? give --answers-older-than DAYS, --model NAME or --failures")
    if given.answers_older_than is not None and not given.answers_older_than >= 0:
        raise UserError(f"--answers-older-than={given.answers_older_than} must be 0 or more days")
    before = None if given.answers_older_than is None else time.time() - given.answers_older_than * DAY
    pruned = ledger.prune(Prune(before, given.model, given.failures), dry=not given.yes)
    yield from (f"  {count:,} {name}" for name, count in pruned.items())
    yield "deleted" if given.yes else "nothing was deleted; --yes does it"


if __name__ == "__main__":
    command(main)
