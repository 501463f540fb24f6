"""The page of a corpus, and the command that writes it."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from experiments import inspect_corpus
from lantern.corpora.folder import Corpus, FeatureCard, load_corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.corpora.types import Dialogue, LabelSet, Utterance
from lantern.errors import UserError
from lantern.report import corpus_page
from lantern.report.corpus_page import MARK, _transitions, page, write_page
from lantern.report.plots import class_bars, colour, histogram
from tests.report.browser import browser

ROOT = Path(__file__).resolve().parent.parent.parent
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \u2028 “quoted” <!-- "


class Elements(HTMLParser):
    """Collects elements, attributes and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def evil_corpus() -> Corpus:
    labels = LabelSet("<b>set</b>", ("<i>up</i>", "down"))
    turns = (
        Utterance(f"u1{EVIL}", f"Ann{EVIL}", EVIL, 0, (1.5, None, 3.0), {"start": 3661.25, "end": "1:02:00,5"}),
        Utterance("u2", "Bob", "", None, None),
    )
    made = Corpus(
        "name<img src=x onerror=alert(2)> & “quoted” <!-- ",
        labels,
        (Dialogue(f"d{EVIL}", turns, f"s{EVIL}"),),
        {"dev": (f"d{EVIL}",)},
        score_range=(1, 5),
        source=EVIL,
        contaminated=EVIL,
        notes=(EVIL,),
        checks=(f"differs: {EVIL}",),
    )
    card = FeatureCard(EVIL, EVIL, 2, 1, layer=EVIL, licence=EVIL)
    return made.with_features("audio", np.ones((2, 2)), card, np.array([True, False]))


def test_whatever_a_transcript_holds_the_page_runs_only_its_own_script() -> None:
    text = page(evil_corpus())
    found = Elements(text)
    assert found.tags.count("script") == 2
    assert "img" not in found.tags
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    data, script = found.scripts
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'\"" in text
    assert not set("<>&\u2028") & set(data)
    shown = json.loads(data)
    (whole,) = shown["sets"]
    assert whole["classes"] == ["<i>up</i>", "down"]
    assert whole["speakers"] == [f"Ann{EVIL}", "Bob"]
    (dialogue,) = whole["dialogues"]
    turns = dialogue.pop("turns")
    assert dialogue == {"id": f"d{EVIL}", "split": "dev", "session": f"s{EVIL}"}
    assert turns[0] == [0, 0, f"u1{EVIL}", 0, 0, [1.5, None, 3.0], EVIL, "1:01:01.2 - 1:02:00.5", 0]
    assert turns[1] == [1, 1, "u2", 1, -1, None, "", "", 2]


