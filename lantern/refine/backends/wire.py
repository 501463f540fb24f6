"""What one call may do on the network: follow no redirect, bring a body of bounded size, which is kept as it came.

litellm posts through the clients of ``httpx`` and, inside the OpenAI client, of ``httpx2``, partly through ones that it
makes itself and that no setting reaches. Their ``send`` is therefore wrapped, once; outside of :func:`exchange` the
wrapped ones do what they did.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

from lantern.errors import FailureKind
from lantern.refine.types import Failure

MOST_BYTES = 16 * 2**20
"""Bytes of an unpacked body; a reply with token probabilities has some hundred thousand."""


@dataclass
class Exchange:
    """The last response of one call."""

    most: int
    """Bytes of a body that are taken."""
    status: int | None = None
    """Of a response whose body has come to its end; None as long as there is none."""
    body: bytearray = field(default_factory=bytearray)
    """Unpacked; where it was too long, its beginning."""
    failure: Failure | None = None
    """Why the response was given up."""

    @property
    def arrived(self) -> bool:
        """A whole body came, with a status that says that all is well."""
        return self.status is not None and 200 <= self.status < 300

    def give_up(self, kind: FailureKind, message: str, status: int | None) -> ConnectionError:
        self.failure = Failure(kind, message, status)
        return ConnectionError(message)

    def start(self, request: Any) -> None:
        """*request* is about to be sent."""
        self.status, self.body, self.failure = None, bytearray(), None
        request.headers["Accept-Encoding"] = "gzip"

    def begin(self, response: Any) -> Callable[[bytes], bytes]:
        """Check the head of *response*; unpacks its parts."""
        target = response.headers.get("location")
        if 300 <= response.status_code < 400 and target is not None:
            address = urlsplit(urljoin(str(response.request.url), target))
            where = f"{address.scheme}://{address.hostname}" + (f":{address.port}" if address.port else "")
            message = f"the server redirects to {where}{address.path}; set llm.api_base to it if you trust it"
            raise self.give_up(FailureKind.REDIRECT, message[:300], response.status_code)
        packed = response.headers.get("content-encoding", "identity").strip().lower()
        if packed == "identity":
            return lambda part: part
        if packed not in ("gzip", "x-gzip"):
            message = f"the body came packed by {packed[:40]!r}, which was not requested"
            raise self.give_up(FailureKind.BAD_BODY, message, response.status_code)
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return lambda part: unpacker.decompress(part, self.most + 1 - len(self.body))

    def take(self, unpack: Callable[[bytes], bytes], part: bytes, status: int) -> None:
        """Add *part* of a body."""
        try:
            self.body += unpack(part)
        except zlib.error:
            raise self.give_up(FailureKind.BAD_BODY, "the body is not the gzip that it says it is", status) from None
        if len(self.body) > self.most:
            del self.body[self.most :]
            message = f"the body is longer than {self.most / 2**20:g} MB"
            raise self.give_up(FailureKind.BAD_BODY, message, status)

    def end(self, response: Any) -> Any:
        """*response* as one that has been read."""
        self.status = response.status_code
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_PACKING]
        read = type(response)(response.status_code, headers=headers, content=bytes(self.body), request=response.request)
        read.elapsed = response.elapsed
        return read


_OF_THE_PACKING = ("content-encoding", "content-length", "transfer-encoding")
_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


@contextmanager
def exchange(most: int = MOST_BYTES) -> Iterator[Exchange]:
    """Hold what is sent in this context to the rules above."""
    made = Exchange(most)
    token = _current.set(made)
    try:
        yield made
    finally:
        _current.reset(token)


def install() -> None:
    """Wrap the clients of the HTTP libraries that are there; done once in a process."""
    for name in ("httpx", "httpx2"):
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        if not hasattr(library.AsyncClient.send, "unbounded"):
            library.AsyncClient.send = _asynchronous(library.AsyncClient.send)
            library.Client.send = _synchronous(library.Client.send)


def _asynchronous(send: Any) -> Any:
    async def bounded(client: Any, request: Any, **how: Any) -> Any:
        current = _current.get()
        if current is None:
            return await send(client, request, **how)
        current.start(request)
        response = await send(client, request, **{**how, "stream": True, "follow_redirects": False})
        try:
            unpack = current.begin(response)
            async for part in response.aiter_raw():
                current.take(unpack, part, response.status_code)
        finally:
            await response.aclose()
        return current.end(response)

    bounded.unbounded = send  # type: ignore[attr-defined]
    return bounded


def _synchronous(send: Any) -> Any:
    def bounded(client: Any, request: Any, **how: Any) -> Any:
        current = _current.get()
        if current is None:
            return send(client, request, **how)
        current.start(request)
        response = send(client, request, **{**how, "stream": True, "follow_redirects": False})
        try:
            unpack = current.begin(response)
            for part in response.iter_raw():
                current.take(unpack, part, response.status_code)
        finally:
            response.close()
        return current.end(response)

    bounded.unbounded = send  # type: ignore[attr-defined]
    return bounded
