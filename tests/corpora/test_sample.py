import re
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lantern.corpora.folder import Corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.sample.text import GENERIC, OPENERS, SCENES
from lantern.corpora.summary import summarise
from lantern.corpora.types import LabelSet
from lantern.errors import UserError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate_sample()


def test_the_seed_decides_everything() -> None:
    assert generate_sample(1, 10).fingerprint == generate_sample(1, 10).fingerprint
    assert generate_sample(1, 10).fingerprint != generate_sample(2, 10).fingerprint


def test_shape_is_that_of_iemocap(corpus: Corpus) -> None:
    assert len(corpus.dialogues) == 60
    assert corpus.made_up
    assert Counter(d.session for d in corpus.dialogues) == {str(s): 12 for s in range(1, 6)}
    for dialogue in corpus.dialogues:
        assert 8 <= len(dialogue) <= 20
        assert 2 <= len(dialogue.speakers) <= 3
        counts: Counter[str] = Counter()
        for u in dialogue.utterances:
            assert u.id == f"{dialogue.id}_{u.speaker[0]}{counts[u.speaker]:03d}"
            assert re.fullmatch(r"Sam0[1-5]_scene\d\d_[ABC]\d{3}", u.id)
            counts[u.speaker] += 1
    by_session = {s: {x for d in corpus.dialogues if d.session == s for x in d.speakers} for s in "12345"}
    assert sum(map(len, by_session.values())) == len(set().union(*by_session.values()))
    sessions = {name: {corpus.by_id[i].session for i in ids} for name, ids in corpus.splits.items()}
    assert sessions == {"train": {"1", "2", "3"}, "dev": {"4"}, "test": {"5"}}


def test_a_fifth_is_unlabelled_and_scores_lie_on_the_scale_in_halves(corpus: Corpus) -> None:
    turns = corpus.utterances
    unlabelled = [u for u in turns if u.label is None]
    assert 0.15 < len(unlabelled) / len(turns) < 0.25
    assert any(u.scores is not None for u in unlabelled)
    assert any(u.scores is None for u in unlabelled)
    values = np.array([u.scores for u in turns if u.scores is not None], dtype=float)
    assert values.min() >= 1
    assert values.max() <= 5
    np.testing.assert_array_equal(values * 2, np.round(values * 2))
    assert 0 < (~corpus.present["visual"]).mean() < 0.1
    assert not corpus.features["visual"][~corpus.present["visual"]].any()
    assert all(min(part.classes) >= 5 for part in summarise(corpus))


def test_emotions_last_within_a_speaker_and_spill_over(corpus: Corpus) -> None:
    labels = [u.label for u in corpus.utterances if u.label is not None]
    chance = float(((np.bincount(labels) / len(labels)) ** 2).sum())
    same: list[bool] = []
    other: list[bool] = []
    for dialogue in corpus.dialogues:
        last: dict[str, int | None] = {}
        before = None
        for u in dialogue.utterances:
            if u.label is not None and last.get(u.speaker) is not None:
                same.append(u.label == last[u.speaker])
            if before is not None and before.speaker != u.speaker and None not in (before.label, u.label):
                other.append(before.label == u.label)
            last[u.speaker] = u.label
            before = u
    assert np.mean(same) > chance + 0.25
    assert np.mean(other) > chance + 0.05


def _rows(corpus: Corpus, part: str) -> np.ndarray:
    return np.concatenate([np.r_[corpus.rows[i]] for i in corpus.splits[part]])


def _accuracy(corpus: Corpus, names: list[str]) -> float:
    labels = np.array([-1 if u.label is None else u.label for u in corpus.utterances])
    values = np.concatenate([corpus.features[n] for n in names], axis=1)
    train, test = (r[labels[r] >= 0] for r in (_rows(corpus, "train"), _rows(corpus, "test")))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return float(model.fit(values[train], labels[train]).score(values[test], labels[test]))


def test_features_carry_a_signal_that_leaves_room_for_context() -> None:
    found = [_accuracy(generate_sample(seed), ["text", "audio", "visual"]) for seed in range(3)]
    assert 0.5 < np.mean(found) < 0.65, found
    assert np.mean([_accuracy(generate_sample(seed), ["text"]) for seed in range(3)]) < np.mean(found) - 0.1


def test_words_carry_valence_and_voices_arousal() -> None:
    found: dict[tuple[str, int], list[float]] = {}
    for seed in range(3):
        corpus = generate_sample(seed)
        rated = np.array([u.scores or (np.nan,) * 3 for u in corpus.utterances], dtype=float)
        train, test = (r[~np.isnan(rated[r, 0])] for r in (_rows(corpus, "train"), _rows(corpus, "test")))
        for name in ("text", "audio"):
            for axis in (0, 1):
                model = Ridge(30.0).fit(corpus.features[name][train], rated[train, axis])
                r = np.corrcoef(model.predict(corpus.features[name][test]), rated[test, axis])[0, 1]
                found.setdefault((name, axis), []).append(float(r))
    mean = {key: np.mean(values) for key, values in found.items()}
    assert mean["text", 0] > mean["audio", 0]
    assert mean["audio", 1] > mean["text", 1]


def test_lines_are_varied_complete_and_not_repeated_in_a_dialogue(corpus: Corpus) -> None:
    classes = set(corpus.label_set.classes)
    assert set(GENERIC) == set(OPENERS) == classes
    assert all(set(lines) == classes | {"opening"} for lines in SCENES.values())
    texts = [u.text for u in corpus.utterances]
    assert not any("{" in text or "}" in text for text in texts)
    assert len(set(texts)) > 0.35 * len(texts)
    for dialogue in corpus.dialogues:
        assert len({u.text for u in dialogue.utterances}) == len(dialogue)


def test_a_smaller_sample_is_the_beginning_of_each_session() -> None:
    small, large = generate_sample(0, 10), generate_sample(0, 20)
    assert [d for d in large.dialogues if d.id in small.by_id] == list(small.dialogues)


def test_bad_arguments() -> None:
    with pytest.raises(UserError, match=r"corpus\.dialogues=4 must be at least 5"):
        generate_sample(dialogues=4)
    with pytest.raises(UserError, match=r"corpus\.seed=-1"):
        generate_sample(seed=-1)
    assert isinstance(generate_sample(dialogues=7).label_set, LabelSet)