def test_the_page_loads_nothing_from_anywhere() -> None:
    text = page(generate_sample(dialogues=5))
    found = Elements(text)
    assert not {"link", "iframe", "object", "embed", "base", "form"} & set(found.tags)
    assert not {"src", "href", "action", "srcset"} & {name for name, _ in found.attributes}
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(|https?://", text)
    assert "innerHTML" not in text


def test_every_turn_is_there_and_the_counts_agree() -> None:
    corpus = generate_sample(seed=2, dialogues=12)
    text = page(corpus)
    shown = json.loads(Elements(text).scripts[0])["sets"][0]["dialogues"]
    assert [d["id"] for d in shown] == [d.id for d in corpus.dialogues]
    assert [t[6] for d in shown for t in d["turns"]] == [u.text for u in corpus.utterances]
    missing = [t[8] for d in shown for t in d["turns"]]
    assert [bool(bits & 4) for bits in missing] == (~corpus.present["visual"]).tolist()
    assert f"<b>{len(corpus.utterances):,}</b><span>utterances</span>" in text
    # Classes of three splits, three dimensions.
    assert text.count("<svg") == 6


def test_what_may_not_be_passed_on_says_so() -> None:
    corpus = generate_sample(dialogues=5)
    assert "For your own use" not in page(replace(corpus, redistribution="allowed"))
    assert "For your own use" in page(replace(corpus, redistribution="forbidden"))
    assert "read: their results" in page(replace(corpus, contaminated="LLMs have read: their results"))


def test_a_corpus_without_splits_scores_labels_or_features_has_a_page() -> None:
    turns = (Utterance("u", "A", "x"), Utterance("v", "A", "y"))
    bare = Corpus("bare", LabelSet("l", ("a", "b")), (Dialogue("d", turns),), {})
    text = page(bare)
    assert "Dimension scores" not in text
    assert "none: add some with" in text
    assert page(replace(bare, score_range=(1, 5))).count("<svg") == 1


def bars(svg: str) -> list[tuple[float, float]]:
    """Width and height of every bar."""
    return [(float(w), float(h)) for w, h in re.findall(r'<rect [^>]*width="([\d.]+)" height="([\d.]+)"', svg)]


def test_bars_are_as_long_as_the_counts() -> None:
    svg = class_bars("train", ("up", "<down>", "off"), (30, 10, 0))
    (first, _), (second, _), (third, _) = bars(svg)
    assert first == pytest.approx(3 * second, rel=0.01)
    assert third == 0
    assert "75.0 %" in svg
    assert "&lt;down&gt;" in svg
    assert "<down>" not in svg


def test_a_histogram_has_a_bar_for_each_value_that_raters_could_give() -> None:
    svg = histogram("valence", np.array([1.0, 1.5, 1.5, 5.0]), 1, 5)
    heights = [h for _, h in bars(svg)]
    assert len(heights) == 9
    assert [h / max(heights) for h in heights] == [0.5, 1, 0, 0, 0, 0, 0, 0, 0.5]
    means = histogram("valence", np.array([1.0, 7 / 3, 8 / 3]), 1, 5)
    assert len(bars(means)) == 16
    assert "mean 2.00" in means
    assert "3 scores" in means


def test_class_colours_differ() -> None:
    assert len({colour(n) for n in range(8)}) == 8
    assert colour(8) == colour(0)


def test_the_command_prints_the_card_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = generate_sample(seed=1, dialogues=6)
    replace(corpus, redistribution="forbidden").save(tmp_path / "c")
    assert inspect_corpus.main([str(tmp_path / "c")]) == 0
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert text == page(load_corpus(tmp_path / "c"))
    out = capsys.readouterr().out
    assert "redistribution of the text: forbidden" in out
    assert "for your own use" in out
    assert "generated by lantern.corpora.sample, seed" in out
    sha = load_corpus(tmp_path / "c").cards["audio"].sha256
    assert sha in out
    assert inspect_corpus.main([str(tmp_path / "c"), "--out", str(tmp_path / "deep" / "p.html")]) == 0
    assert (tmp_path / "deep" / "p.html").read_text(encoding="utf-8").startswith(MARK)


def test_other_files_are_never_replaced_and_damage_is_told_before_anything_is_written(tmp_path: Path) -> None:
    corpus = generate_sample(dialogues=5)
    path = corpus.save(tmp_path / "c")
    (tmp_path / "thesis.html").write_text("mine")
    for target in (tmp_path / "thesis.html", tmp_path):
        with pytest.raises(UserError, match="exists and is not a page of this command"):
            write_page(corpus, target)
    assert (tmp_path / "thesis.html").read_text() == "mine"
    (path / "features" / "text.safetensors").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"text\.safetensors was changed after the import: its SHA-256 is .* says"):
        inspect_corpus.main([str(path)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "thesis.html"]


def test_mistakes_are_one_line_and_exit_code_2_and_help_is_light(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "experiments.inspect_corpus"]
    done = subprocess.run([*command, str(tmp_path / "no")], cwd=ROOT, capture_output=True, text=True, check=False)
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, len(told)) == (2, 1)
    assert told[0].startswith(f"error: {tmp_path}/no: no corpus folder there")
    done = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert not {"torch", "numpy"} & {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}


def test_the_reader_searches_lists_and_marks(tmp_path: Path) -> None:
    corpus = generate_sample(seed=2, dialogues=12)
    path = write_page(corpus, tmp_path / "c.html")
    first, second, *_ = corpus.dialogues
    with browser() as tab:
        tab.open(path, width=390)
        assert tab.js("document.documentElement.scrollWidth") <= 390
        listed = "[...document.querySelectorAll('.list button')].map(e => e.firstChild.textContent)"
        assert tab.js(listed) == [d.id for d in corpus.dialogues]
        words = "[...document.querySelectorAll('.words')].map(e => e.textContent)"
        assert tab.js(words) == [u.text for u in first.utterances]
        tab.js("document.querySelector('.reader').scrollIntoView()")
        tab.press("ArrowRight")
        assert tab.js(words) == [u.text for u in second.utterances]
        assert tab.js("decodeURIComponent(location.hash)") == f"#{second.id}"
        wanted = second.utterances[0].text
        tab.js(f"s = document.querySelector('input'); s.value = {json.dumps(wanted.upper())};")
        tab.js("document.querySelector('input').dispatchEvent(new Event('input'))")
        holding = [d.id for d in corpus.dialogues if any(wanted.lower() in u.text.lower() for u in d.utterances)]
        assert tab.js(listed) == holding
        assert tab.js("document.querySelector('mark').textContent") == wanted
        tab.js("s = document.querySelector('input'); s.value = 'no such words'; s.dispatchEvent(new Event('input'))")
        assert tab.js("document.querySelector('.empty').textContent") == "No dialogue holds these words."
        tab.js("s = document.querySelector('input'); s.value = ''; s.dispatchEvent(new Event('input'))")
        tab.js("s = document.querySelector('.split'); s.value = 'dev'; s.dispatchEvent(new Event('change'))")
        assert tab.js(listed) == [d.id for d in corpus.dialogues if d.id in corpus.splits["dev"]]
        assert tab.errors == []
    with browser() as tab:
        path = write_page(evil_corpus(), tmp_path / "evil.html")
        tab.open(path)
        assert tab.js("document.querySelector('.words').textContent") == EVIL
        assert tab.js("document.querySelectorAll('img').length") == 0
        assert all(url.startswith("file:") for url in tab.requests)
        assert tab.errors == []


