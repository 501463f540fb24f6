"""Lantern from Python, end to end in half a minute: ``python -m experiments.examples.api``. No key, no network."""

from __future__ import annotations

from pathlib import Path

import lantern
from experiments import import_corpus
from experiments.cli.console import command


def main(arguments: list[str]) -> None:
    """Do it all in the folder that the argument names, or in ``runs/example``."""
    at = Path(arguments[0]) if arguments else Path("runs/example")

    # A corpus folder: made-up dialogues, text features by MiniLM.
    if not (at / "corpus").is_dir():
        import_corpus.main(["sample", "--minilm", "--dialogues", "30", "--out", str(at / "corpus")])
    corpus = lantern.load_corpus(at / "corpus")
    print(f"\n{corpus!r}\n\n{corpus.dialogues[0]}\n")

    # Two runs: each turn is shown to the LLM in one window or in three. llm=simulated answers from the gold labels.
    settings = [f"corpus.path={at / 'corpus'}", f"runs={at}", "backbone=gru", "weighting.fit_on=dev"]
    plan = lantern.plan_experiment([*settings, "llm=gpt-4o", "refine.coverage=3"])
    assert plan.asking is not None
    print(f"asking GPT-4o would take {plan.asking.calls} calls and ${plan.asking.cost:.2f}\n")
    settings.append("llm=simulated")
    runs = [lantern.run_experiment([*settings, f"refine.coverage={t}"], tell=print) for t in (1, 3)]

    # The predictions of one of them: a row per utterance.
    table = runs[1].table()
    right = table.vanilla.argmax(axis=1) == table.labels
    print(f"\n{table!r}\nvanilla accuracy {right[table.labelled].mean():.3f}")
    row = table.row(0)
    print(f"{row.utterance}: {row.explain(table.classes)}\n")

    # Side by side: what the LLM adds in each.
    for comparison in lantern.compare_runs(runs):
        print(comparison.title)
        for line in comparison.lines:
            print(f"  {line.name}: {line.gain:+.1f} points of accuracy by the LLM, p = {line.p_value:.2g} after Holm")

    # A conversation of your own; lantern.read_transcript reads one from a file.
    turns = [("Ann", "We won, I cannot believe it!"), ("Bob", "That is wonderful."), ("Ann", "And now I am so tired.")]
    own = lantern.Dialogue("own", tuple(lantern.Utterance(str(n), *turn) for n, turn in enumerate(turns)))
    predicted = lantern.load(runs[0].folder).predict(own)
    print()
    for turn, probabilities in zip(own.utterances, predicted.vanilla, strict=True):
        best = probabilities.argmax()
        print(f"{turn.speaker}: {turn.text}  ->  {predicted.classes[best]} {probabilities[best]:.2f}")


if __name__ == "__main__":
    command(main)
