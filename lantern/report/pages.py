"""Pages of one file that open without a network, from the templates beside this module."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from lantern.report.sinks.escaping import printable


def page(template: str, data: Any, pieces: Sequence[Any] = (), **values: Any) -> str:
    """A whole page.

    The only script that may run is Lantern's own, whatever the text of a corpus holds.

    Args:
        template: name of the template.
        data: of the dialogue reader, plain JSON values; see :mod:`lantern.report.reader`.
        pieces: further data that the reader takes up when it needs it.
        values: what the template shows; every text is escaped.
    """
    script = _asset("page.js")
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = Markup(f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'")
    fixed = {"style": Markup(_asset("page.css")), "script": Markup(script), "policy": policy}
    embedded = {"data": Markup(embedded_json(data)), "pieces": [Markup(embedded_json(one)) for one in pieces]}
    text = environment().get_template(template).render(**values, **fixed, **embedded)
    return text.encode("utf-8", "replace").decode("utf-8") + "\n"


@cache
def environment() -> Environment:
    """The templates; every value is escaped."""
    made = Environment(
        loader=PackageLoader("lantern.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_visible,
    )
    made.filters["breakable"] = breakable
    return made


@cache
def macros(template: str = "parts.html") -> Any:
    """The macros of *template* as functions; each returns markup."""
    return environment().get_template(template).module


def _visible(value: Any) -> Any:
    """A text of data without signs that turn the writing direction, as on the terminal; markup as it is."""
    return printable(value) if type(value) is str else value


def breakable(text: str) -> Markup:
    """*text* escaped, with places to break a line behind its signs rather than within a word."""
    return Markup(re.sub(r"(?<=[.=_\-/])(?=\w)", "<wbr>", str(escape(printable(text)))))


def embedded_json(value: Any) -> str:
    """*value* as JSON that may be put into a script element: no character of it can end the element or a line.

    Signs that turn the writing direction of what follows become text.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    text = re.sub("[\u202a-\u202e\u2066-\u2069]", lambda sign: f"\\\\u{ord(sign[0]):04x}", text)
    # A half of a surrogate pair has no UTF-8 form.
    return text.encode("utf-8", "replace").decode("utf-8")


def _asset(name: str) -> str:
    return (resources.files("lantern.report") / "assets" / name).read_text(encoding="utf-8")
