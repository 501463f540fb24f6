"""The answer of a comparison: does the LLM help this backbone, by how much, at what price? No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist, mean
from typing import Any

from lantern.metrics.methods import WEIGHTED
from lantern.metrics.paired import Difference
from lantern.results.folds import missing_folds

ALPHA, POWER = 0.05, 0.8
WORTHWHILE = 0.01
"""Where the interval rules out a gain of this much accuracy, one point, the LLM does not help."""
FEWEST = 6
"""Test dialogues below which nothing is decided: a sign test over five can reach no p-value below 0.06."""


def money(value: float | None) -> str:
    """Dollars; small ones keep two significant digits. A dash where there is no price."""
    if value is None:
        return "-"
    return f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


class Decision(StrEnum):
    """What the test dialogues say about an LLM."""

    HELPS = "helps"
    NO_HELP = "does not help"
    HARMS = "harms"
    OPEN = "cannot be decided"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Weighted against vanilla in one setting. Differences are in points of accuracy, means over the seeds."""

    backbone: str
    llm: str
    setting: str
    """What else tells it from the other settings; empty for nothing."""
    decision: Decision
    gain: float
    low: float | None
    """Ends of the 95 % interval over dialogues; None where there is none."""
    high: float | None
    p_value: float | None
    """Corrected after Holm."""
    family: int
    """Comparisons that the correction is over."""
    family_of: str
    """What these are: ``settings`` of a table, or ``merges`` of a run."""
    cost: float | None
    """Dollars a seed; None where a price is not known."""
    dialogues: int
    """Test dialogues with a label."""
    share: float | None
    """Gain over that of the best possible merge of the LLM's replies; None where that is not known, or nothing is
    gained."""
    further: int | None
    """More labelled test utterances that would decide an open question with 80 % power; None where it is decided, or
    the dialogues are too few to say."""
    weighted_f1: Difference | None
    """The same difference in weighted F1; None where there is none."""

    @property
    def numbers(self) -> str:
        """Gain, interval, share of the possible gain, p-value and price, as far as they are known."""
        interval = "" if self.low is None or self.high is None else f" [{self.low:+.1f}, {self.high:+.1f}]"
        parts = [f"{self.gain:+.1f} points{interval}"]
        if self.share is not None:
            share = f"{100 * self.share:.0f} % of what" if self.share < 0.995 else "all that"
            parts.append(f"{share} this LLM makes possible")
        if self.decision in (Decision.HELPS, Decision.HARMS) and self.p_value is not None:
            family = f" after Holm over {self.family} {self.family_of}" if self.family > 1 else ""
            parts.append(f"p = {self.p_value:.2g}{family}")
        if self.cost is not None:
            parts.append(f"${money(self.cost)} a seed" if self.cost else "free")
        return ", ".join(parts)

    @property
    def claim(self) -> str:
        """The answer without its numbers."""
        of = f" ({self.setting})" if self.setting else ""
        if self.decision == Decision.OPEN:
            return f"whether LLM {self.llm} helps {self.backbone}{of} cannot be decided yet"
        return f"LLM {self.llm} {self.decision} {self.backbone}{of}"

    @property
    def reason(self) -> str:
        """Why it does not help, what an open question lacks, and a weighted F1 that says the opposite; or empty."""
        return "; ".join(part for part in (self._why, self._opposite) if part)

    @property
    def _opposite(self) -> str:
        """Merging often names a frequent class more often: accuracy rises, and rare classes lose."""
        f1 = self.weighted_f1
        if f1 is None or round(self.gain, 1) * round(100 * f1.difference, 1) >= 0:
            return ""
        moves = "rises" if f1.difference > 0 else "falls"
        return f"weighted F1 {moves}, {100 * f1.difference:+.1f} [{100 * f1.low:+.1f}, {100 * f1.high:+.1f}]"

    @property
    def _why(self) -> str:
        if self.decision == Decision.NO_HELP:
            return "no class changes" if self.low == self.high == 0 else "a gain of a point or more is ruled out"
        if self.decision != Decision.OPEN:
            return ""
        if self.further is None:
            if self.low is None and self.dialogues > 1:
                return "its seeds have different test utterances"
            count = "1 test dialogue is" if self.dialogues == 1 else f"{self.dialogues} test dialogues are"
            return f"{count} too few, {FEWEST} are the least"
        rounded = round(self.further, min(0, 2 - len(str(self.further))))
        return f"about {rounded:,} more test utterances would decide it"

    def __str__(self) -> str:
        return f"{self.claim[0].upper()}{self.claim[1:]}: {self.numbers}" + (f"; {self.reason}" if self.reason else "")


