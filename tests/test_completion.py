"""What the shell offers for ``lantern``."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from experiments.__main__ import COMMANDS, dispatch
from lantern.errors import UserError

SHOW = """
COMP_LINE=$1 COMP_POINT=${#1}
COMPREPLY=()
compopt() { echo "nospace"; }
_lantern
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash() -> str:
    from experiments.cli.completion import script

    return script("bash", COMMANDS)


def offered(bash: str, typed: str) -> list[str]:
    done = subprocess.run(["bash", "-c", bash + SHOW, "bash", typed], capture_output=True, text=True, cwd="/")
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("lantern ", list(COMMANDS)),
        ("lantern re", ["replay"]),
        ("lantern run backb", None),
        ("lantern run backbone=cor", ["corect", "corect_meld", "corect_small"]),
        ("lantern run seed=1 llm=smo", ["smollm2"]),
        ("lantern run trainer.epo", ["nospace", "trainer.epochs="]),
        ("lantern plan refine.max_c", ["nospace", "refine.max_cost="]),
        ("lantern run --config backbone.hid", ["nospace", "backbone.hidden="]),
        ("lantern compare /de", ["/dev"]),
        ("lantern compare nothing=s", []),
    ],
)
def test_bash_completes(bash: str, typed: str, words: list[str] | None) -> None:
    found = offered(bash, typed)
    if words is None:
        assert {"backbone=sdt", "backbone.lr="} <= set(found)
    else:
        assert found == words


def test_every_shell_gets_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert dispatch(["completion", shell]) == 0
        out = capsys.readouterr().out
        assert "COMMANDS" not in out
        assert "SETTINGS" not in out
        for word in (*COMMANDS, "backbone=sdt", "refine.max_cost="):
            assert word in out
    with pytest.raises(UserError, match="lantern completion csh: choose the shell: bash, zsh, fish"):
        dispatch(["completion", "csh"])
    with pytest.raises(UserError, match="lantern completion: choose the shell"):
        dispatch(["completion"])
