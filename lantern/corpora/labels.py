"""The named label sets. A set is never guessed from its size: two different ones are both called "4-way".

A new label set is an entry of :data:`LABEL_SETS`; published counts, where they exist, are an entry of :data:`COUNTS`.
"""

from __future__ import annotations

from pathlib import Path

from lantern.corpora.text_files import read_yaml
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
_IEMOCAP_FOUR = {name: _IEMOCAP_SIX[name] for name in ("happy", "sad", "neutral", "angry")}
_IEMOCAP_MERGED = _IEMOCAP_FOUR | {
    "happy": "pleased, amused, content or affectionate; also thrilled, eager or elated, with high energy"
}
_MELD_THREE = {
    "neutral": "matter-of-fact, neither pleasant nor unpleasant",
    "positive": "pleasant: joyful, amused, affectionate, or surprised by something good",
    "negative": "unpleasant: angry, sad, afraid, disgusted, or surprised by something bad",
}
_EMORY_SEVEN = {
    "joyful": "happy, amused, excited, hopeful or playful",
    "mad": "annoyed, hostile, jealous or outraged",
    "peaceful": "calm, content, trusting, tender or grateful",
    "neutral": "matter-of-fact, with no emotion that stands out",
    "sad": "low, lonely, ashamed, guilty or hurt",
    "powerful": "proud, confident, important or respected",
    "scared": "afraid, anxious, confused, insecure or overwhelmed",
}
LABEL_SETS: dict[str, LabelSet] = {
    name: LabelSet(name, tuple(definitions), definitions)
    for name, definitions in {
        "iemocap-6": _IEMOCAP_SIX,
        "iemocap-6-legacy": _IEMOCAP_SIX,
        "iemocap-4-hap": _IEMOCAP_FOUR,
        "iemocap-4-hap-legacy": _IEMOCAP_FOUR,
        "iemocap-4-happexc": _IEMOCAP_MERGED,
        "sample-6": _IEMOCAP_SIX,
        "meld-7": _MELD_SEVEN,
        "meld-3": _MELD_THREE,
        "emorynlp-7": _EMORY_SEVEN,
    }.items()
}
"""Every label set by name. The order of the classes is that of the published feature files.

``iemocap-6`` and ``iemocap-4-hap`` hold the corpus's own labels. The ``-legacy`` sets are those of the widespread
feature files, in which 53 more turns are happy: the annotators did not agree on them (``xxx``), their speaker called
them happy and nothing else, and so did at least one annotator. ``iemocap-4-happexc`` merges excited into happy, as the
speech field does.
"""

COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    "iemocap-6": {"train": (452, 839, 1324, 933, 742, 1468), "test": (143, 245, 384, 170, 299, 381)},
    "iemocap-6-legacy": {"train": (504, 839, 1324, 933, 742, 1468), "test": (144, 245, 384, 170, 299, 381)},
    "iemocap-4-hap": {"train": (452, 839, 1324, 933), "test": (143, 245, 384, 170)},
    "iemocap-4-hap-legacy": {"train": (504, 839, 1324, 933), "test": (144, 245, 384, 170)},
    "iemocap-4-happexc": {"train": (1194, 839, 1324, 933), "test": (442, 245, 384, 170)},
    "meld-7": {
        "train": (4710, 1205, 268, 683, 1743, 271, 1109),
        "dev": (470, 150, 40, 111, 163, 22, 153),
        "test": (1256, 281, 50, 208, 402, 68, 345),
    },
    "meld-3": {"train": (4710, 2334, 2945), "dev": (470, 233, 406), "test": (1256, 521, 833)},
}
"""Utterances per class of the whole corpus, by split; for IEMOCAP, train is sessions 1-4 and test is session 5.

IEMOCAP's sets have 7,380, 7,433, 4,490, 4,543 and 5,531 utterances, in this order.
"""

_AMBIGUOUS = {"4-way", "4way", "iemocap-4", "iemocap4", "iemocap_4"}


def label_set(name: str) -> LabelSet:
    """The label set called *name*.

    Raises:
        UserError: there is no such set, or the name fits two different ones.
    """
    if name.lower() in _AMBIGUOUS:
        raise UserError(
            f"label set {name!r} names two different 4-way tasks: happy, sad, neutral, angry with excited turns "
            "dropped (iemocap-4-hap-legacy: 4,543 utterances, as in published files; iemocap-4-hap: 4,490, by the "
            "corpus's own labels), and the same with excited merged into happy (iemocap-4-happexc: 5,531); their "
            f"numbers must not be compared. Valid: {', '.join(LABEL_SETS)}"
        )
    if name not in LABEL_SETS:
        valid = list(LABEL_SETS)
        raise UserError(f"no label set {name!r}.{did_you_mean(name, valid)} Valid: {', '.join(valid)}")
    return LABEL_SETS[name]


def read_label_set(path: Path) -> LabelSet:
    """The label set in a YAML file: ``name``, ``classes`` in their order, optional ``definitions`` by class.

    Raises:
        UserError: no such file, not YAML, a key or value that does not fit; names the file and the key.
    """
    value = read_yaml(path, "it should hold a label set: name, classes and, if you like, definitions")
    if not isinstance(value, dict) or not {"name", "classes"} <= set(value) <= {"name", "classes", "definitions"}:
        keys = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise UserError(f"{path}: expected the keys name, classes and, if you like, definitions; found {keys}")
    name, classes, definitions = value["name"], value["classes"], value.get("definitions") or {}
    if not isinstance(classes, list) or not isinstance(definitions, dict):
        raise UserError(f"{path}: classes is a list of names, definitions a line of text by class")
    for key, items in (("name", [name]), ("classes", classes), ("definitions", definitions.values())):
        for item in items:
            # YAML reads no, yes, on, off and numbers as something other than text.
            if not isinstance(item, str) or not item.strip() or "\n" in item.strip():
                raise UserError(f"{path}: {key}: {item!r} is not a line of text; put it between quotes")
    for key in definitions:
        if key not in classes:
            raise UserError(f"{path}: definitions: {key!r} is not one of the classes {', '.join(classes)}")
    if name in LABEL_SETS or name.lower() in _AMBIGUOUS:
        raise UserError(f"{path}: name: {name!r} is a label set that Lantern has or refuses; choose another name")
    return LabelSet(name, tuple(classes), {key: text.strip() for key, text in definitions.items()})
