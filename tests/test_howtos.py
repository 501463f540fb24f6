"""The how-tos of docs/extending.md, followed to the letter in a copy of the project."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lantern.api import load_runs
from tests.llm_server import LLMServer

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
HOWTOS = ("## A new backbone", "## A new corpus", "## A new LLM", "## A new prompt")
FROM_PYTHON = "## From Python"
CHAT = "Ann: we won, I cannot believe it!\nBob: that is wonderful\n"
# One process for all: starting torch takes longer than any of them.
FOLLOW = """
import importlib, json, shlex, sys, traceback
for heading, typed, code in json.load(sys.stdin):
    print("\\0" + heading, flush=True)
    try:
        for line in typed:
            python, m, module, *arguments = shlex.split(line)
            assert (python, m) == ("python", "-m"), line
            assert not importlib.import_module(module).main(arguments), line
        exec(code, {})
    except BaseException:
        traceback.print_exc(file=sys.stdout)
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # the first test waits for all commands


@dataclass(frozen=True, slots=True)
class Followed:
    """What the how-tos did in the folder *at*."""

    at: Path
    out: dict[str, str]
    """Their output, by heading."""
    asked: int
    """Prompts that the server answered."""

    def printed(self, heading: str) -> str:
        """The output of a how-to that raised nothing."""
        assert "Traceback" not in self.out[heading], self.out[heading]
        return self.out[heading]

    def result(self, pattern: str) -> dict[str, Any]:
        """The result of the one run of that name."""
        (folder,) = (self.at / "runs").glob(pattern)
        return json.loads((folder / "metrics.json").read_text())


def blocks(heading: str) -> list[tuple[str, str]]:
    """Language and content of the code blocks below *heading*."""
    section = re.split("^## ", DOCUMENT.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Followed:
    at = tmp_path_factory.mktemp("copy")
    for name in ("lantern", "experiments", "configs"):
        shutil.copytree(ROOT / name, at / name, ignore=shutil.ignore_patterns("__pycache__"))
    (at / "chat.txt").write_text(CHAT)
    ((_, code),) = blocks(FROM_PYTHON)
    made = re.search(r"# (python -m experiments\.import_corpus .*)", code)
    assert made is not None
    steps: list[tuple[str, list[str], str]] = [(FROM_PYTHON, [f"{made[1]} --dialogues 20"], code)]
    with LLMServer() as server:
        for heading in HOWTOS:
            typed: list[str] = []
            for language, text in blocks(heading):
                if language == "sh":
                    typed += text.splitlines()
                    continue
                first, _, rest = text.partition("\n")
                path = at / first.removeprefix("# ")
                assert not path.exists()
                path.write_text(rest.replace("http://localhost:8080/v1", server.url), encoding="utf-8")
            steps.append((heading, typed, ""))
        done = subprocess.run(
            [sys.executable, "-c", FOLLOW], cwd=at, input=json.dumps(steps), capture_output=True, text=True
        )
    parts = [part.partition("\n") for part in done.stdout.split("\0")[1:]]
    return Followed(at, {heading: out for heading, _, out in parts}, len(server.answered))


@pytest.mark.parametrize("heading", HOWTOS)
def test_a_howto_is_short(heading: str) -> None:
    parts = blocks(heading)
    assert "sh" in {language for language, _ in parts}
    assert sum(bool(line.strip()) for _, text in parts for line in text.splitlines()) < 30


def test_a_new_backbone(followed: Followed) -> None:
    followed.printed("## A new backbone")
    assert followed.result("sample-pooled-simulated-*")["vanilla"]["dev_weighted_f1"] > 0.3  # of six classes


def test_a_new_corpus(followed: Followed) -> None:
    assert "shop (shop-3) in data/shop" in followed.printed("## A new corpus")
    (folder,) = (followed.at / "runs").glob("shop-gru-simulated-*")
    (run,) = load_runs(folder)
    table = run.table()
    assert table.classes == ("glad", "calm", "cross")
    assert table.labels.tolist() == [1, 2]


def test_a_new_llm(followed: Followed) -> None:
    assert "cost            nothing" in followed.printed("## A new LLM")
    llm = followed.result("sample-gru-mine-*")["llm"]
    assert llm["model"] == "openai/my-model"
    assert llm["failed_fields"] == 0
    assert followed.asked == llm["calls"] > 0


def test_a_new_prompt(followed: Followed) -> None:
    out = followed.printed("## A new prompt")
    assert "You coach actors" in out
    assert "lines, please." in out
    results = [json.loads(path.read_text()) for path in (followed.at / "runs").glob("sample-gru-*/metrics.json")]
    assert "actor" in {result["prompt"]["name"] for result in results}


def test_from_python(followed: Followed) -> None:
    lines = followed.printed(FROM_PYTHON).splitlines()
    assert "LLM simulated helps gru (refine.coverage=3) cannot be decided yet" in lines[-2]
    assert re.fullmatch(r"\[\d \d\]", lines[-1])
