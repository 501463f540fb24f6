"""What the scripts that mutate inputs share."""

from __future__ import annotations

import resource
import time
from collections import Counter


def summary(counts: Counter[str], start: float) -> int:
    """Print *counts*, the seconds since *start* (``time.perf_counter``) and the peak memory; 1 for anything wrong."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{dict(counts)}, {time.perf_counter() - start:.0f} s, peak memory {peak:.0f} MB")
    return int(bool(counts["wrong"]))
