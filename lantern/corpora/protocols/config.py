"""Settings of a protocol; plain data, importable without torch and NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lantern.errors import UserError
from lantern.settings import OneOf, check


@dataclass
class ProtocolConfig:
    """Which dialogues train, select and test."""

    name: Annotated[str, OneOf("own", "session5", "loso", "cosmic", "corect")] = "own"
    """``own``: the corpus's own split; without a dev split, one training session or a seeded share is held out.
    ``session5``: session 5 tests, session 4 is dev, the others train. ``loso``: session *fold* tests (leave one session
    out). ``cosmic``: 108 / 12 / 31 dialogues, as COSMIC ships them. ``corect``: the first tenth (12) of the published
    training list is dev, as COGMEN and CORECT cut it."""
    selection: Annotated[str, OneOf("dev", "paper-style")] = "dev"
    """Which dialogues choose the epoch. ``dev``; ``paper-style``: the test dialogues, as several published codes do,
    with all others in training. Only good for a comparison with printed numbers."""
    fold: int | None = None
    """``loso``: the session that tests, 1 to 5."""
    dev_session: int | None = None
    """``session5``, ``loso``: the session that is dev. null: the one before the test session (5 before 1)."""
    dev_list: str | None = None
    """``own``, ``cosmic``, ``corect``: a text file with the id of a dev dialogue on every line. null: what the corpus
    came with."""
    dev_share: float = 0.1
    """``own``: share of training dialogues held out where neither a dev split nor sessions exist."""

    def __post_init__(self) -> None:
        check(self, "protocol")
        if not 0 < self.dev_share < 1:
            raise UserError(f"protocol.dev_share={self.dev_share} must lie between 0 and 1")
        by_session = self.name in ("session5", "loso")
        if self.name == "loso" and self.fold is None:
            raise UserError(
                "protocol.name=loso needs protocol.fold=1 to 5; all five: -m protocol=loso protocol.fold=1,2,3,4,5"
            )
        if self.name != "loso" and self.fold is not None:
            raise UserError(f"protocol.fold={self.fold} is for protocol=loso, not for protocol={self.name}")
        if self.dev_session is not None and not by_session:
            raise UserError(
                f"protocol.dev_session={self.dev_session} is for protocol=session5 and loso, not for "
                f"protocol={self.name}"
            )
        if self.dev_list is not None and by_session:
            raise UserError(
                f"protocol.dev_list={self.dev_list}: protocol={self.name} takes a whole session as dev; name it with "
                "protocol.dev_session"
            )
        if self.test_session is not None and self.dev_session == self.test_session:
            raise UserError(f"protocol.dev_session={self.dev_session} is the test session")

    @property
    def test_session(self) -> int | None:
        """The session that tests; None for protocols that do not cut by session."""
        return {"session5": 5, "loso": self.fold}.get(self.name)
