"""CSV and JSON Lines with a row per turn."""

from __future__ import annotations

from collections.abc import Iterator

from lantern.corpora.readers.conversations.turns import Source, Turn
from lantern.corpora.text_files import read_rows


def read_table(source: Source) -> Iterator[Turn]:
    """Rows with ``speaker`` and ``text``, perhaps with ``dialogue`` and ``utterance`` (an id)."""
    for line, row in read_rows(source.path, ("speaker", "text")):
        for name in ("speaker", "text"):
            value = row.get(name)
            if not isinstance(value, str) or not value.strip():
                raise source.error(line, f"{name} is {value!r}, expected words")
        ids: list[str] = []
        for name in ("dialogue", "utterance"):
            value = row.get(name)
            if not isinstance(value, str | int | None) or isinstance(value, bool):
                raise source.error(line, f"{name} is {value!r}, expected text or a number")
            ids.append("" if value is None else str(value))
        yield Turn(str(row["speaker"]).strip(), str(row["text"]).strip(), dialogue=ids[0], id=ids[1])
