"""The one exception a user's mistake may raise."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, told in one line: the offending value, where it stands, what would be right.

    The commands in ``experiments/`` print the message and exit with code 2; nothing else is shown.
    """


def did_you_mean(value: str, valid: list[str]) -> str:
    """`` Did you mean 'x'?`` when one of *valid* is close to *value*, else an empty string."""
    import difflib

    # A key in another case is as near as can be, and difflib would not see it.
    names = {name.lower(): name for name in valid}
    close = difflib.get_close_matches(value.lower(), names, n=1)
    return f" Did you mean {names[close[0]]!r}?" if close else ""
