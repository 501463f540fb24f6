"""Fine-tune a text encoder and write its features: ``python -m experiments.finetune_text corpus=meld``."""

from __future__ import annotations

import time

from experiments.cli.console import ConsoleReporter, begin, screen
from lantern.errors import UserError

USAGE = """usage: python -m experiments.finetune_text [group=choice ...] [section.key=value ...]

Fine-tunes a text encoder on the training dialogues of a corpus folder and writes a new corpus folder with its vectors,
one for each utterance. With a backbone, the two are trained together on whole dialogues: first the backbone alone.
Repeat a command to continue where it stopped.

groups and their choices:
{groups}
keys: every key of FinetuneConfig in lantern/config/schema.py, for example
  encoder=roberta-base encoder.download=true   an encoder of the Hugging Face hub, or of a folder
  out=data/meld-1  seed=1  encoder.causal=true  encoder.tokens=512  encoder.layers=[-1,-2,-3,-4]
  backbone=sdt     end to end; encoder.frozen_epochs=3  backbone.batch_size=4
  oof.folds=5      an encoder for each fold as well: runs with weighting.fit_on=oof need them
  report_test=true its own scores on the test dialogues as well, with intervals; recorded as a read of the test split
  trainer.precision=bf16-mixed  trainer=gpu
  trainer.extra.accumulate_grad_batches=2  encoder.gradient_checkpointing=true   where memory is short

options:
  --config     print the composed configuration and stop
  -h, --help   this text"""


def main(arguments: list[str]) -> int:
    """Compose, check, fine-tune."""
    from lantern.config.groups import FINETUNE_GROUPS, choices

    if {"-h", "--help"} & set(arguments):
        lines = [f"  {group:<10}{', '.join(choices(group))}" for group in FINETUNE_GROUPS]
        print(USAGE.format(groups="\n".join(lines)))
        return 0
    for argument in arguments:
        if argument.startswith("-") and argument != "--config":
            raise UserError(f"unknown option {argument}; see --help")
    overrides = [a for a in arguments if a != "--config"]
    named = [a for a in overrides if a.startswith("encoder=") and a.partition("=")[2] not in choices("encoder")]
    if named:
        place = overrides.index(named[-1])
        overrides[place : place + 1] = ["encoder=hub", f"encoder.model={named[-1].partition('=')[2]}"]
    from lantern.config.compose import composed, dump
    from lantern.config.schema import FinetuneConfig

    if "--config" not in arguments:
        begin()
    config = composed(overrides, "finetune", FinetuneConfig, FINETUNE_GROUPS)
    if "--config" in arguments:
        print(dump(config))
        return 0
    from lantern.environment import prepare

    prepare(config.trainer.threads)
    from lantern.pipeline.encoders.stage import finetune, ready

    made, console, began = ready(config), screen(), time.monotonic()
    with ConsoleReporter(console) as reporter:
        corpus = finetune(made, reporter)
    card = corpus.cards["text"]
    console.print(
        f"text: {card.dims}-d for {card.count:,} utterances, {card.extractor}, {card.version}", soft_wrap=True
    )
    console.print(f"  {len(card.fits)} encoder(s), {time.monotonic() - began:.0f} s, in {corpus.path}", soft_wrap=True)
    console.print(f"  python -m experiments.run corpus={config.corpus.name} corpus.path={corpus.path}", soft_wrap=True)
    return 0
