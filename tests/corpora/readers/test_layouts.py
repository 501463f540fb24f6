"""Published files are told apart by their content: which project's, which corpus's, and which part is what."""

import itertools
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import import_corpus
from lantern.corpora.folder import Corpus, load_corpus
from lantern.corpora.readers.layouts import LAYOUTS
from lantern.corpora.readers.published import PublishedFeatures, read_published
from lantern.errors import UserError
from tests.corpora.pickles import LABELS, ORDERS, TEST, TRAIN, VIEWS, friends, iemocap, part, with_sentiments, write

MELD = {0: [0, 1, 2], 60: [6, 6], 1040: [3, 4], 1153: [5, 6, 0], 1200: [1]}
EMORY = {"1_1_1": [0, 3, 6], "1_1_2": [4], "2_3_4": [1, 2], "9_9_9": [5, 5]}
LISTS = {
    "iemocap": {"train": TRAIN[1:], "test": TEST, "dev": TRAIN[:1]},
    "meld": {"train": [0, 60], "test": [1153, 1200], "dev": [1040]},
    "emorynlp": {"train": ["1_1_1", "1_1_2"], "test": ["9_9_9"], "dev": ["2_3_4"]},
}
OF_MELD = [with_sentiments(order, last) for order in ORDERS.values() for last in (False, True)]
FILES = [
    *(("iemocap", order) for order in ORDERS.values()),
    *(("meld", order) for order in OF_MELD),
    *(("meld", (*ORDERS[name], "nothing")) for name in ("mmgcn", "sdt")),
    *(("meld", (*order, "dev")) for order in (ORDERS["mmgcn"], with_sentiments(ORDERS["sdt"]))),
    ("meld", (*ORDERS["mmgcn"], "dev", "sentiments")),
    *(("emorynlp", ORDERS[name]) for name in ("cosmic-roberta", "cosmic")),
]


def members_of(corpus: str, **changes: Any) -> dict[str, Any]:
    made = iemocap() if corpus == "iemocap" else friends(MELD) if corpus == "meld" else friends(EMORY, slots=10)
    return made | LISTS[corpus] | changes


def check(found: PublishedFeatures, members: dict[str, Any], order: tuple[str, ...]) -> None:
    """Every value is that of the member it should be."""
    assert [d.id for d in found.dialogues] == [str(i) for i in members["labels"]]
    for dialogue, key in zip(found.dialogues, members["labels"]):
        assert list(dialogue.labels) == members["labels"][key]
        assert list(dialogue.sentences) == members["sentences"][key]
        speakers = [s if isinstance(s, str) else f"Speaker {s.index(1) + 1}" for s in members["speakers"][key]]
        assert list(dialogue.speakers) == speakers
        assert set(dialogue.features) == {"text", "audio", "visual"} & set(order)
        for modality, values in dialogue.features.items():
            np.testing.assert_array_equal(values, np.stack(members[modality][key]).astype(np.float32))
        assert (dialogue.turns is not None) == ("turn ids" in order)
    lists = {name: tuple(map(str, members[name])) for name in ("train", "dev", "test") if name in order}
    assert found.splits == lists


@pytest.mark.parametrize(("corpus", "order"), FILES, ids=lambda x: x if isinstance(x, str) else str(len(x)))
def test_every_published_tuple_is_read_part_by_part(tmp_path: Path, corpus: str, order: tuple[str, ...]) -> None:
    members = members_of(corpus)
    path = write(tmp_path / "p.pkl", part(members, order))
    check(read_published(path, corpus), members, order)
    for other in {"iemocap", "meld", "emorynlp"} - {corpus}:
        advice = rf"looks like the {len(order)}-tuple of .* for {corpus.upper()}; import it with {corpus}-pickle$"
        with pytest.raises(UserError, match=advice):
            read_published(path, other)


