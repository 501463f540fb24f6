"""What a run or a sweep would train, send and cost; sends nothing: ``python -m experiments.plan llm=gpt-4o``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.cli.command_line import read_command_line
from experiments.cli.console import begin, command, screen
from lantern.errors import UserError
from lantern.results.progress import duration

if TYPE_CHECKING:
    from rich.console import Console

    from lantern.pipeline.plan import Plan
    from lantern.refine.estimate import Estimate
    from lantern.refine.questions import RefineConfig
    from lantern.refine.types import Request

USAGE = """usage: python -m experiments.plan [the arguments of experiments.run]

Prints the models to train or to reuse, the calls, tokens, cost and time of the LLM, and one whole prompt. Nothing is
trained and nothing is sent; no key is needed.

options:
  -m, --multirun   plan a sweep over comma-separated values; what its runs share is counted once
  -h, --help       this text"""


def main(arguments: list[str]) -> int:
    """Plan and print."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    begin()
    line = read_command_line(arguments)
    configs = line.configs
    if line.search is not None:
        raise UserError("search: its runs are not known before; plan one of them, or a sweep")
    from lantern.environment import prepare

    if configs[0].study is not None:
        raise UserError("experiment=simulate asks no LLM; there is nothing to plan")
    prepare(configs[0].trainer.model_threads)
    from lantern.pipeline.plan import models, plan, training_seconds
    from lantern.pipeline.preflight import preflight_all

    console = screen()
    ready = preflight_all(configs, check_backend=False)
    to_train, to_reuse = models(ready)
    seconds = training_seconds(ready) if to_train else 0.0
    took = "not known yet, nothing like it was trained here" if seconds is None else f"about {duration(seconds)}"
    models_line = f"{to_train} to train, {to_reuse} to reuse" + (f"; training time {took}" if to_train else "")
    if len(ready) > 1:
        finished = sum(one.finished() is not None for one in ready)
        console.print(f"sweep of {len(ready)} runs, {finished} of them finished before", style="bold")
        console.print(f"  vanilla models  {models_line}")
    backends: dict[str, list[int]] = {}
    for number, config in enumerate(configs):
        backends.setdefault(config.llm.name if config.refine.enabled else "no LLM", []).append(number)
    plans = []
    for name, numbers in backends.items():
        plans.append(plan([ready[n] for n in numbers]))
        shown = models_line if len(ready) == 1 else None
        _print(console, name, [configs[n].refine for n in numbers], plans[-1], shown)
    asking = [one.asking for one in plans if one.asking is not None]
    if len(asking) > 1:
        console.print("all LLMs together", style="bold")
        console.print(f"  calls           {sum(one.calls for one in asking):,}")
        costs = [one.cost for one in asking if one.cost is not None]
        total = f"${sum(costs):,.2f}" if len(costs) == len(asking) else "not known"
        console.print(f"  cost            {total}")
        console.print(f"  time            about {duration(sum(one.seconds for one in asking))}, one after the other")
    example = next((one.example for one in plans if one.example is not None), None)
    if example is not None:
        _print_prompt(console, example)
    return 0


def _print(console: Console, name: str, settings: list[RefineConfig], plan: Plan, models: str | None) -> None:
    runs, max_cost = len(settings), settings[0].max_cost
    console.print(f"{name}, {runs} {'run' if runs == 1 else 'runs'}", style="bold")
    if models is not None:
        console.print(f"  vanilla models  {models}")
    asking = plan.asking
    if asking is None:
        return
    about = "utterances of receptive fields" if any(one.independent for one in settings) else "receptive fields"
    console.print(f"  questions       {plan.fields:,} {about} in {plan.dialogues:,} dialogues")
    console.print(f"  prompts         {asking.prompts:,} different ones, {asking.answered:,} in the ledger already")
    console.print(f"  calls           {asking.calls:,}, plus one for every reply that needs a repair turn")
    share = f"{100 * asking.cached_input / asking.input:.0f} %" if asking.input else "0 %"
    console.print(
        f"  tokens          {asking.input:,} in ({share} from a provider's prompt cache), {asking.output:,} out; "
        f"counted by {asking.tokenizer}",
        soft_wrap=True,
    )
    console.print(f"  cost            {_cost(plan)}", soft_wrap=True)
    if plan.utterances:
        console.print(f"  per utterance   {_per_utterance(asking, plan.utterances)}")
    if asking.room:
        price = plan.price.output * asking.room * asking.calls / 1e6 if plan.price else 0
        most = f", at most ${price:,.2f}" if price else ""
        console.print(f"  not counted     thinking, up to {asking.room:,} tokens a call{most}", soft_wrap=True)
    how = "as measured" if asking.measured else "assumed"
    took = f"about {duration(asking.seconds)} at {asking.latency:.1f} s a call ({how})" if asking.latency else "none"
    console.print(f"  time            {took}")
    if not plan.exact:
        console.print("  before training the prompts hold placeholders for the predictions", style="dim")
    when = next((one.when for one in settings if one.when != "end"), None)
    if when is not None:
        console.print(f"  not counted: what refine.when={when} asks about dev in training", style="yellow")
    if max_cost is not None and asking.cost is not None and asking.cost > max_cost:
        console.print(f"  refine.max_cost={max_cost:g} would stop it on the way", style="yellow")


def _print_prompt(console: Console, example: Request) -> None:
    console.rule("one prompt", style="dim")
    for message in example.messages:
        console.print(message["role"], style="dim")
        console.print(message["content"], soft_wrap=True)
    console.rule(style="dim")


def _per_utterance(asking: Estimate, utterances: float) -> str:
    tokens = f"{asking.input / utterances:,.0f} tokens in, {asking.output / utterances:,.0f} out"
    return tokens if not asking.cost else f"{tokens}, ${asking.cost / utterances:.2g}"


def _cost(plan: Plan) -> str:
    asking = plan.asking
    assert asking is not None
    if plan.price is None or asking.cost is None or asking.cost_with_repairs is None:
        return "not known: give llm.price_input and llm.price_output (dollars per million tokens), or llm.free=true"
    if asking.cost == asking.cost_with_repairs == 0:
        return "nothing"
    price = f"${plan.price.input:g} in and ${plan.price.output:g} out per million tokens"
    return f"${asking.cost:,.2f}, at most ${asking.cost_with_repairs:,.2f} with a repair turn for every reply ({price})"


if __name__ == "__main__":
    command(main)
