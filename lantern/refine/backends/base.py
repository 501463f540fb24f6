"""What the engine needs of a backend."""

from __future__ import annotations

from lantern.refine.backends.config import BackendConfig
from lantern.refine.shape import ReplyShape
from lantern.refine.types import Price, Reply, Request


class Backend:
    """One LLM. Retries, limits and storage are the engine's; a backend only overrides what it needs."""

    def __init__(self, config: BackendConfig) -> None:
        self.config = config

    @property
    def price(self) -> Price | None:
        """Dollars per token, final after :meth:`prepare`; None when it is not known."""
        return self.config.price

    def check_ready(self) -> None:
        """Refuse, before anything starts, what could only fail later. Sends nothing.

        Raises:
            UserError: what is missing and how to supply it.
        """

    def check_parameters(self) -> None:
        """Refuse parameters that the model is known not to take. Needs no key and sends nothing.

        Raises:
            UserError: which ones, and how to leave them out.
        """

    def check_words(self, shape: ReplyShape) -> None:
        """Refuse classes whose first tokens the model is known not to tell apart, where replies are by words.

        Raises:
            UserError: which classes.
        """

    def prepare(self) -> None:
        """Load what calls need, and the price. Slow."""

    def start(self) -> None:
        """Everything that is due once before the first call.

        Raises:
            UserError: the calls would fail, or cost an unknown amount.
        """
        self.prepare()

    async def call(self, request: Request, timeout: float) -> Reply:
        """One attempt, at most *timeout* seconds in all.

        Raises:
            BackendFailure: no usable reply came.
            UserError: every call would fail.
        """
        raise NotImplementedError