@pytest.mark.parametrize("numbered", [False, True])
def test_turn_ids_may_be_numbers_and_arrays_stand_for_lists(tmp_path: Path, numbered: bool) -> None:
    members = friends(MELD, numbered=numbered) | LISTS["meld"]
    given = dict(members)
    for name in ("text", "audio", "visual", "speakers", "labels"):
        given[name] = {i: np.array(entries) for i, entries in members[name].items()}
    given |= {name: np.array(members[name]) for name in LISTS["meld"]}
    order = with_sentiments((*ORDERS["mmgcn"], "dev"))
    check(read_published(write(tmp_path / "p", part(given, order)), "meld"), members, order)


def outcome(path: Path, corpus: str) -> tuple[PublishedFeatures | None, str]:
    try:
        return read_published(path, corpus), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize(("corpus", "order"), FILES, ids=lambda x: x if isinstance(x, str) else str(len(x)))
def test_another_order_is_read_rightly_or_refused_with_what_was_seen(
    tmp_path: Path, corpus: str, order: tuple[str, ...]
) -> None:
    """Vectors keep their order here: nothing but their width could tell audio from text."""
    members, rng = members_of(corpus), random.Random(len(order))
    plain = [name for name in order if name not in (*VIEWS, "audio", "visual")]
    for _ in range(25):
        mixed = rng.sample(plain, len(plain))
        at = rng.randrange(len(mixed) + 1)
        mixed[at:at] = [name for name in order if name not in plain]
        path = write(tmp_path / "p", part(members, tuple(mixed)))
        found, error = outcome(path, corpus)
        if found is None:
            seen = rf"p is in no known layout: it is a tuple of {len(order)} \(.*words"
            assert re.search(rf"{seen}|is not a whole number|looks like", error), error
            continue
        if {"labels", "sentiments"} <= set(mixed) or "turn ids" in mixed or corpus == "emorynlp":
            assert [list(d.labels) for d in found.dialogues] == list(members["labels"].values())
        if corpus != "emorynlp":
            check(found, members, order)


@pytest.mark.parametrize("corpus", ["iemocap", "meld"])
def test_lists_in_another_order_are_put_right_by_the_protocol(tmp_path: Path, corpus: str) -> None:
    members = members_of(corpus)
    order = ORDERS["cosmic"] if corpus == "iemocap" else with_sentiments(ORDERS["cosmic"])
    for lists in itertools.permutations(("train", "test", "dev")):
        if corpus == "iemocap" and lists.index("dev") < lists.index("train"):
            continue  # nothing tells its train from its dev dialogues
        path = write(tmp_path / "p", part(members, (*order[:-3], *lists)))
        found = read_published(path, corpus)
        check(found, members, order)
        assert any("are exchanged" in note for note in found.notes) == (lists != ("train", "test", "dev"))


