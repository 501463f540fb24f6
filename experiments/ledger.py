"""Look into, check, share and clean the ledger: ``python -m experiments.ledger stats --ledger runs/ledger.sqlite``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli.console import Parser, command, screen
from lantern.errors import FailureKind, UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.refine.ledger.bundle import BundleCounts
    from lantern.refine.ledger.ledger import Ledger

DAY = 86_400.0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m experiments.ledger",
        description="The ledger holds every LLM request, reply, usage, cost and failure of all runs.",
    )
    tasks = parser.add_subparsers(dest="task", required=True, metavar="task")
    tasks.add_parser("stats", help="what it holds, in calls, tokens and dollars")
    tasks.add_parser("verify", help="check every row; exit code 2 when something is damaged")
    export = tasks.add_parser("export", help="write a bundle: keys, numbers, probabilities, no word of a transcript")
    export.add_argument("bundle", type=Path, help="file to write")
    export.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    take = tasks.add_parser("import", help="add a bundle, so that its requests need no LLM")
    take.add_argument("bundle", type=Path)
    retry = tasks.add_parser("retry-failed", help="let the next run send again what brought no usable reply")
    retry.add_argument("--kinds", metavar="A,B", help="only these kinds of failure, e.g. refusal,cut_off")
    prune = tasks.add_parser("prune", help="delete rows; without --yes it only counts them")
    prune.add_argument("--answers-older-than", type=float, metavar="DAYS", help="paid answers older than this")
    prune.add_argument("--model", help="only answers of this model")
    prune.add_argument("--failures", action="store_true", help="all failures")
    prune.add_argument("--yes", action="store_true", help="do it")
    for task in tasks.choices.values():
        task.add_argument(
            "--ledger", metavar="PATH|URL", default="runs/ledger.sqlite", help="or postgresql://…; default: %(default)s"
        )
    return parser


def main(arguments: list[str]) -> int:
    """Do one task on one ledger."""
    given = _parser().parse_args(arguments)

    from lantern.refine.ledger.ledger import Ledger
    from lantern.refine.ledger.location import is_url

    console = screen()
    opened = Ledger(given.ledger) if given.task == "import" else Ledger.if_there(given.ledger)
    if opened is None:
        made = f"no ledger in this database; runs with refine.ledger={given.ledger} make it"
        made = made if is_url(given.ledger) else "no such file; runs write it to <runs>/ledger.sqlite"
        raise UserError(f"--ledger={given.ledger}: {made}")
    with opened as ledger:
        {
            "stats": _stats,
            "verify": _verify,
            "export": _export,
            "import": _import,
            "retry-failed": _retry,
            "prune": _prune,
        }[given.task](ledger, given, console)
    return 0


def _stats(ledger: Ledger, given: argparse.Namespace, console: Console) -> None:
    stats = ledger.stats()
    console.print(f"{ledger.location}, {ledger.size() / 2**20:.1f} MiB", style="bold", markup=False, soft_wrap=True)
    if stats.first is not None and stats.last is not None:
        days = [time.strftime("%Y-%m-%d", time.gmtime(at)) for at in (stats.first, stats.last)]
        console.print(f"  answers         {stats.answers:,}, from {days[0]} to {days[1]}")
    else:
        console.print(f"  answers         {stats.answers:,}")
    for model, count in stats.models.items():
        console.print(f"    {model}: {count:,}", markup=False)
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in stats.failures.items()) or "none"
    console.print(f"  failures        {kinds}")
    console.print(f"    settled, not sent again: {stats.settled_failures:,}; attempts: {stats.failed_attempts:,}")
    cached = f"({stats.cached_input_tokens:,} of them from the provider's cache)"
    console.print(f"  tokens          {stats.input_tokens:,} in {cached}, {stats.output_tokens:,} out", soft_wrap=True)
    unpriced = f", and {stats.unpriced:,} replies of unknown price" if stats.unpriced else ""
    console.print(f"  cost            ${stats.cost:,.4f}{unpriced}")
    console.print(f"  in flight       {stats.claims:,}")


def _verify(ledger: Ledger, given: argparse.Namespace, console: Console) -> None:
    count = ledger.verify()
    console.print(f"{ledger.location}: {count:,} answers, every one is what was stored", soft_wrap=True)


def _export(ledger: Ledger, given: argparse.Namespace, console: Console) -> None:
    from lantern.files import check_place
    from lantern.refine.ledger.bundle import export_bundle

    if given.bundle.exists() and not given.overwrite:
        raise UserError(f"{given.bundle} exists; give another file, or --overwrite to replace it")
    check_place("bundle", given.bundle, folder=False)
    counts = export_bundle(ledger, given.bundle)
    console.print(f"{given.bundle}: {counts.answers:,} answers and {counts.failures:,} failures, numbers only")
    _skipped(counts, console)


def _import(ledger: Ledger, given: argparse.Namespace, console: Console) -> None:
    from lantern.refine.ledger.bundle import import_bundle

    counts = import_bundle(ledger, given.bundle)
    console.print(f"{ledger.location}: {counts.answers:,} answers and {counts.failures:,} failures are new")
    _skipped(counts, console)


def _skipped(counts: BundleCounts, console: Console) -> None:
    for reason, count in counts.skipped.items():
        console.print(f"  {count:,} rows left out: {reason}", soft_wrap=True)


def _retry(ledger: Ledger, given: argparse.Namespace, console: Console) -> None:
    kinds = None if given.kinds is None else [kind.strip() for kind in given.kinds.split(",") if kind.strip()]
    if kinds == []:
        raise UserError("--kinds names no kind of failure; leave it out for all of them")
    valid = [kind.value for kind in FailureKind]
    for kind in kinds or ():
        if kind not in valid:
            hint = did_you_mean(kind, valid)
            raise UserError(f"--kinds: there is no failure {kind!r}.{hint} Valid: {', '.join(valid)}")
    count = ledger.unsettle(None if kinds is None else [FailureKind(kind) for kind in kinds])
    console.print(f"{count:,} failures will be sent again by the next run that needs them")


def _prune(ledger: Ledger, given: argparse.Namespace, console: Console) -> None:
    from lantern.refine.ledger.rows import Prune

    if given.answers_older_than is None and given.model is None and not given.failures:
        raise UserError("prune what? give --answers-older-than DAYS, --model NAME or --failures")
    if given.answers_older_than is not None and not given.answers_older_than >= 0:
        raise UserError(f"--answers-older-than={given.answers_older_than} must be 0 or more days")
    before = None if given.answers_older_than is None else time.time() - given.answers_older_than * DAY
    pruned = ledger.prune(Prune(before, given.model, given.failures), dry=not given.yes)
    for name, count in pruned.items():
        console.print(f"  {count:,} {name}")
    console.print("deleted" if given.yes else "nothing was deleted; --yes does it")


if __name__ == "__main__":
    command(main)
