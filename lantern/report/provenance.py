"""Where the numbers of a table come from, in words and per run."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from lantern.report.pages import macros
from lantern.results.comparison import Comparison
from lantern.results.load import Run


def facts(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """Corpus, split, prompts, models, machines, versions, notes: the different values of each over the runs."""
    runs = comparison.runs
    return [
        (
            "corpus",
            _values(runs, lambda r: f"{r['corpus']['name']}, fingerprint {str(r['corpus'].get('fingerprint'))[:16]}"),
        ),
        ("label set", _values(runs, lambda r: r["corpus"]["label_set"])),
        ("protocol", _values(runs, lambda r: _protocol(r["protocol"]))),
        ("weighting fitted on", _values(runs, lambda r: (r.get("weighting") or {}).get("fit_on"))),
        ("prompt", _values(runs, lambda r: _prompt(r) if r.get("llm") else None)),
        ("LLM", _values(runs, lambda r: _llm(r["llm"]) if r.get("llm") else None)),
        ("machine", _values(runs, lambda r: _machine(r["machine"]) if r.get("machine") else "not recorded")),
        ("versions", _values(runs, lambda r: ", ".join(f"{k} {v}" for k, v in (r.get("versions") or {}).items()))),
        ("notes", _values(runs, lambda r: r.get("notes") or [])),
    ]


def provenance(comparison: Comparison) -> Markup:
    """The facts, then a row per run."""
    rows = [_row(run) for run in comparison.folders]
    heads = ["run folder", "seed", "date", "best epoch", "calls", "tokens in / out", "cost $", "test reads before"]
    return macros().provenance(facts(comparison), heads, rows)


def _values(runs: list[Run], read: Any) -> list[str]:
    """Different values of a fact over *runs*, in order."""
    values: dict[str, None] = {}
    for run in runs:
        value = read(run.result)
        for one in value if isinstance(value, list) else [value]:
            if one:
                values[str(one)] = None
    return list(values)


def _protocol(protocol: dict[str, Any]) -> str:
    labelled = protocol.get("labelled") or {}
    parts = []
    for part in ("train", "dev", "test"):
        turns = f" ({labelled[part]:,} labelled turns)" if part in labelled else ""
        parts.append(f"{part} {protocol.get(part, '?')} dialogues{turns}")
    text = f"{protocol['name']}: {', '.join(parts)}; epochs chosen on {_selection(protocol)}"
    shared = {part: names for part, names in (protocol.get("same_speakers") or {}).items() if names}
    if shared:
        text += "; " + ", ".join(f"{part} shares {len(names)} speakers with training" for part, names in shared.items())
    if "twins" in protocol:
        text += f"; {protocol['twins']:,} labelled test turns have a text that is in training, too"
    return text


def _selection(protocol: dict[str, Any]) -> str:
    return "test (paper-style)" if protocol.get("selection") == "paper-style" else "dev"


def _prompt(result: dict[str, Any]) -> str:
    prompt = result.get("prompt") or {}
    return f"{prompt.get('name', '?')} version {prompt.get('version', '?')}, digest {prompt.get('digest', '?')}"


def _llm(llm: dict[str, Any]) -> str:
    return f"{llm['name']}: {llm.get('model', '?')}"


def _machine(machine: dict[str, Any]) -> str:
    parts = [str(machine.get("processor", "?")), f"{machine.get('cores', '?')} cores"]
    parts += [f"{machine['memory_gb']} GB"] if "memory_gb" in machine else []
    parts += [str(machine["gpu"])] if machine.get("gpu") else []
    return ", ".join([*parts, str(machine.get("system", "?"))])


def _row(run: Run) -> list[str]:
    result, llm = run.result, run.result.get("llm") or {}
    vanilla = result.get("vanilla") or {}
    known = {"input_tokens", "output_tokens"} <= llm.keys()
    tokens = f"{llm['input_tokens']:,} / {llm['output_tokens']:,}" if known else "–"
    price = llm.get("cost")
    cells = [run.folder.name, run.seed, str(result.get("time", "?")).replace("T", " ").removesuffix("Z")]
    cells += [vanilla["best_epoch"] + 1 if "best_epoch" in vanilla else "–", llm.get("calls", "–"), tokens]
    cells += ["–" if price is None else f"{price:.2f}", result["protocol"].get("test_reads_before", "–")]
    return [str(cell) for cell in cells]
