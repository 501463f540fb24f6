"""One HTML page in which a person reads a corpus: facts, histograms, dialogues. No network, no library."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.folder import Corpus
from lantern.corpora.summary import PartSummary, summarise
from lantern.corpora.types import DIMENSIONS, MODALITIES, Utterance
from lantern.errors import UserError
from lantern.files import atomic
from lantern.report.corpus_plots import class_bars, colour, histogram

MARK = "<!doctype html>\n<!-- Lantern corpus page -->\n"
_ASSETS = Path(__file__).with_name("corpus_reader")


def write_page(corpus: Corpus, path: Path) -> Path:
    """Write the page of *corpus*, loaded with its features, to *path*.

    Raises:
        UserError: *path* is something other than such a page, or cannot be written.
    """
    try:
        if path.exists() and (path.is_dir() or not path.read_bytes().startswith(MARK.encode())):
            raise UserError(f"{path} exists and is not a page of this command; give another file with --out")
        with atomic(path) as partial:
            partial.write_text(page(corpus), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


def page(corpus: Corpus) -> str:
    """The page; it holds the text of the corpus."""
    parts = summarise(corpus)
    script = (_ASSETS / "reader.js").read_text(encoding="utf-8")
    style = (_ASSETS / "style.css").read_text(encoding="utf-8")
    # The one script that may run is the one written here, whatever a transcript holds.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    body = "\n".join(
        (
            _header(corpus, parts[-1]),
            _section("Splits", _split_table(corpus, parts)),
            _section("Classes", f'<div class="plots">{"".join(_class_plots(corpus, parts))}</div>'),
            _scores(corpus),
            _features(corpus),
            _notes(corpus),
            _READER,
        )
    )
    return (
        f'{MARK}<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="robots" content="noindex"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(corpus.name)}, {escape(corpus.label_set.name)}</title><style>{style}</style></head>\n"
        f'<body><main>{body}</main>\n<script type="application/json" id="data">{_data(corpus)}</script>\n'
        f"<script>{script}</script></body></html>\n"
    )


def _header(corpus: Corpus, whole: PartSummary) -> str:
    numbers = (
        (whole.dialogues, "dialogues"),
        (whole.utterances, "utterances"),
        (whole.labelled, "labelled"),
        (whole.scored, "scored"),
        (whole.speakers, "speakers"),
        (whole.longest, "turns in the longest"),
    )
    tiles = "".join(f"<div><b>{count:,}</b><span>{what}</span></div>" for count, what in numbers)
    warnings = []
    if corpus.redistribution == "forbidden":
        warnings.append(
            "For your own use: the text of this corpus may not be passed on, and this page holds it. "
            "Keep it where the corpus is."
        )
    if corpus.contaminated:
        warnings.append(f"{corpus.contaminated}.")
    if corpus.made_up:
        warnings.append("Made up by a generator: nothing measured on it says anything about people.")
    told = "".join(f'<p class="warn">{escape(text)}</p>' for text in warnings)
    classes = ", ".join(corpus.label_set.classes)
    source = f'<p class="dim">{escape(corpus.source)}</p>' if corpus.source else ""
    return (
        f"<header><h1>{escape(corpus.name)}</h1>"
        f'<p class="dim">label set {escape(corpus.label_set.name)}: {escape(classes)}</p>{source}{told}'
        f'<div class="tiles">{tiles}</div></header>'
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'


def _split_table(corpus: Corpus, parts: Sequence[PartSummary]) -> str:
    head = ("split", "dialogues", "turns", "labelled", "scored", "speakers", *corpus.label_set.classes)
    rows = [
        (p.name, *(f"{n:,}" for n in (p.dialogues, p.utterances, p.labelled, p.scored, p.speakers, *p.classes)))
        for p in parts
    ]
    return _table(head, rows)


def _class_plots(corpus: Corpus, parts: Sequence[PartSummary]) -> list[str]:
    shown = parts if len(parts) == 1 else parts[:-1]
    return [class_bars(p.name, corpus.label_set.classes, p.classes) for p in shown]


def _scores(corpus: Corpus) -> str:
    if corpus.score_range is None:
        return ""
    low, high = corpus.score_range
    plots = []
    for place, name in enumerate(DIMENSIONS):
        given = [u.scores[place] for u in corpus.utterances if u.scores is not None]
        values = np.array([score for score in given if score is not None])
        if len(values):
            plots.append(histogram(name, values, low, high))
    if not plots:
        return ""
    return _section(f"Dimension scores, {low:g} to {high:g}", f'<div class="plots">{"".join(plots)}</div>')


def _features(corpus: Corpus) -> str:
    if not corpus.cards:
        return _section("Features", '<p class="dim">none: add some with python -m experiments.extract_features</p>')
    total = len(corpus.utterances)
    cards = []
    for name, card in corpus.cards.items():
        count = f"{card.count:,}" if card.count == total else f"{card.count:,} of {total:,}"
        facts = {
            "extractor": card.extractor,
            "version": card.version,
            "layer": card.layer or "not told",
            "fitted on": card.fitted_on,
            "licence": card.licence,
            "SHA-256": f"{card.sha256[:16]}…",
        }
        rows = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items() if value)
        caption = f'<b>{name}</b> <span class="dim">{card.dims}-d, {count} utterances</span>'
        cards.append(f"<figure><figcaption>{caption}</figcaption><dl>{rows}</dl></figure>")
    return _section("Features", f'<div class="plots">{"".join(cards)}</div>')


def _notes(corpus: Corpus) -> str:
    lines = [
        f'<li class="{"bad" if text.startswith("differs") else "plain"}">{escape(text)}</li>'
        for text in (*corpus.checks, *corpus.notes)
    ]
    return _section("Notes and checks", f"<ul>{''.join(lines)}</ul>") if lines else ""


def _data(corpus: Corpus) -> str:
    """What the reader shows, as JSON that cannot end the element that holds it."""
    split_of = {i: name for name, ids in corpus.splits.items() for i in ids}
    missing = np.zeros(len(corpus.utterances), dtype=np.int64)
    for bit, name in enumerate(MODALITIES):
        if name in corpus.present:
            missing |= (~corpus.present[name]).astype(np.int64) << bit
    dialogues = []
    for d in corpus.dialogues:
        place = {name: n for n, name in enumerate(d.speakers)}
        turns = [_turn(u, place[u.speaker], int(m)) for u, m in zip(d.utterances, missing[corpus.rows[d.id]])]
        dialogues.append([d.id, split_of.get(d.id, ""), d.session or "", list(d.speakers), turns])
    values = {
        "classes": corpus.label_set.classes,
        "colours": [colour(n) for n in range(len(corpus.label_set))],
        "modalities": MODALITIES,
        "dialogues": dialogues,
    }
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _turn(u: Utterance, speaker: int, missing: int) -> list[Any]:
    scores = None if u.scores is None else [None if s is None else round(s, 2) for s in u.scores]
    return [u.id, speaker, u.text, -1 if u.label is None else u.label, scores, _times(u), missing]


def _times(u: Utterance) -> str:
    start, end = u.times
    return "" if start is None or end is None else f"{_clock(start)} - {_clock(end)}"


def _clock(value: float) -> str:
    minutes, rest = divmod(round(value, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


_READER = """<section id="reader"><h2>Dialogues</h2>
<div class="tools"><input id="search" type="search" placeholder="Search id, speaker or words" aria-label="Search">
<select id="split" aria-label="Split"></select><span id="found" class="dim" aria-live="polite"></span></div>
<div class="reader"><nav id="list" aria-label="Dialogues"></nav><article>
<div class="move"><button id="back" type="button" aria-label="Previous dialogue">&larr;</button><h3 id="name"></h3>
<button id="next" type="button" aria-label="Next dialogue">&rarr;</button></div>
<p id="about" class="dim"></p><ol id="turns"></ol></article></div>
<p class="dim keys">&larr; and &rarr; on the keyboard go to the dialogue before and after.</p>
<noscript><p class="warn">The dialogues need JavaScript.</p></noscript></section>"""
