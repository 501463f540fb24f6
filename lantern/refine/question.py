"""One receptive field, the requests about it, and the shape of their replies."""

from __future__ import annotations

from dataclasses import dataclass

from lantern.refine.fields import Field
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Request


@dataclass(frozen=True, slots=True)
class Question:
    """A receptive field with the requests that ask about its target utterances, or about one of them."""

    field: Field
    targets: tuple[int, ...]
    """Indices, in the dialogue, of the utterances that it asks about."""
    rows: tuple[int, ...]
    """Their rows in the predictions table."""
    shape: ReplyShape
    requests: tuple[Request, ...]
    """One per sample."""
    blank: Request | None = None
    """The same prompt about an empty turn, whose answer is divided out of the others; the same for many questions."""

    @property
    def sent(self) -> tuple[Request, ...]:
        """All requests that the answer needs."""
        return self.requests if self.blank is None else (*self.requests, self.blank)
