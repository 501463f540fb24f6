"""The page beside a bundle, in Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from lantern.config.groups import GROUPS
from lantern.errors import UserError
from lantern.pipeline.replay.bundle import portable
from lantern.report.provenance import facts
from lantern.report.sinks.escaping import markdown
from lantern.report.text_tables import to_markdown
from lantern.results.columns import Place
from lantern.results.comparison import Comparison
from lantern.results.load import Run
from lantern.results.sweep import MANIFEST, read_sweep

PAGE = "README.md"
_BEGIN, _END = "<!-- made by experiments.compare --bundle -->", "<!-- end of what it made -->"
_LEFT_OUT = (
    "runs=",
    "corpus.path=",
    "refine.ledger=",
    "llm.api_base=",
    "trainer.threads=",
    "trainer.workers=",
    "tracking",
)
"""Overrides that say where a run was made, not what it is."""


def page_of(tables: Sequence[Comparison], folder: Path) -> str:
    """The text of the page of *tables* in *folder*; what is written there around the generated part stays."""
    made = f"{_BEGIN}\n{_generated(tables, folder)}{_END}\n"
    try:
        before = (folder / PAGE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return f"# Results on {', '.join(dict.fromkeys(_corpora(tables)))}\n\n{made}"
    head, begin, rest = before.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise UserError(f"{folder / PAGE} was not made by --bundle; move it away, or name another folder")
    return f"{head}{made}{tail.removeprefix(chr(10))}"


def table_text(tables: Sequence[Comparison]) -> str:
    """The tables and verdicts as the page shows them."""
    return to_markdown(tables, Place.PAGE)


def _corpora(tables: Sequence[Comparison]) -> Iterable[str]:
    return (str(run.result["corpus"]["name"]) for table in tables for run in table.runs)


def _generated(tables: Sequence[Comparison], folder: Path) -> str:
    parts = [table_text(tables)]
    for table in tables:
        parts.append(f"## Where the numbers of {markdown(table.title)} come from\n" if tables[1:] else "## Origin\n")
        for name, values in facts(table):
            parts += [f"- {name}: {'; '.join(map(markdown, values))}"] if values else []
        parts.append("")
    commands = commands_of([run for table in tables for run in table.folders])
    if commands:
        parts += ["## Commands\n", "```bash", *commands, "```\n"]
    parts += [
        "Every setting of each run is in `replay/<run>/config.yaml`.\n",
        "## Replay\n",
        "The files in `replay/` hold the vanilla predictions and the LLM's answers, no word of a transcript. From them",
        "this command fits the weighting again, makes this table and the report, and compares them with what is",
        "published here. It needs no LLM, no corpus and no network:\n",
        "```bash",
        f"python -m experiments.replay {shlex.quote(_shown(folder))}",
        "```",
        "",
    ]
    return "\n".join(parts)


def _shown(folder: Path) -> str:
    """*folder* as a reader at the root of the repository names it."""
    parts = folder.absolute().parts
    return "/".join(parts[parts.index("docs") :]) if "docs" in parts else folder.name


def commands_of(runs: Sequence[Run]) -> list[str]:
    """The commands of the sweeps that *runs* belong to; empty where they do not say."""
    names = {run.folder.name for run in runs}
    found: dict[str, None] = {}
    for place in dict.fromkeys(run.folder.parent / "sweeps" for run in runs):
        for manifest in sorted(place.glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime):
            trials = [trial for trial in read_sweep(manifest.parent).trials if trial.folder.name in names]
            found |= dict.fromkeys(_typed([trial.overrides for trial in trials]))
    return list(found)


def _typed(trials: Sequence[Sequence[str]]) -> list[str]:
    """One command for *trials* where they are every combination of their values, else one for each."""
    kept = [[_portable(part) for part in trial if not part.startswith(_LEFT_OUT)] for trial in trials]
    values: dict[str, dict[str, None]] = {}
    for part in (part for trial in kept for part in trial):
        key, _, value = part.partition("=")
        values.setdefault(key, {})[value] = None
    count = 1
    for one in values.values():
        count *= len(one)
    whole = count == len({tuple(trial) for trial in kept}) and all(len(trial) == len(values) for trial in kept)
    order = sorted(values, key=lambda key: (key == "seed", key not in GROUPS))
    if kept and whole:
        words = [f"{key}={','.join(values[key])}" for key in order]
        return [shlex.join(["python", "-m", "experiments.run", *(["-m"] if len(kept) > 1 else []), *words])]
    return [shlex.join(["python", "-m", "experiments.run", *trial]) for trial in kept]


def _portable(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={portable(value)}"
