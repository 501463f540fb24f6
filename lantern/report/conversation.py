"""The page of a conversation that a finished run has predicted. No torch."""

from __future__ import annotations

from collections.abc import Mapping

from lantern.report.pages import page
from lantern.report.reader import Shown, reader_data
from lantern.results.load import Run
from lantern.results.texts import Asked
from lantern.tables import PredictionTable


def conversation_html(
    title: str,
    table: PredictionTable,
    texts: Mapping[str, str],
    run: Run,
    scale: tuple[float, float] | None,
    llm: str | None,
    asked: Asked | None = None,
) -> str:
    """One file with the dialogue reader over *table*, which opens without a network; it holds the words of *texts*.

    Args:
        title: what was predicted, for instance the transcript's name.
        table: made by *run*; labels may be missing, as may fields and merge without an LLM.
        texts: by utterance id.
        run: the facts at the top are about this run.
        scale: lowest and highest dimension score.
        llm: the LLM that refined *table*; None without one.
        asked: its prompts and replies.
    """
    data = reader_data([Shown(run.folder.name, table, asked=asked)], texts)
    return page("conversation.html", data, title=title, facts=_facts(table, run, scale, llm))


def _facts(table: PredictionTable, run: Run, scale: tuple[float, float] | None, llm: str | None) -> list[str]:
    corpus = run.result["corpus"]
    right = run.result["test"]["methods"]["vanilla"]["accuracy"]
    facts = [
        f"{len(table)} {'turn' if len(table) == 1 else 'turns'}, predicted by {run.backbone}, which was trained on "
        f"{corpus['name']} ({corpus['label_set']}) and is right in {100 * right:.0f} % of the labelled test turns "
        "there. Numbers beside an emotion are its probability in per cent."
    ]
    if corpus.get("made_up"):
        facts.append("Those dialogues were made up by a generator: what the model says of people means nothing.")
    if llm is not None:
        merge = run.result["weighting"]
        one = f"Refined by {llm}, merged by the run's weighting ({merge.get('choice', merge['name'])})"
        facts.append(f"{one}." if llm == run.llm else f"{one}, which was fitted on replies of llm={run.llm}.")
        if table.coverage > 1:
            facts.append(
                f"{llm} judged every turn in {table.coverage} windows of the conversation, called bands. Under each "
                "band are its turns; the bar below is its weight."
            )
    if scale is not None and table.predicted_scores is not None:
        facts.append("Valence, arousal and dominance run from {:g} to {:g}.".format(*scale))
    return facts