def test_vectors_that_are_known_by_their_width_are_not_taken_for_others(tmp_path: Path) -> None:
    members = members_of("iemocap")
    members["audio"] = {i: [np.zeros(1582, "f4") for _ in of] for i, of in LABELS.items()}
    members["visual"] = {i: [np.zeros(342, "f4") for _ in of] for i, of in LABELS.items()}
    check(read_published(write(tmp_path / "p", part(members, ORDERS["mmgcn"])), "iemocap"), members, ORDERS["mmgcn"])
    swapped = members | {"audio": members["visual"], "visual": members["audio"]}
    with pytest.raises(UserError, match=r"no known layout: .*vectors of 342, vectors of 1582, words"):
        read_published(write(tmp_path / "p", part(swapped, ORDERS["mmgcn"])), "iemocap")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sentiments": {**members_of("meld")["sentiments"], 60: [0, 5]}},
            "dialogue '60', turn 1: sentiment '5' is not",
        ),
        ({"sentiments": {0: [0, 1, 2]}}, "dialogue '60' has labels, but is missing in the member 'sentiments'"),
        (
            {"view 3": {**members_of("meld")["view 3"], 60: [np.zeros(6)]}},
            "'60' has 1 entries in the member 'text, view 3'",
        ),
        (
            {"speakers": {**members_of("meld")["speakers"], 60: [[1, 1] + [0] * 7] * 2}},
            "turn 0: speaker .* one-hot vector of 9",
        ),
        ({"labels": {**MELD, 60: [6, 7]}}, "dialogue '60', turn 1: label '7' is not a whole number from 0 to 6"),
        ({"labels": {**MELD, "60": [6, 6]}}, "member 'labels' has one dialogue id twice, as text and as a number"),
        (
            {"sentences": {**members_of("meld")["sentences"], 60: ["Hm.", "x\ud800"]}},
            r"turn 1: 'x\\ud800' holds half a",
        ),
        ({"labels": {**MELD, "\ud800": [1]}}, r"'\\ud800' is not a dialogue id"),
        ({"test": [1153, 1201]}, "the test list names dialogue '1201'"),
        ({"train": [0, 60, 1153]}, "dialogue '1153' is in train and in test"),
        (
            {"text": {**members_of("meld")["text"], 0: [np.zeros(6), np.full(6, np.inf), np.zeros(6)]}},
            "turn 1: value 0 is inf",
        ),
        (
            {"text": {**members_of("meld")["text"], 0: [[0] * 6, [10**400] * 6, [0] * 6]}},
            "dialogue '0', text: not vectors",
        ),
    ],
)
def test_every_part_is_checked(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "p", part(members_of("meld") | change, with_sentiments(ORDERS["cosmic-roberta"])))
    with pytest.raises(UserError, match=message) as caught:
        import_corpus.main(["meld-pickle", "--pickle", str(path), "--out", str(tmp_path / "out")])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def imported(tmp_path: Path, corpus: str, given: Path, *more: str) -> Corpus:
    arguments = [f"{corpus}-pickle", "--pickle", str(given), "--out", str(tmp_path / "out"), "--overwrite", *more]
    assert import_corpus.main([*arguments, "--no-features"]) == 0
    return load_corpus(tmp_path / "out")


def test_emorynlp_alone_and_joined(tmp_path: Path) -> None:
    from lantern.corpora.readers.emorynlp import import_emorynlp
    from tests.corpora.readers.test_emorynlp import row, write_csv

    members = members_of("emorynlp")
    path = write(tmp_path / "p.pkl", part(members, ORDERS["cosmic-roberta"]))
    corpus = imported(tmp_path, "emorynlp", path)
    assert (corpus.name, corpus.label_set.name, "Friends" in corpus.contaminated) == ("emorynlp", "emorynlp-7", True)
    assert corpus.splits == {part_: tuple(ids) for part_, ids in LISTS["emorynlp"].items()}
    assert corpus.cards["text"].layer.startswith("view 1 of 4; views 2 to 4 are left out")
    assert [u.label for u in corpus.by_id["1_1_1"].utterances] == [0, 3, 6]
    assert corpus.checks[0].startswith("differs: pickle: train: 2 dialogues, 4 utterances")
    names = ("Joyful", "Mad", "Peaceful", "Neutral", "Sad", "Powerful", "Scared")
    (tmp_path / "csv").mkdir()
    rows = {
        name: [
            row(f"Quib {n} of {i}.", names[label], int(i[4]), n + 1, season=int(i[0]), episode=int(i[2]))
            for i in ids
            for n, label in enumerate(EMORY[i])
        ]
        for name, ids in LISTS["emorynlp"].items()
    }
    folder = import_emorynlp(csv=write_csv(tmp_path / "csv", rows)).save(tmp_path / "raw")
    joined = imported(tmp_path, "emorynlp", path, "--join", str(folder))
    assert joined.splits["dev"] == ("s02_e03_c04",)
    place = joined.rows["s02_e03_c04"].start
    np.testing.assert_array_equal(joined.features["text"][place : place + 2], np.stack(members["text"]["2_3_4"]))


def lists(folder: Path, dialogues: dict[str, list[list[dict[str, Any]]]], name: str = "{}_data.json") -> Path:
    folder.mkdir(exist_ok=True)
    for split, content in dialogues.items():
        (folder / name.format(split)).write_text(json.dumps(content))
    return folder


