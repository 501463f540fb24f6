"""Rules for the values of settings: written as annotations of a dataclass's fields, checked by one function."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from lantern.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Within:
    """A finite number within bounds: ``hidden: Annotated[int, Within(least=1)]``."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def problem(self, value: float) -> str | None:
        """What is wrong with *value*: for an integer the bound it breaks, for other numbers the whole range."""
        if not math.isfinite(value):
            return " is not a finite number"
        bounds = (
            (self.least, value >= self.least, f"at least {self.least}" if self.least else "0 or more"),
            (self.above, value > self.above, f"above {self.above}"),
            (self.most, value <= self.most, f"at most {self.most}"),
            (self.below, value < self.below, f"below {self.below}"),
        )
        named = [
            text for bound, kept, text in bounds if math.isfinite(bound) and (isinstance(value, float) or not kept)
        ]
        return None if all(kept for _, kept, _ in bounds) else f" must be {' and '.join(named)}"


class OneOf:
    """One of several words, or a list of them: ``pool: Annotated[str, OneOf("linear", "log")]``."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def problem(self, value: str | list[str]) -> str | None:
        """The first word that is none of them, with the nearest one."""
        for word in [value] if isinstance(value, str) else value:
            if word not in self.words:
                which = "" if isinstance(value, str) else f": {word!r}"
                return f"{which} is not one of {', '.join(self.words)}.{did_you_mean(word, self.words)}"
        return None


Count = Annotated[int, Within(least=1)]
Finite = Annotated[float, Within()]
Amount = Annotated[float, Within(least=0)]
Positive = Annotated[float, Within(above=0)]
Rate = Annotated[float, Within(least=0, below=1)]


def check(settings: Any, section: str, at: str = "") -> None:
    """Check every field of the dataclass *settings* against the rule in its annotation; null and ``???`` pass.

    *section* is where the settings are on the command line; *at* comes before the message.

    Raises:
        UserError: the setting as it is written on the command line, and what it must be.
    """
    for name, rule, optional in _rules(type(settings)):  # type: ignore[arg-type]
        value = getattr(settings, name)
        problem = None if value is None or value == "???" else rule.problem(value)
        if problem is not None:
            shown = f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
            raise UserError(f"{at}{section}.{name}={shown}{problem}{', or null' if optional else ''}")


@cache
def _rules(kind: type) -> tuple[tuple[str, Any, bool], ...]:
    """Name, rule and whether null is allowed, for each field of *kind* that has a rule."""
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        (f.name, rule, type(None) in get_args(hints[f.name])) for f in fields(kind) for rule in _rules_in(hints[f.name])
    )


def _rules_in(hint: Any) -> Iterator[Any]:
    """The rules in a type: ``Annotated[int, rule]`` or ``Annotated[int, rule] | None``."""
    if get_origin(hint) is Annotated:
        yield from hint.__metadata__
    else:
        for argument in get_args(hint):
            yield from _rules_in(argument)
