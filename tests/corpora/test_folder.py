import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lantern.corpora.folder as folder_module
from lantern.corpora.folder import Corpus, FeatureCard, load_corpus
from lantern.corpora.labels import label_set
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import UserError


@pytest.fixture
def corpus() -> Corpus:
    return generate_sample(seed=3, dialogues=10)


def assert_equal(a: Corpus, b: Corpus) -> None:
    assert (a.dialogues, a.splits, a.label_set, a.score_range) == (b.dialogues, b.splits, b.label_set, b.score_range)
    assert (a.name, a.redistribution, a.made_up, a.contaminated) == (
        b.name,
        b.redistribution,
        b.made_up,
        b.contaminated,
    )
    assert (a.source, a.notes, a.checks) == (b.source, b.notes, b.checks)
    assert list(a.features) == list(b.features)
    for name in a.features:
        np.testing.assert_array_equal(a.features[name], b.features[name])
        np.testing.assert_array_equal(a.present[name], b.present[name])
        assert b.features[name].dtype == np.float32
        assert b.present[name].dtype == bool


def test_round_trip_keeps_everything_and_the_fingerprint(corpus: Corpus, tmp_path: Path) -> None:
    corpus.save(tmp_path / "deep" / "c")
    found = load_corpus(tmp_path / "deep" / "c")
    assert_equal(corpus, found)
    assert found.fingerprint == corpus.fingerprint
    assert found.save(tmp_path / "d").is_dir()
    assert (tmp_path / "d" / "manifest.jsonl").read_bytes() == (tmp_path / "deep" / "c" / "manifest.jsonl").read_bytes()


def test_round_trip_of_awkward_text_partial_scores_and_an_own_label_set(tmp_path: Path) -> None:
    turns = (
        Utterance(
            "a", "Zoë", 'line\u2028separator\x85 "quote"\nnew line \\ 🙂', 1, (1.5, None, 3.0), {"votes": ["x", 2]}
        ),
        Utterance("b", "", "", None, None),
    )
    labels = LabelSet("mine", ("no", "yes"), {"no": "n", "yes": "y"})
    made = Corpus("t", labels, (Dialogue("d", turns),), {"train": ("d",)})
    found = load_corpus(made.save(tmp_path / "c"))
    assert_equal(made, found)
    assert found.cards == {}