def dialogue(name: str, *turns: tuple[str, int | None]) -> Dialogue:
    return Dialogue(
        name, tuple(Utterance(f"{name}{n}", who, f"word {n}", label) for n, (who, label) in enumerate(turns))
    )


def test_transitions_count_what_follows_within_a_dialogue() -> None:
    first = dialogue("d", ("A", 0), ("B", 1), ("A", None), ("A", 1), ("B", 0))
    made = Corpus("c", LabelSet("l", ("up", "down")), (first, dialogue("e", ("A", 1), ("A", 1))), {})
    assert _transitions(made) == {
        "next turn": [[0, 1], [1, 2]],  # 0>1, 1>1 over the turn without a label, 1>0; in the other dialogue 1>1
        "next turn of the same speaker": [[0, 1], [1, 1]],
    }
    text = page(made)
    assert "Transitions" in text
    assert 'title="2 of 3 down followed by down"' in text
    bare = Corpus("c", made.label_set, (dialogue("d", ("A", None), ("B", 1)),), {})
    assert _transitions(bare) == {}
    assert "Transitions" not in page(bare)


def test_a_large_corpus_comes_in_pieces_that_are_read_when_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_page, "PIECE", 40)
    corpus = generate_sample(seed=2, dialogues=12)
    path = write_page(corpus, tmp_path / "c.html")
    found = Elements(path.read_text(encoding="utf-8"))
    pieces = [json.loads(text) for text in found.scripts[1:-1]]
    assert len(pieces) > 3
    assert all(sum(map(len, piece)) <= 40 or len(piece) == 1 for piece in pieces)
    assert [turn[6] for piece in pieces for turns in piece for turn in turns] == [u.text for u in corpus.utterances]
    assert "turns" not in json.loads(found.scripts[0])["sets"][0]["dialogues"][0]
    last = corpus.dialogues[-1]
    with browser() as tab:
        tab.open(path)
        words = "[...document.querySelectorAll('.words')].map(e => e.textContent)"
        assert tab.js(words) == [u.text for u in corpus.dialogues[0].utterances]
        tab.js("[...document.querySelectorAll('.list button')].at(-1).click()")
        assert tab.js(words) == [u.text for u in last.utterances]
        wanted = json.dumps(last.utterances[0].text)
        tab.js(f"s = document.querySelector('input'); s.value = {wanted}; s.dispatchEvent(new Event('input'))")
        listed = "[...document.querySelectorAll('.list button')].map(e => e.firstChild.textContent)"
        assert last.id in tab.js(listed)
        assert tab.errors == []


def test_a_label_can_be_looked_for(tmp_path: Path) -> None:
    corpus = generate_sample(seed=2, dialogues=12)
    path = write_page(corpus, tmp_path / "c.html")
    label = 3
    with browser() as tab:
        tab.open(path)
        tab.js(
            f"s = document.querySelector('.label'); s.selectedIndex = {label + 1}; s.dispatchEvent(new Event('change'))"
        )
        having = [d for d in corpus.dialogues if any(u.label == label for u in d.utterances)]
        listed = "[...document.querySelectorAll('.list button')].map(e => e.firstChild.textContent)"
        assert tab.js(listed) == [d.id for d in having]
        words = "[...document.querySelectorAll('.words')].map(e => e.textContent)"
        assert tab.js(words) == [u.text for u in having[0].utterances if u.label == label]
        assert tab.js("document.querySelectorAll('.times').length") == 1  # gold only
        address = f"#{having[-1].id}/2"
        tab.js(f"location.hash = {json.dumps(address)}")
        assert tab.until(f"document.querySelector('h3').textContent === {json.dumps(having[-1].id)}")
        assert tab.js(words) == [u.text for u in having[-1].utterances]
        assert tab.errors == []
