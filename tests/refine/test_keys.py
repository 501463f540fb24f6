"""Ledgers are paid for: the keys of the requests that Lantern makes do not change by accident."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from lantern.corpora.sample.generator import generate_sample
from lantern.errors import FailureKind
from lantern.refine.prompt import Prompt
from lantern.refine.questions import Refiner
from lantern.refine.types import Failure, Reply
from lantern.tables import Row
from tests.composed import compose
from tests.rows import table_from_rows

MASKED = ("prompt.names=masked", "prompt.words=false", "prompt.priors=shuffled")
NARROW = "refine.stride=2"
CASES = [
    (("llm=vllm",), "98bee934ce08e235", 48),
    (("llm=vllm", NARROW), "033ff5e62129f568", 84),
    (("llm=vllm", "llm.elicitation=letters", NARROW), "dda430ae8a3b894a", 84),
    (
        ("llm=gpt-4o", "llm.structured=json_object", "llm.seed=3", "llm.temperature=0.7", "refine.samples=2", NARROW),
        "d59ba74a7d38870f",
        112,
    ),
    (
        ("llm=vllm", "llm.structured=text", "llm.max_tokens=77", "refine.context=causal", NARROW),
        "7a130de45f8809b0",
        294,
    ),
    (("llm=simulated", "refine.stride=3", "refine.coverage=3"), "df2ab4dac0067de5", 69),
    (("llm=simulated", "llm.elicitation=letters", NARROW), "02633aa854097c93", 84),
    (("llm=vllm", "llm.elicitation=words", NARROW), "c619ca144131df5b", 84),
    (("llm=smollm2", "llm.elicitation=json", NARROW), "17614afc55e74627", 84),
    (("llm=smollm2", NARROW), "d1d245dd22d7ba6e", 84),
    (("llm=vllm", "llm.drop_params=[temperature,max_tokens]", *MASKED, NARROW), "7f3f12f70279d57e", 84),
]


@pytest.mark.parametrize(("overrides", "digest", "count"), CASES)
def test_keys_of_questions_and_repair_turns(overrides: tuple[str, ...], digest: str, count: int) -> None:
    corpus, config = generate_sample(dialogues=6), compose(list(overrides))
    llm = replace(config.llm, extra_body={"min_p": 0.1}) if "llm.max_tokens=77" in overrides else config.llm
    prompt = Prompt(config.prompt, corpus.label_set, corpus.score_range, llm.elicitation)
    refiner = Refiner(corpus.by_id, prompt, config.refine, llm, llm.simulated, config.seed)
    rows = []
    for dialogue in corpus.dialogues[:3]:
        for i, said in enumerate(dialogue.utterances):
            weights = [(i * 7 + k * 13) % 29 + 1 for k in range(len(corpus.label_set))]
            vanilla = [weight / sum(weights) for weight in weights]
            scores = [2.0, 3.0, i % 5 + 0.5]
            rows.append(Row(dialogue.id, said.id, i, said.speaker, said.label, None, vanilla, scores))
    questions = refiner.questions(table_from_rows(corpus.label_set.classes, rows, "dev"))
    keys = [request.key for question in questions for request in question.requests]
    reply = Reply('{"1": 0} odd', "stop")
    for question in questions:
        for kind, error in ((FailureKind.INCOMPLETE, "utterances missing: 2"), (FailureKind.CUT_OFF, "cut")):
            again = refiner.repair(question.requests[0], Failure(kind, error, reply=reply))
            keys.append(again.key if again else "-")
    assert (hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16], len(keys)) == (digest, count)
