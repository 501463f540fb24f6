import pytest

from lantern.corpora.labels import LABEL_SETS, label_set
from lantern.errors import UserError


def test_iemocap_order_is_that_of_the_published_feature_files() -> None:
    assert label_set("iemocap-6").classes == ("happy", "sad", "neutral", "angry", "excited", "frustrated")
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
    with pytest.raises(UserError, match=r"Did you mean 'meld-7'.*iemocap-6, sample-6, meld-7"):
        label_set("meld7")
