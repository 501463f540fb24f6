import json
from pathlib import Path

import numpy as np
import pytest

import lantern.features.extract as extract
from lantern.corpora.feature_files import FeatureCard
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError
from lantern.features.extract import add_modality

CARD = FeatureCard("x", "1", 2, 0, fitted_on="none", layer="last", licence="for research")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    whole = generate_sample(seed=3, dialogues=5)
    features = {name: whole.features[name] for name in ("text", "visual")}
    present = {name: whole.present[name] for name in features}
    cards = {name: whole.cards[name] for name in features}
    parts = (whole.label_set, whole.dialogues, whole.splits, features, present, cards)
    return Corpus("t", *parts, score_range=(1, 5)).save(tmp_path / "c")


def values(folder: Path, fill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    count = len(load_corpus(folder, features=False).utterances)
    present = np.ones(count, dtype=bool)
    present[1] = False
    return np.full((count, 2), fill), present


def test_a_modality_is_added_in_the_usual_order_with_its_card(folder: Path) -> None:
    before = load_corpus(folder)
    features, present = values(folder)
    add_modality(before, "audio", features, CARD, present, ["1 missing"])
    found = load_corpus(folder)
    assert list(found.features) == ["text", "audio", "visual"]
    np.testing.assert_array_equal(found.features["audio"], features * present[:, None])
    card = found.cards["audio"]
    assert (card.dims, card.count, card.layer, card.licence) == (2, len(present) - 1, "last", "for research")
    assert card.sha256
    assert found.notes == (*before.notes, "audio features: 1 missing")
    np.testing.assert_array_equal(found.features["text"], before.features["text"])


def test_replacing_is_explicit_and_takes_the_old_note_along(folder: Path) -> None:
    features, present = values(folder)
    corpus = add_modality(load_corpus(folder), "audio", features, CARD, present, ["1 missing"])
    with pytest.raises(UserError, match="has audio features already; --overwrite replaces them"):
        add_modality(corpus, "audio", features, CARD, present)
    add_modality(corpus, "audio", features + 1, CARD, present, ["another"], overwrite=True)
    found = load_corpus(folder)
    assert found.features["audio"].max() == 2
    assert found.notes == ("audio features: another",)


def test_the_folder_loads_before_every_write_and_after_a_failure_at_any(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, present = values(folder)
    corpus = add_modality(load_corpus(folder), "audio", features, CARD, present)
    real, seen = extract.atomic, []

    def watched(path: Path):
        load_corpus(folder)
        seen.append(path.name)
        if len(seen) == fail_at:
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr(extract, "atomic", watched)
    monkeypatch.setattr("lantern.files.atomic", watched)
    for fail_at in (1, 2, 3, 4):
        seen.clear()
        with pytest.raises(UserError, match="cannot be written: No space left"):
            add_modality(corpus, "audio", features + fail_at, CARD, present, overwrite=True)
        load_corpus(folder)
        assert not list(folder.rglob("*.partial*"))
        if "audio" not in load_corpus(folder).cards:
            fail_at = 0
            add_modality(corpus, "audio", features, CARD, present, overwrite=True)
    fail_at = 0
    add_modality(corpus, "audio", features + 9, CARD, present, overwrite=True)
    assert load_corpus(folder).features["audio"].max() == 10


def test_another_corpus_in_the_folder_and_bad_values_are_refused(folder: Path) -> None:
    features, present = values(folder)
    corpus = load_corpus(folder)
    with pytest.raises(UserError, match=r"features of utterance .* are not finite"):
        add_modality(corpus, "audio", np.full_like(features, np.nan), CARD, present)
    with pytest.raises(UserError, match=r"audio features have shape \[3, 2\], expected"):
        add_modality(corpus, "audio", features[:3], CARD, present[:3])
    generate_sample(seed=4, dialogues=5).save(folder, overwrite=True)
    with pytest.raises(UserError, match="was imported again meanwhile"):
        add_modality(corpus, "audio", features, CARD, present)


def test_folders_without_the_newer_card_fields_are_read(folder: Path) -> None:
    path = folder / "features" / "text.json"
    card = json.loads(path.read_text())
    del card["layer"], card["licence"]
    path.write_text(json.dumps(card))
    assert load_corpus(folder).cards["text"].layer == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": "64"}, r"text\.json: feature card: dims='64' is not a whole number"),
        ({"layer": 3}, r"text\.json: feature card: layer=3 is not text"),
        ({"fitted_on": "dev"}, r"text\.json: feature card: fitted_on='dev' is not one of none"),
    ],
)
def test_a_card_that_says_nonsense_is_named(folder: Path, change: dict[str, object], message: str) -> None:
    path = folder / "features" / "text.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        load_corpus(folder)
