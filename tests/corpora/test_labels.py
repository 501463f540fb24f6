from pathlib import Path

import pytest

from lantern.corpora.labels import COUNTS, LABEL_SETS, label_set, read_label_set
from lantern.errors import UserError


def test_iemocap_order_is_that_of_the_published_feature_files() -> None:
    assert label_set("iemocap-6").classes == ("happy", "sad", "neutral", "angry", "excited", "frustrated")
    assert label_set("iemocap-6-legacy").classes == label_set("iemocap-6").classes
    for name in ("iemocap-4-hap", "iemocap-4-hap-legacy", "iemocap-4-happexc"):
        assert label_set(name).classes == ("happy", "sad", "neutral", "angry")
    assert label_set("meld-3").classes == ("neutral", "positive", "negative")
    assert label_set("meld-7").classes == ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")


@pytest.mark.parametrize("name", sorted(LABEL_SETS))
def test_every_class_has_its_own_one_line_definition(name: str) -> None:
    found = label_set(name)
    assert set(found.definitions) == set(found.classes)
    assert len(set(found.definitions.values())) == len(found)
    assert not any("\n" in text for text in found.definitions.values())


@pytest.mark.parametrize("name", ["4-way", "iemocap-4", "IEMOCAP-4"])
def test_plain_four_way_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(UserError, match=r"two different 4-way tasks.*4,543.*5,531"):
        label_set(name)


def test_unknown_name_lists_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'meld-7'.*iemocap-6, .*iemocap-4-happexc.*meld-7"):
        label_set("meld7")


@pytest.mark.parametrize(
    ("name", "total", "test"),
    [
        ("iemocap-6", 7_380, 1_622),
        ("iemocap-6-legacy", 7_433, 1_623),
        ("iemocap-4-hap", 4_490, 942),
        ("iemocap-4-hap-legacy", 4_543, 943),
        ("iemocap-4-happexc", 5_531, 1_241),
        ("meld-7", 13_708, 2_610),
        ("meld-3", 13_708, 2_610),
    ],
)
def test_known_counts_belong_to_the_set(name: str, total: int, test: int) -> None:
    counts = COUNTS[name]
    assert sum(map(sum, counts.values())) == total
    assert sum(counts["test"]) == test
    assert {len(part) for part in counts.values()} == {len(label_set(name))}


def test_a_label_set_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "l.yaml"
    path.write_text("name: mood\nclasses: [up, down]\ndefinitions: {up: in good spirits}\n")
    found = read_label_set(path)
    assert (found.name, found.classes, found.definitions) == ("mood", ("up", "down"), {"up": "in good spirits"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: mood", r"expected the keys name, classes and, if you like, definitions; found name"),
        ("[up, down]", r"found list"),
        ("name: mood\nclasses: [up, down]\nclases: x", "found name, classes, clases"),
        ("name: mood\nclasses: [yes, no]", r"classes: True is not a line of text; put it between quotes"),
        ("name: mood\nclasses: [up]", "at least two different classes"),
        ("name: mood\nclasses: [up, up]", "at least two different classes"),
        ("name: mood\nclasses: up", "classes is a list of names"),
        ("name: mood\nclasses: [up, down]\ndefinitions: {left: x}", "'left' is not one of the classes up, down"),
        ("name: meld-7\nclasses: [up, down]", "choose another name"),
        ("name: 4-way\nclasses: [up, down]", "choose another name"),
        ("name: [", "not YAML"),
    ],
)
def test_what_is_wrong_with_a_label_set_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "l.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_label_set(tmp_path / "l.yaml")
    assert "l.yaml" in str(caught.value) or "mood" in str(caught.value)
    with pytest.raises(UserError, match=r"none\.yaml is missing"):
        read_label_set(tmp_path / "none.yaml")