def test_without_features_the_rest_is_there_and_torch_is_not(corpus: Corpus, tmp_path: Path) -> None:
    path = corpus.save(tmp_path / "c")
    found = load_corpus(path, features=False)
    assert found.features == {}
    assert found.cards["text"].dims == 64
    assert found.fingerprint == corpus.fingerprint
    code = (
        "import sys; from pathlib import Path; from lantern.corpora.folder import load_corpus;"
        "from lantern.corpora.summary import summarise;"
        f"load_corpus(Path({str(path)!r})); summarise(load_corpus(Path({str(path)!r}), features=False));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(ValueError, match="without its features"):
        found.save(tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("error", [OSError(28, "disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("when", [1, 4, 8])
def test_a_failure_in_the_middle_leaves_nothing(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int, error: BaseException
) -> None:
    _fail_on_write(monkeypatch, when, error)
    with pytest.raises((UserError, KeyboardInterrupt), match=r"disk full|^$"):
        corpus.save(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_overwrite_leaves_the_old_folder(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.save(tmp_path / "c")
    with monkeypatch.context() as patch:
        _fail_on_write(patch, 5, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            generate_sample(seed=4, dialogues=5).save(tmp_path / "c", overwrite=True)
    assert load_corpus(tmp_path / "c").fingerprint == corpus.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_failed_rename_brings_the_old_folder_back(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus.save(tmp_path / "c")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if "partial" in self.name:
            raise OSError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(UserError, match="cannot be written: no"):
        generate_sample(seed=4, dialogues=5).save(tmp_path / "c", overwrite=True)
    assert load_corpus(tmp_path / "c").fingerprint == corpus.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def _fail_on_write(patch: pytest.MonkeyPatch, when: int, error: BaseException) -> None:
    real, calls = folder_module._write_file, []

    def write(path: Path, content: bytes) -> None:
        calls.append(path)
        if len(calls) == when:
            path.write_bytes(content[: len(content) // 2])
            raise error
        real(path, content)

    patch.setattr(folder_module, "_write_file", write)


def test_overwriting_is_explicit_and_only_for_corpus_folders(corpus: Corpus, tmp_path: Path) -> None:
    corpus.save(tmp_path / "c")
    with pytest.raises(UserError, match="exists; give another folder, or --overwrite"):
        corpus.save(tmp_path / "c")
    other = generate_sample(seed=4, dialogues=5)
    other.save(tmp_path / "c", overwrite=True)
    assert load_corpus(tmp_path / "c").fingerprint == other.fingerprint
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("mine")
    with pytest.raises(UserError, match="not a corpus folder"):
        corpus.save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter").read_text() == "mine"


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


DAMAGE = {
    "a flipped byte of features": (lambda c: _flip(c / "features/text.safetensors"), r"text\.safetensors was changed"),
    "a flipped byte of the manifest": (
        lambda c: _flip(c / "manifest.jsonl"),
        r"manifest\.jsonl was changed.*corpus\.json",
    ),
    "lost features": (lambda c: (c / "features/audio.safetensors").unlink(), r"audio\.safetensors is missing"),
    "a lost card": (lambda c: (c / "features/audio.json").unlink(), r"audio\.json is missing"),
    "a lost manifest": (lambda c: (c / "manifest.jsonl").unlink(), r"manifest\.jsonl is missing"),
    "dims": (lambda c: _edit(c / "features/text.json", dims=65), r"text\.safetensors.*, 64\].*expected.*, 65\]"),
    "count of features": (lambda c: _edit(c / "features/text.json", count=3), r"are present, its card says 3"),
    "count of utterances": (lambda c: _edit(c / "corpus.json", utterances=7), r"utterances, corpus\.json says 7"),
    "an unknown fitted_on": (lambda c: _edit(c / "features/text.json", fitted_on="test"), "'test' is not one of none"),
    "a card of something else": (lambda c: (c / "features/text.json").write_text("[]"), "not a feature card"),
    "an unknown dialogue": (
        lambda c: _edit(c / "corpus.json", splits={"dev": ["x"]}),
        "has no dialogue 'x', which is named in dev",
    ),
    "a dialogue in two splits": (
        lambda c: _edit(c / "corpus.json", splits={"dev": ["Sam01_scene01"], "test": ["Sam01_scene01"]}),
        "'Sam01_scene01' is in dev and in test",
    ),
    "a newer schema": (lambda c: _edit(c / "corpus.json", schema=9), "schema 9, this Lantern reads 1"),
    "a lost key": (lambda c: (c / "corpus.json").write_text('{"schema": 1}'), r"not a corpus header \(KeyError"),
    "no JSON": (lambda c: (c / "corpus.json").write_text("{"), r"corpus\.json: not a JSON object"),
    "other classes": (
        lambda c: _edit(c / "corpus.json", label_set={"name": "sample-6", "classes": ["sad", "happy"]}),
        "'sample-6' has classes",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_each_mismatch_is_one_line_with_the_file(corpus: Corpus, tmp_path: Path, what: str) -> None:
    path = corpus.save(tmp_path / "c")
    damage, message = DAMAGE[what]
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        load_corpus(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", r"line 2: not an utterance with the keys dialogue, utterance"),
        ("nonsense", r"line 2: not an utterance"),
        ('"label": "hapy"', r"line 2: class 'hapy' is not in label set 'sample-6'"),
        ('"scores": [1, 2]', r"line 2: scores=\[1, 2\] is not \[valence, arousal, dominance\]"),
        ('"scores": [1, 2, "3"]', r"line 2: score '3' is not a finite number"),
        ('"text": null', r"line 2: text=None is not a string"),
        ('"dialogue": "other"', r"line 3: dialogue 'Sam01_scene01' goes on after another one"),
        ('"utterance": "FIRST"', r"utterance 'Sam01_scene01_\w+' occurs twice"),
    ],
)
def test_manifest_errors_name_the_line(corpus: Corpus, tmp_path: Path, line: str, message: str) -> None:
    path = corpus.save(tmp_path / "c")
    lines = (path / "manifest.jsonl").read_text().splitlines()
    if line.startswith('"'):
        first = json.loads(lines[0])["utterance"]
        lines[1] = json.dumps({**json.loads(lines[1]), **json.loads("{" + line.replace("FIRST", first) + "}")})
    else:
        lines[1] = line
    content = "\n".join(lines).encode()
    (path / "manifest.jsonl").write_bytes(content)
    _edit(path / "corpus.json", manifest_sha256=folder_module.sha256_of(content))
    with pytest.raises(UserError, match=message):
        load_corpus(path)


def test_a_missing_folder_says_how_to_import(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no corpus folder.*experiments\.import_corpus"):
        load_corpus(tmp_path / "nowhere")


def test_features_that_do_not_fit_are_refused(corpus: Corpus) -> None:
    card = FeatureCard("x", "1", 4, 0)
    with pytest.raises(UserError, match=r"text features have shape \[3, 4\], expected"):
        corpus.with_features("text", np.zeros((3, 4)), card)
    bad = np.zeros((len(corpus.utterances), 4))
    bad[5] = np.nan
    with pytest.raises(UserError, match=f"utterance '{corpus.utterances[5].id}' are not finite"):
        corpus.with_features("text", bad, card)
    present = np.ones(len(bad), dtype=bool)
    present[5] = False
    assert corpus.with_features("text", bad, card, present).cards["text"].count == len(bad) - 1
    with pytest.raises(UserError, match="modality 'smell' is not one of text, audio, visual"):
        corpus.with_features("smell", np.zeros((len(bad), 4)), card)
    with pytest.raises(UserError, match=f"{len(bad)} utterances have text features, the card says 3"):
        replace(corpus, cards={**corpus.cards, "text": replace(corpus.cards["text"], count=3)})
    with pytest.raises(UserError, match="audio features come without a card or without their present mask"):
        replace(corpus, present={m: mask for m, mask in corpus.present.items() if m != "audio"})


def test_limit_is_proportional_deterministic_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    whole = generate_sample(seed=0, dialogues=60)
    small = whole.limit(20)
    assert {name: len(ids) for name, ids in small.splits.items()} == {"train": 12, "dev": 4, "test": 4}
    assert all(small.splits[name] == whole.splits[name][: len(small.splits[name])] for name in small.splits)
    assert small.fingerprint == whole.limit(20).fingerprint != whole.fingerprint
    assert {name: len(ids) for name, ids in whole.limit(3).splits.items()} == {"train": 1, "dev": 1, "test": 1}
    assert whole.limit(60) is whole
    for dialogue in small.dialogues:
        for name in whole.features:
            np.testing.assert_array_equal(
                small.features[name][small.rows[dialogue.id]], whole.features[name][whole.rows[dialogue.id]]
            )
    from_disk = load_corpus(whole.save(tmp_path / "c")).limit(20)
    assert from_disk.fingerprint == small.fingerprint
    assert load_corpus(from_disk.save(tmp_path / "d")).fingerprint == small.fingerprint
    with pytest.raises(UserError, match=r"limit_dialogues=2 leaves a split without dialogues; give at least 3"):
        whole.limit(2)


def test_what_replaces_the_features_of_a_folder_is_another_corpus(corpus: Corpus, tmp_path: Path) -> None:
    found = load_corpus(corpus.save(tmp_path / "c"))
    other = found.with_features("text", found.features["text"] + 1, found.cards["text"])
    assert other.fingerprint != found.fingerprint
    assert other.fingerprint == corpus.with_features("text", other.features["text"], corpus.cards["text"]).fingerprint


@pytest.mark.parametrize("total", range(3, 20))
def test_limit_gives_exactly_the_requested_number(total: int) -> None:
    assert len(generate_sample(dialogues=20).limit(total).dialogues) == total


CHANGES = (
    "text",
    "label",
    "feature",
    "present",
    "split",
    "scale",
    "name of the classes",
    "order of the classes",
    "numbers",
)


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprint_changes_with_the_content(corpus: Corpus, change: str) -> None:
    labels = corpus.label_set
    first = corpus.dialogues[0]
    turn = first.utterances[0]
    turns = {"text": replace(turn, text="?"), "label": replace(turn, label=((turn.label or 0) + 1) % 6)}
    if change in turns:
        dialogue = replace(first, utterances=(turns[change], *first.utterances[1:]))
        other = replace(corpus, dialogues=(dialogue, *corpus.dialogues[1:]))
    elif change == "feature":
        other = corpus.with_features("text", corpus.features["text"] + 1, corpus.cards["text"])
    elif change == "split":
        other = replace(corpus, splits={"train": corpus.splits["train"]})
    elif change == "present":
        mask = np.arange(len(corpus.utterances)) > 0
        silent = corpus.features["text"] * mask[:, None]
        with_row = corpus.with_features("text", silent, corpus.cards["text"])
        other = corpus.with_features("text", silent, corpus.cards["text"], mask)
        assert other.fingerprint != with_row.fingerprint
    elif change == "name of the classes":
        other = replace(corpus, label_set=replace(labels, name="mine"))
    elif change == "order of the classes":
        # The manifest names the classes, so it stays the same where labels and classes move together.
        place = {index: len(labels) - 1 - index for index in range(len(labels))}
        other = replace(
            corpus,
            label_set=replace(labels, classes=labels.classes[::-1]),
            dialogues=tuple(
                replace(d, utterances=tuple(replace(u, label=place.get(u.label)) for u in d.utterances))
                for d in corpus.dialogues
            ),
        )
    elif change == "numbers":
        speakers = sorted({u.speaker for u in corpus.utterances})
        numbered = [{name: number for number, name in enumerate(order)} for order in (speakers, speakers[::-1])]
        one, other = (replace(corpus, speaker_numbers=numbers) for numbers in numbered)
        assert one.fingerprint != other.fingerprint
    else:
        other = replace(corpus, score_range=(0.0, 5.0))
    assert other.fingerprint != corpus.fingerprint


def test_ten_thousand_utterances_with_three_modalities_load_within_a_second(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    dialogues = tuple(
        Dialogue(f"d{d}", tuple(Utterance(f"d{d}_{u}", "AB"[u % 2], "some words " * 8, u % 6) for u in range(50)), "1")
        for d in range(200)
    )
    made = Corpus("big", label_set("iemocap-6"), dialogues, {"train": tuple(d.id for d in dialogues)})
    for name, dims in (("text", 768), ("audio", 100), ("visual", 342)):
        values = rng.standard_normal((10_000, dims), dtype=np.float32)
        made = made.with_features(name, values, FeatureCard("x", "1", dims, 10_000))
    path = made.save(tmp_path / "c")
    times = []
    for _ in range(3):
        start = time.process_time()
        load_corpus(path)
        times.append(time.process_time() - start)
    assert min(times) < 1.0


def test_files_are_readable_by_others_as_the_umask_says(corpus: Corpus, tmp_path: Path) -> None:
    path = corpus.save(tmp_path / "c")
    mask = os.umask(0)
    os.umask(mask)
    for file in path.rglob("*.*"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~mask
