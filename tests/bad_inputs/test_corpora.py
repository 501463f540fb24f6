"""Corpus folders, and the files of which ``import_corpus`` and ``extract_features`` make them."""

from __future__ import annotations

import numpy as np

from tests.bad_inputs.place import DEEP, Case, Place, Prepare, cases

LABELS = "name: mood\nclasses: [up, down]\n"
TALK = "dialogue,speaker,text,label\nd,A,x,up\nd,B,y,down\n"
FIRST = "Sam01_scene01_A000"

INSPECT: list[Case] = [
    ("header that is no JSON", lambda p: [p.corpus("corpus.json", "{")], "corpus.json", "import the corpus again"),
    ("header nested too deep", lambda p: [p.corpus("corpus.json", DEEP)], "corpus.json: not a JSON object"),
    ("header of another version", lambda p: [p.corpus(schema=2)], "schema 2, this Lantern reads 1"),
    ("name that is a number", lambda p: [p.corpus(name=5)], "corpus.json", "name is 5, expected str"),
    ("name that leaves the folder", lambda p: [p.corpus(name="../x")], "corpus '../x'", "without /"),
    ("made_up that is a word", lambda p: [p.corpus(made_up="no")], "made_up is 'no', expected bool"),
    ("modalities that are a word", lambda p: [p.corpus(modalities="text")], "modalities is 'text', expected list"),
    ("endless scale", lambda p: [p.corpus(score_range=[-float("inf"), 5])], "score_range=[-inf, 5.0]", "finite"),
    ("classes that are numbers", lambda p: [p.corpus(label_set=_labels(1, 2))], "label set 'x': 1 is not a name"),
    ("other check sum", lambda p: [p.corpus(manifest_sha256="00")], "manifest.jsonl was changed after the import"),
    ("manifest nested too deep", lambda p: [p.manifest(DEEP.encode())], "manifest.jsonl, line 1", "nested too deep"),
    ("half a character", lambda p: [p.manifest(text="\ud800")], "manifest.jsonl, line 1", "surrogates"),
    ("score too large to be one", lambda p: [p.manifest(scores=[10**400, 1, 1])], "line 1: score 1000"),
    ("session that is a list", lambda p: [p.manifest(session=["a"])], "line 1: session=['a']"),
    ("extra that is nothing", lambda p: [p.manifest(extra=None)], "line 1:", "extra=None"),
    ("no feature card", lambda p: [p.corpus("features/text.json")], "text.json is missing; import the corpus again"),
    ("page in a folder's place", lambda p: [p.corpus(), "--out", p.folder()], "--out=", "is a folder; name a file"),
    ("page under a file", lambda p: [p.corpus(), "--out", p.file("f") / "x.html"], "--out=", "f is a file"),
    ("a name that is too long", lambda p: ["x" * 5000], "File name too long"),
    ("no folder", lambda p: [p.at / "none"], "error: ", "/none: no corpus folder there", "import_corpus"),
]


def _labels(*classes: object) -> dict[str, object]:
    return {"name": "x", "classes": classes, "definitions": {}}


@cases(INSPECT)
def test_inspect_corpus(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["inspect_corpus", *prepare(place)], told)


def _talk(place: Place, talk: str = TALK, labels: str | bytes = LABELS) -> list[object]:
    return ["--transcript", place.file("talk.csv", talk), "--label-set", place.file("labels.yaml", labels)]


def _array(place: Place, values: np.ndarray) -> list[object]:
    return [*_talk(place), "--features", f"audio={place.array('x.npy', values)}"]


CUSTOM: list[Case] = [
    ("labels nested too deep", lambda p: _talk(p, TALK, "[" * 2_000), "labels.yaml: not YAML"),
    ("labels yes and no", lambda p: _talk(p, TALK, "name: x\nclasses: [yes, no]"), "classes: True", "quotes"),
    ("labels that run code", lambda p: _talk(p, TALK, "name: !!python/name:os.system"), "labels.yaml: not YAML"),
    ("labels in Latin-1", lambda p: _talk(p, TALK, b"name: na\xefve"), "labels.yaml, line 1: not UTF-8"),
    ("colons", lambda p: _talk(p, "dialogue:speaker:text\nd:A:x\n"), "found dialogue:speaker:text", "commas"),
    ("name with a slash", lambda p: [*_talk(p), "--name", "a/b"], "corpus 'a/b'", "without /"),
    ("name of dots", lambda p: [*_talk(p), "--name", "."], "corpus '.'"),
    ("--out that is a loop of links", lambda p: [*_talk(p), "--out", p.loop()], "is a link that leads nowhere"),
    ("--out that is a file", lambda p: [*_talk(p), "--out", p.file("f", "x")], "exists and is not a corpus folder"),
    ("features that are objects", lambda p: _array(p, np.array([{}, {}])), "not an array of numbers", "or objects"),
    ("features that are all NaN", lambda p: _array(p, np.full((2, 3), np.nan)), "x.npy: every row is NaN"),
    ("features of too few rows", lambda p: _array(p, np.ones((1, 3))), "x.npy: 1 rows", "has 2 utterances"),
    (
        "card of another key",
        lambda p: [*_array(p, np.ones((2, 3))), "--card", f"audio={p.file('c.yaml', 'from: me')}"],
        "c.yaml: a feature card has the keys extractor",
    ),
]


@cases(CUSTOM)
def test_import_of_ones_own(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["import_corpus", "custom", "--no-features", "--out", place.at / "c", *prepare(place)], told)


IMPORT: list[Case] = [
    ("pickle that names a function", lambda p: _pickle(p, b"cos\nsystem\n(S'ls'\ntR."), "it names 'os.system'"),
    ("pickle that is cut off", lambda p: _pickle(p, b"(lp0\n"), "x.pkl is not a whole pickle", "cut off"),
    (
        "pickle that is a folder",
        lambda p: ["meld-pickle", "--pickle", p.folder()],
        "is a folder that holds neither train, dev nor test files",
    ),
    ("join with no corpus", lambda p: [*_pickle(p, b""), "--join", p.folder("j")], "/j: no corpus folder there"),
    ("MELD in an empty folder", lambda p: ["meld", "--csv", p.folder()], "train_sent_emo.csv is missing", "--csv"),
    ("kind that is none", lambda p: ["iemocapp"], "invalid choice: 'iemocapp'", "--help"),
]


def _pickle(place: Place, content: bytes) -> list[object]:
    return ["iemocap-pickle", "--pickle", place.file("x.pkl", content)]


@cases(IMPORT)
def test_import_corpus(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["import_corpus", *prepare(place), "--out", place.at / "c"], told)


EXTRACT: list[Case] = [
    ("no recordings", lambda p: ["audio", "--clips", p.folder()], "no clip for any utterance", f"**/{FIRST} or"),
    ("empty recording", lambda p: ["audio", "--clips", p.file(f"{FIRST}.wav").parent], "unreadable"),
    ("no jobs", lambda p: ["text", "--jobs", "0"], "--jobs 0 must be at least 1"),
    ("extractor of faces", lambda p: ["text", "--extractor", "faces"], "makes no text features", "Valid: minilm"),
    ("modality that is none", lambda p: ["smell"], "invalid choice: 'smell'", "'text', 'audio', 'visual'"),
]


@cases(EXTRACT)
def test_extract_features(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    place.refused(["extract_features", place.corpus(), "--overwrite", "--modality", *prepare(place)], told)
