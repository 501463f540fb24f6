"""The named label sets. A set is never guessed from its size: two different ones are both called "4-way"."""

from __future__ import annotations

from lantern.corpora.types import LabelSet
from lantern.errors import UserError, did_you_mean

_IEMOCAP_SIX = {
    "happy": "pleased, amused, content or affectionate, in a warm and fairly calm way",
    "sad": "low, hurt, grieving, disappointed or resigned, with little energy",
    "neutral": "matter-of-fact: informing, asking or agreeing, with no emotion that stands out",
    "angry": "hostile or outraged, attacking or blaming someone, with raised force",
    "excited": "thrilled, eager or elated, with high energy",
    "frustrated": "annoyed or fed up because something does not work or is not heard, short of open hostility",
}
_MELD_SEVEN = {
    "neutral": "matter-of-fact, with no emotion that stands out",
    "surprise": "startled or astonished by something unexpected, pleasant or not",
    "fear": "afraid, worried or anxious about something that may happen",
    "sadness": "low, hurt, sorry or disappointed",
    "joy": "pleased, amused, excited or affectionate",
    "disgust": "repelled by something or someone, physically or morally",
    "anger": "annoyed, hostile or outraged",
}
LABEL_SETS: dict[str, LabelSet] = {
    found.name: found
    for found in (
        LabelSet("iemocap-6", tuple(_IEMOCAP_SIX), _IEMOCAP_SIX),
        LabelSet("sample-6", tuple(_IEMOCAP_SIX), _IEMOCAP_SIX),
        LabelSet("meld-7", tuple(_MELD_SEVEN), _MELD_SEVEN),
    )
}
"""Every label set by name. The order of the classes is that of the published feature files."""

_AMBIGUOUS = {"4-way", "4way", "iemocap-4", "iemocap4", "iemocap_4"}


def label_set(name: str) -> LabelSet:
    """The label set called *name*.

    Raises:
        UserError: there is no such set, or the name fits two different ones.
    """
    if name.lower() in _AMBIGUOUS:
        raise UserError(
            f"label set {name!r} names two different 4-way tasks: happy, sad, neutral, angry with excited turns "
            "dropped (4,543 utterances), and the same with excited merged into happy (5,531); their numbers must not "
            f"be compared. Valid: {', '.join(LABEL_SETS)}"
        )
    if name not in LABEL_SETS:
        valid = list(LABEL_SETS)
        raise UserError(f"no label set {name!r}.{did_you_mean(name, valid)} Valid: {', '.join(valid)}")
    return LABEL_SETS[name]