def turn(text: str, speaker: str, label: str | None = None, **vector: Any) -> dict[str, Any]:
    return {"text": text, "speaker": speaker, **({} if label is None else {"label": label}), **vector}


def test_json_of_dialogxl(tmp_path: Path) -> None:
    folder = lists(
        tmp_path / "j",
        {
            "train": [
                [
                    turn("Zorp?", "Ses01F_impro01_F", "fru", feature=[1, 2]),
                    turn("Blick.", "Ses01F_impro01_M", feature=[3, 4]),
                ]
            ],
            "dev": [[turn("Hm.", "Ses04M_script01_1b_M", "Exc", feature=[5, 6])]],
            "test": [[turn("Oh.", "Ses05F_impro02_F", "hap", feature=[7, 8.5])]],
        },
    )
    corpus = imported(tmp_path, "iemocap", folder)
    assert corpus.splits == {"train": ("Ses01F_impro01",), "dev": ("Ses04M_script01_1b",), "test": ("Ses05F_impro02",)}
    first, second = corpus.by_id["Ses01F_impro01"].utterances
    assert (first.speaker, first.label, first.id) == ("F1", 5, "Ses01F_impro01_0")
    assert (second.speaker, second.label, second.text) == ("M1", None, "Blick.")
    assert corpus.by_id["Ses04M_script01_1b"].session == "4"
    assert corpus.features["text"].tolist() == [[1, 2], [3, 4], [5, 6], [7, 8.5]]


@pytest.mark.parametrize(
    ("corpus", "speakers", "labels"),
    [
        ("iemocap", ("M", "F"), ("excited", "sad", "neutral")),
        ("meld", ("Mira", "Olek"), ("joy", "anger", "neutral")),
        ("emorynlp", ("Mira", "Olek"), ("Joyful", "Mad", "Neutral")),
    ],
)
@pytest.mark.parametrize("name", ["{}_data_roberta_v2.json.feature", "{}.json"])
def test_json_of_dag_erc(
    tmp_path: Path, corpus: str, speakers: tuple[str, str], labels: tuple[str, ...], name: str
) -> None:
    dialogue = [turn(f"Zorp {n}.", speakers[n % 2], label, cls=[n, 0.5] * 512) for n, label in enumerate(labels)]
    folder = lists(
        tmp_path / "j", {"train": [dialogue, dialogue[:1]], "dev": [dialogue[1:]], "test": [dialogue[2:]]}, name
    )
    found = imported(tmp_path, corpus, folder)
    assert found.splits == {"train": ("train-0", "train-1"), "dev": ("dev-0",), "test": ("test-0",)}
    classes = found.label_set.classes
    assert [classes[u.label or 0] for u in found.by_id["train-0"].utterances] == [label.lower() for label in labels]
    assert [u.speaker for u in found.utterances[:3]] == [speakers[0], speakers[1], speakers[0]]
    assert (found.cards["text"].dims, found.cards["text"].fitted_on) == (1024, "train-labels")
    other = "meld" if corpus != "meld" else "emorynlp"
    with pytest.raises(UserError, match=rf"for {corpus.upper()}; import it with {corpus}-pickle"):
        read_published(folder, other)
    text_only = lists(tmp_path / "t", {"test": [[turn("Hm.", speakers[0], labels[0])]]})
    assert imported(tmp_path, corpus, text_only).features == {}


