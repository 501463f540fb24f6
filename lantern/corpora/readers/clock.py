"""Times of utterances, in the ways in which corpora write them."""

from __future__ import annotations

import math
import re

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:[.,]\d+)?)")


def seconds(value: object) -> float | None:
    """Seconds of a number or of ``hh:mm:ss.mmm`` (also ``mm:ss``, also with a comma); None for anything else."""
    if isinstance(value, str):
        found = _CLOCK.fullmatch(value.strip())
        if found is None:
            return None
        return 3600 * int(found[1] or 0) + 60 * int(found[2] or 0) + float(found[3].replace(",", "."))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)
