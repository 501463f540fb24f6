"""The named label sets. A set is never guessed from its size: two different ones are both called "4-way".

They are in ``label_sets.yaml``, with their published counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lantern.corpora.text_files import read_yaml
from lantern.corpora.types import LabelSet
from lantern.errors import UserError, did_you_mean

_READ: dict[str, Any] = read_yaml(Path(__file__).with_name("label_sets.yaml"))
LABEL_SETS = {name: LabelSet(name, tuple(one["definitions"]), one["definitions"]) for name, one in _READ.items()}
"""Every label set by name. The order of the classes is that of the published feature files.

``iemocap-6`` and ``iemocap-4-hap`` hold the corpus's own labels. The ``-legacy`` sets are those of the widespread
feature files, in which 53 more turns are happy: the annotators did not agree on them (``xxx``), their speaker called
them happy and nothing else, and so did at least one annotator. ``iemocap-4-happexc`` merges excited into happy, as the
speech field does.
"""

COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    name: {part: tuple(counts) for part, counts in one["counts"].items()}
    for name, one in _READ.items()
    if "counts" in one
}
"""Utterances per class of the whole corpus, by label set and split, where they are published."""
SERIES = {
    name.lower(): f"{name} is Friends, which LLMs have read: their results on it may be contaminated"
    for name in ("MELD", "EmoryNLP")
}
"""Corpora of a TV series, and the warning that comes with their results."""
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
