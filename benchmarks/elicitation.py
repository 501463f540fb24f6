"""What an LLM knows beyond the vanilla model, by the way it is asked: on development dialogues, never on test.

    python -m benchmarks.elicitation corpus=meld backbone=sdt_meld llm=smollm2 weighting.fit_on=dev \
        --dialogues 100 --ask llm.elicitation=json --ask llm.elicitation=letters \
        --ask "llm.elicitation=letters prompt.permute=true refine.calibrate=true" --out study

Every ``--ask`` is one way, a few overrides in quotes. Each is asked about the same dialogues with the same vanilla
predictions, from the ledger where it has been asked before. A line of the table:

* *usable*: share of the fields with a usable reply;
* *accuracy*, *log-loss*: of the LLM alone, the mean of an utterance's fields;
* *most frequent*: the class that it names most often, and how often;
* *beyond vanilla*: by how many nats an utterance the held-out log-loss of the weighting falls when each utterance has
  its own replies, against replies that were shuffled among all utterances (the mean of three shuffles); cross-validated
  and with a 95 % bootstrap interval, both over dialogues. Above zero the replies hold something that the model lacks.
  Against the vanilla prediction alone even an LLM that always says the same would seem to bring something: what the
  weighting learns from the positions of the utterances and from its greater freedom;
* *tokens*, *seconds*: per utterance, of all replies, whenever they were bought; *cached* ones came from a prompt cache.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale import Quiet
from lantern.environment import prepare

RESAMPLES = 10_000
SHUFFLES = 3


def main() -> None:
    """Ask in every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("overrides", nargs="+", help="settings of all runs, as in experiments.run")
    parser.add_argument("--ask", action="append", required=True, help="overrides of one way; repeat it for others")
    parser.add_argument("--dialogues", type=int, help="only the first so many development dialogues; default: all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the refined tables and table.md")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    given = parser.parse_args()
    prepare(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for ways in given.ask:
        about = ask([*given.overrides, *ways.split()], ways, given.dialogues, given.out)
        lines.append(about)
        (given.out / "table.md").write_text(markdown(lines), encoding="utf-8")
        print(markdown(lines[-1:]).splitlines()[-1], flush=True)
    print("\n" + markdown(lines))


def ask(overrides: Sequence[str], name: str, dialogues: int | None, out: Path) -> dict[str, Any]:
    """Refine the development dialogues under *overrides*; the numbers of one line."""
    from lantern.config.compose import compose
    from lantern.files import digest, write_json
    from lantern.pipeline import run, vanilla
    from lantern.pipeline.preflight import preflight
    from lantern.pipeline.refinement import Refinement
    from lantern.results.texts import examples_of

    reporter: Any = Quiet()
    ready = preflight(compose([*overrides, "weighting.fit_on=dev"]))
    for stage in ready.vanilla_stages:
        run._vanilla(ready, stage, reporter, None, [])
    table = vanilla.predict(ready, "dev").keep(ready.split.dev[:dialogues])
    examples = examples_of(ready.config, ready.corpus, Path(ready.config.runs), keep=True)
    with Refinement(ready.config, ready.backend, vanilla.transcripts(ready.corpus), examples=examples) as llm:
        requests = [r for q in llm.refiner.questions(table) for r in q.requests]
        table, stats = llm.refine(table)
        replies = llm.ledger.get_many(list({r.key for r in requests})).values()
        seconds = sum(getattr(reply, "latency", 0.0) for reply in replies)
    about = {"ask": name, "llm": ready.config.llm.name, "backbone": ready.config.backbone["name"]}
    about |= {"dialogues": len(table.by_dialogue), "utterances": len(table)}
    about |= numbers(table, ready.config.weighting) | {
        "input": stats.input_tokens / len(table),
        "cached": stats.cached_input_tokens / len(table),
        "output": stats.output_tokens / len(table),
        "seconds": seconds / len(table),
        "calls": len(replies),
        "failures": stats.failures,
    }
    label = digest([list(overrides), dialogues])[:8]
    table.save(out / f"{label}.parquet")
    write_json(out / f"{label}.json", about)
    return about


def numbers(table: Any, config: Any) -> dict[str, Any]:
    """What the LLM alone is worth in *table*, and what it adds to the vanilla prediction."""
    import numpy as np

    from lantern.weighting.training import fitting

    usable = table.fields.mask.any(axis=1) & (table.labels >= 0)
    labels = table.labels[usable]
    _, group = np.unique(table.dialogues[usable].astype(str), return_inverse=True)
    if not len(labels) or group.max() < 1:
        return {"usable": float(usable.mean())}
    with fitting(0):
        losses = losses_of(table, config, group)
        others = [losses_of(shuffled(table, seed), config, group) for seed in range(SHUFFLES)]
    mask = table.fields.mask[usable]
    mean = table.fields.probabilities[usable].sum(axis=1) / mask.sum(axis=1, keepdims=True)
    said = mean.argmax(axis=1)
    counts = np.bincount(said, minlength=len(table.classes))
    floored = np.maximum(mean[np.arange(len(labels)), labels], config.floor)
    gain = np.mean(others, axis=0) - losses
    return {
        "usable": float(table.fields.mask.mean()),
        "accuracy": float((said == labels).mean()),
        "log_loss": float(-np.log(floored).mean()),
        "majority": float(np.bincount(labels).max() / len(labels)),
        "vanilla_accuracy": float((table.vanilla[usable].argmax(axis=1) == labels).mean()),
        "most_frequent": [table.classes[int(counts.argmax())], float(counts.max() / len(said))],
        "loss": float(losses.mean()),
        "beyond": float(gain.mean()),
        "interval": interval(gain, group),
    }


def losses_of(table: Any, config: Any, group: Any) -> Any:
    """Held-out log-loss ``[N]`` of the weighting on the utterances with a usable reply, *group* their dialogues."""
    from lantern.weighting.features import build_inputs
    from lantern.weighting.stage import held_out_losses, width_of

    inputs = build_inputs(table, coverage=table.coverage, width=width_of(table), score_range=None)
    return held_out_losses(config, inputs.select(inputs.usable), group, ("attention",))["attention"]


def shuffled(table: Any, seed: int) -> Any:
    """*table* with the replies of each utterance given to another one, among those that are scored."""
    from dataclasses import replace

    import numpy as np

    fields = table.fields
    usable = np.flatnonzero(fields.mask.any(axis=1) & (table.labels >= 0))
    source = np.arange(len(table))
    source[usable] = np.random.default_rng(seed).permutation(usable)
    replies = {name: getattr(fields, name)[source] for name in ("probabilities", "failures", "repaired")}
    return replace(table, fields=replace(fields, **replies))


def interval(gain: Any, group: Any) -> list[float]:
    """95 % percentile interval of the mean of *gain* ``[N]`` over resampled dialogues, *group* ``[N]``."""
    import numpy as np

    count = int(group.max()) + 1
    sums, sizes = np.bincount(group, gain, count), np.bincount(group, minlength=count)
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return [float(end) for end in np.quantile(means, (0.025, 0.975))]


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """The table of *lines*."""
    head = "asked by | usable | accuracy | log-loss | most frequent | beyond vanilla, nats | tokens in (cached) + out"
    rows = [f"| {head} | seconds |", "|---" * 8 + "|"]
    for line in lines:
        if "beyond" not in line:
            rows.append(f"| {line['llm']}: {line['ask']} | {line['usable']:.0%} | " + " | " * 6)
            continue
        low, high = line["interval"]
        name, share = line["most_frequent"]
        rows.append(
            f"| {line['llm']}: {line['ask']} | {line['usable']:.1%} | {100 * line['accuracy']:.1f} | "
            f"{line['log_loss']:.2f} | {name} {share:.0%} | {line['beyond']:+.4f} [{low:+.4f}, {high:+.4f}] | "
            f"{line['input']:.0f} ({line['cached']:.0f}) + {line['output']:.1f} | {line['seconds']:.2f} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
