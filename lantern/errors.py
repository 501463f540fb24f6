"""The one exception a user's mistake may raise."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, told in one line: the offending value, where it stands, what would be right.

    The commands in ``experiments/`` print the message and exit with code 2; nothing else is shown.
    """


def did_you_mean(value: str, valid: list[str]) -> str:
    """`` Did you mean 'x'?`` when one of *valid* is close to *value*, else an empty string."""
    import difflib

    close = difflib.get_close_matches(value, valid, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
