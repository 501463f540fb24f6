"""Lantern: LLM-refined multi-modal emotion recognition in conversation, as experiments one can believe.

From Python, in the order in which they are used:

- :func:`load_corpus`, :func:`read_transcript`: a corpus folder, a conversation of one's own; both hold
  :class:`Dialogue` and :class:`Utterance`.
- :func:`compose`, :func:`plan_experiment`, :func:`run_experiment`: settings, what they would cost, the run.
- :func:`load_runs`, :func:`compare_runs`: finished runs and what tells them apart.
- :func:`load`: a finished run that predicts conversations.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lantern.api import load, load_runs, plan_experiment, run_experiment
    from lantern.config.compose import compose
    from lantern.corpora.folder import load_corpus
    from lantern.corpora.readers.conversations import read_transcript
    from lantern.corpora.types import Dialogue, Utterance
    from lantern.results.comparison import compare_runs

__all__ = [
    "Dialogue",
    "Utterance",
    "compare_runs",
    "compose",
    "load",
    "load_corpus",
    "load_runs",
    "plan_experiment",
    "read_transcript",
    "run_experiment",
]
_HOMES = {
    "Dialogue": "lantern.corpora.types",
    "Utterance": "lantern.corpora.types",
    "compare_runs": "lantern.results.comparison",
    "compose": "lantern.config.compose",
    "load_corpus": "lantern.corpora.folder",
    "read_transcript": "lantern.corpora.readers.conversations",
}


if not TYPE_CHECKING:  # a type checker would take it as a promise that every name is there

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'lantern' has no attribute {name!r}")
        found = getattr(importlib.import_module(_HOMES.get(name, "lantern.api")), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
