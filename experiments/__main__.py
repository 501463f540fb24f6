"""Lantern's commands under one name: ``lantern run backbone=sdt`` is ``python -m experiments.run backbone=sdt``."""

from __future__ import annotations

import importlib

from experiments.cli.console import command
from lantern.errors import UserError, did_you_mean

COMMANDS = {
    "run": ("run", "train, refine with an LLM, weight, evaluate; -m for a sweep"),
    "plan": ("plan", "what a run or a sweep would train, send and cost"),
    "status": ("status", "progress of a sweep"),
    "compare": ("compare", "finished runs side by side, as tables and a report"),
    "replay": ("replay", "published results computed again from their bundle"),
    "predict": ("predict", "emotions in a conversation of your own, by a finished run"),
    "import": ("import_corpus", "turn a raw corpus into a corpus folder"),
    "inspect": ("inspect_corpus", "look into a corpus folder"),
    "features": ("extract_features", "add a modality to a corpus folder"),
    "finetune": ("finetune_text", "fine-tune a text encoder and write its features"),
    "ledger": ("ledger", "look into, check, mend, share and clean the record of all LLM calls"),
}
"""Name, module and purpose of each command."""


def dispatch(arguments: list[str]) -> int | None:
    """Run the command that the first of *arguments* names."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: lantern COMMAND ...; lantern COMMAND --help for its arguments\n")
        print("\n".join(f"  {name:<10}{purpose}" for name, (_, purpose) in COMMANDS.items()))
        print("\nsource <(lantern completion bash) lets the shell complete all this; also zsh, and fish with | source")
        return 0
    name, *rest = arguments
    if name == "completion":
        from experiments.cli.completion import script

        print(script(" ".join(rest), COMMANDS), end="")
        return 0
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}.{did_you_mean(name, list(COMMANDS))} Valid: {', '.join(COMMANDS)}")
    return importlib.import_module(f"experiments.{COMMANDS[name][0]}").main(rest)


def main() -> None:
    """Run a command on what was typed."""
    command(dispatch)


if __name__ == "__main__":
    main()