def verdict(
    difference: Difference | Mapping[str, Any] | None,
    p_value: float | None,
    family: int,
    *,
    backbone: str,
    llm: str,
    gain: float,
    dialogues: int,
    cost: float | None = None,
    share: float | None = None,
    name: str = "",
    family_of: str = "settings",
    weighted_f1: Difference | Mapping[str, Any] | None = None,
) -> Verdict:
    """What a paired *difference* of accuracy says.

    Args:
        difference: fractions of 1, an object or what a result stores; None for a single dialogue, or where the seeds
            have different test utterances.
        p_value: of it, corrected over *family* comparisons.
        gain: in points; shown where there is no difference.
        dialogues: with a label in the test split.
        share: what :func:`possible_share` gives.
        name: of the setting in its table; backbone and LLM are taken out of it. It may name the backbone more
            precisely, by its file (``sdt_small``).
        weighted_f1: its paired difference, as *difference* is; left out where that is None.
    """
    one, f1 = _difference(difference), _difference(weighted_f1)
    precise = next((part for part in name.split() if part.startswith(f"{backbone}_")), backbone)
    corrected = one.p_value if one is not None and p_value is None else p_value
    decision, further = (Decision.OPEN, None) if one is None else _decide(one, corrected or 0.0, max(family, 1))
    return Verdict(
        backbone=precise,
        llm=llm,
        setting=" ".join(part for part in name.split() if part not in (precise, llm, "+", "all")),
        decision=decision,
        gain=gain if one is None else 100 * one.difference,
        low=None if one is None else 100 * one.low,
        high=None if one is None else 100 * one.high,
        p_value=None if one is None else corrected,
        family=family,
        family_of=family_of,
        cost=cost,
        dialogues=dialogues if one is None else one.dialogues,
        share=share,
        further=further,
        weighted_f1=None if one is None else f1,
    )


def _difference(one: Difference | Mapping[str, Any] | None) -> Difference | None:
    return one if isinstance(one, Difference | None) else Difference(**one)


def _decide(one: Difference, p_value: float, family: int) -> tuple[Decision, int | None]:
    if one.low == one.high == one.difference == 0:
        return Decision.NO_HELP, None
    if one.dialogues < FEWEST:
        return Decision.OPEN, None
    if p_value < ALPHA and one.difference != 0:
        return (Decision.HELPS if one.difference > 0 else Decision.HARMS), None
    if one.high < WORTHWHILE:
        return Decision.NO_HELP, None
    return Decision.OPEN, further_utterances(one, family)


def further_utterances(one: Difference, family: int = 1) -> int:
    """Labelled utterances to add so that 80 % of such test splits decide, if the true difference is the measured one.

    Whichever is sooner: the difference is significant in a family of *family* comparisons (Bonferroni's bound of
    Holm's correction), or a gain of :data:`WORTHWHILE` is ruled out. The standard error over dialogues shrinks with the
    square root of the utterances (Cohen 1988, chapter 2).
    """
    normal = NormalDist()
    power, error = normal.inv_cdf(POWER), one.standard_error
    ways = [(normal.inv_cdf(1 - ALPHA / (2 * family)), abs(one.difference))]
    ways.append((normal.inv_cdf(1 - ALPHA / 2), WORTHWHILE - one.difference))
    sizes = [one.rows * ((z + power) * error / reach) ** 2 for z, reach in ways if reach > 0]
    return max(1, math.ceil(min(sizes) - one.rows))


def run_verdict(result: Mapping[str, Any]) -> Verdict | None:
    """The answer of a single run from its *result*; None for a run without an LLM, or with too few of its replies."""
    test, llm = result["test"], result.get("llm")
    if not llm or result.get("incomplete") or WEIGHTED not in test["methods"]:
        return None
    paired = (test.get("against_vanilla") or {}).get(WEIGHTED) or {}
    accuracy = paired.get("accuracy")
    gain = test["methods"][WEIGHTED]["accuracy"] - test["methods"]["vanilla"]["accuracy"]
    return verdict(
        None if accuracy is None or accuracy["dialogues"] < 2 else accuracy,
        paired.get("holm"),
        paired.get("family", 1),
        backbone=str(result["backbone"]),
        llm=str(llm["name"]),
        gain=100 * gain,
        dialogues=test.get("dialogues", 1),
        cost=llm.get("cost"),
        share=possible_share([result]),
        family_of="merges",
        weighted_f1=paired.get("weighted_f1"),
    )


def possible_share(results: Sequence[Mapping[str, Any]]) -> float | None:
    """Accuracy gained over what the best possible merge gains, of the means over *results*, a seed each.

    None where the best merge is not known, which it is of a simulated LLM only, where it gains less than
    :data:`WORTHWHILE`, and where nothing is gained.
    """
    tests = [result["test"] for result in results]
    if not all(test.get("possible") and WEIGHTED in test["methods"] for test in tests):
        return None
    vanilla = mean(test["methods"]["vanilla"]["accuracy"] for test in tests)
    possible = mean(test["possible"]["accuracy"] for test in tests) - vanilla
    gain = mean(test["methods"][WEIGHTED]["accuracy"] for test in tests) - vanilla
    return gain / possible if possible >= WORTHWHILE and gain > 0 else None


def caveats(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before any number of *results*, each once: their notes, few dialogues, failed fields."""
    found: dict[str, None] = {}
    for result in results:
        found |= dict.fromkeys([*missing_folds(result), *(result.get("notes") or ())])
        dialogues = result["test"].get("dialogues")
        if dialogues is not None and dialogues < 20:
            count = f"{dialogues} test dialogue{'' if dialogues == 1 else 's'}"
            found[f"few test dialogues ({count}): intervals and p-values are rough"] = None
        llm = result.get("llm") or {}
        if llm.get("failed_fields") and llm["failed_fields"] > 0.05 * llm.get("fields", 0):
            share = 100 * llm["failed_fields"] / llm["fields"]
            found[f"{llm['name']}, seed {result['seed']}: {share:.0f} % of the receptive fields failed"] = None
    return list(found)