def test_json_without_ids_is_joined_by_its_words(tmp_path: Path) -> None:
    from lantern.corpora.readers.meld import import_meld
    from tests.corpora.readers import test_meld

    (tmp_path / "csv").mkdir()
    rows = {
        "train": [
            test_meld.row("Tea?", "joy", 0, 0),
            test_meld.row("No.", "anger", 0, 1),
            test_meld.row("Hm!", "joy", 3, 2),
        ],
        "dev": [test_meld.row("Oh, well", "fear", 0, 0)],
        "test": [test_meld.row("Bye", "neutral", 0, 0)],
    }
    folder = str(import_meld(test_meld.write(tmp_path / "csv", rows)).save(tmp_path / "raw"))
    train = [
        [turn("hm", "A", "joy", cls=[9.0])],
        [turn("Tea ?", "A", "joy", cls=[1.0]), turn("No", "B", "anger", cls=[2.0])],
    ]
    given = {
        "train": train,
        "dev": [[turn("Oh well.", "A", "fear", cls=[3.0])]],
        "test": [[turn("bye", "A", "neutral", cls=[4.0])]],
    }
    joined = imported(tmp_path, "meld", lists(tmp_path / "j", given), "--join", folder)
    assert joined.splits["train"] == ("train_3", "train_0")
    assert joined.features["text"].ravel().tolist() == [1, 2, 9, 3, 4]
    given["dev"][0][0]["text"] = "Oh no"
    with pytest.raises(UserError, match=r"dialogue 'dev-0' has the words of no dialogue in .*raw"):
        imported(tmp_path, "meld", lists(tmp_path / "j", given), "--join", folder)


def said(*speakers: str, label: str | None = "joy", **vector: Any) -> list[dict[str, Any]]:
    return [turn("Hm.", speaker, label, **vector) for speaker in speakers]


TWO = said("Mira", "Olek", cls=[1.0, 2.0])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"episodes": []}, r"train_data\.json: not a list of dialogues; EmoryNLP's own files .* emorynlp --json"),
        ([[]], r"train_data\.json: dialogue 0: not a list of utterances"),
        ([[{"text": "Hm."}]], r"dialogue 0, turn 0: not an utterance with the keys text and speaker"),
        (
            [[*TWO, *said("Mira", label="happiness", cls=[1.0, 2.0])]],
            r"dialogue 'train-0', turn 2: label 'happiness' is not one of",
        ),
        ([said(" ")], r"dialogue 'train-0', turn 0: speaker ' ' is not a name"),
        ([[*TWO, *said("Mira")]], r"dialogue 'train-0', text, turn 2 is not a vector of numbers"),
        ([[*TWO, *said("Mira", cls=[1.0])]], r"dialogue 'train-0', text, turn 2: 1 values; .* turn 0: 2"),
        ([[*TWO, *said("Mira", feature=[1.0, float("nan")])]], r"text, turn 2: value 1 is nan"),
        ([TWO, said("Mira")], r"dialogue 'train-1' has labels, but is missing in the member 'text'"),
    ],
)
def test_mistakes_in_json_are_named(tmp_path: Path, train: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_published(lists(tmp_path / "j", {"train": train}), "meld")
    assert "\n" not in str(caught.value)


def test_folders_and_files_that_are_not_such_json(tmp_path: Path) -> None:
    (tmp_path / "j").mkdir()
    with pytest.raises(UserError, match="is a folder that holds neither train, dev nor test files in JSON"):
        read_published(tmp_path / "j", "meld")
    folder = lists(tmp_path / "j", {"train": [TWO], "train_b": [TWO]})
    with pytest.raises(UserError, match=r"two files of train: train_b_data\.json and train_data\.json; keep one"):
        read_published(folder, "meld")
    with pytest.raises(UserError, match=r"it is JSON, .*give the folder that holds its train, dev and test files"):
        read_published(folder / "train_data.json", "meld")
    (folder / "train_b_data.json").unlink()
    (folder / "train_data.json").write_text("[[{")
    with pytest.raises(UserError, match=r"train_data\.json: not JSON"):
        read_published(folder, "meld")


def test_one_long_list_in_many_places_does_not_fill_the_memory(tmp_path: Path) -> None:
    ids = {n: [0] * 200 for n in range(200)}
    members = friends(ids) | {"train": [0], "test": [1], "dev": []}
    for name in ("labels", "speakers", "sentences"):
        members[name] = dict.fromkeys(ids, [members[name][0][0]] * 20_000)
    with pytest.raises(UserError, match=r"4,000,000 turns; more than 1,000,000 are not read"):
        read_published(write(tmp_path / "p", part(members, ORDERS["cosmic"])), "emorynlp")


def test_help_names_every_layout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        import_corpus.main(["iemocap-pickle", "--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in LAYOUTS)
