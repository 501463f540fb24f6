"""The wheel: it holds the configurations and the commands, and works from any folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from lantern.config.groups import GROUPS, choices

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    at = tmp_path_factory.mktemp("wheel")
    source = at / "source"
    for name in ("lantern", "experiments", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    done = subprocess.run([*pip, "-w", str(at)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = at.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(at / "site")
    return at / "site"


def lantern(site: Path, at: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``lantern`` with *arguments* in the folder *at*, with the project from *site* only."""
    command = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(command, cwd=at, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)})


def test_the_wheel_holds_the_configurations_the_commands_and_no_tests(site: Path) -> None:
    for group in GROUPS:
        assert sorted(path.stem for path in (site / "lantern" / "configs" / group).glob("*.yaml")) == choices(group)
    for path in ROOT.glob("lantern/**/*"):
        if path.is_file() and path.suffix != ".pyc":
            assert (site / path.relative_to(ROOT)).is_file()
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"lantern", "experiments"}
    (script,) = site.glob("*.dist-info/entry_points.txt")
    assert "lantern = experiments.__main__:main" in script.read_text()


def test_it_plans_and_runs_from_another_folder(site: Path, tmp_path: Path) -> None:
    done = lantern(site, tmp_path, "plan", "llm=gpt-4o", "corpus.dialogues=15", "backbone=gru")
    assert done.returncode == 0, done.stderr
    assert "one prompt" in done.stdout
    done = lantern(
        site, tmp_path, "run", "backbone=gru", "llm=simulated", "corpus.dialogues=15", "weighting.fit_on=dev"
    )
    assert done.returncode == 0, done.stderr
    assert "run folder: runs/sample-gru-simulated-seed0" in done.stdout
    assert len(list(tmp_path.glob("runs/*/metrics.json"))) == 1


def test_files_of_the_current_folder_come_first(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "llm"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: mine\nmodel: openai/mine\nremote: false\n")
    (folder / "gpt-4.yaml").write_text("defaults: [gpt-4o, _self_]\ntemperature: 0.5\n")
    done = lantern(site, tmp_path, "run", "-m", "llm=mine,gpt-4", "--config")
    assert done.returncode == 0, done.stderr
    assert "model: openai/mine" in done.stdout
    assert "model: openai/gpt-4o\n" in done.stdout
    assert "temperature: 0.5" in done.stdout
    done = lantern(site, tmp_path, "run", "llm=min")
    assert done.stderr.startswith("error: llm=min: no such llm. Did you mean 'mine'? Valid: azure, bedrock")
    assert "mine," in lantern(site, tmp_path, "run", "--help").stdout


def test_lantern_names_its_commands(site: Path, tmp_path: Path) -> None:
    done = lantern(site, tmp_path, "--help")
    assert done.returncode == 0
    for name in ("run", "plan", "compare", "status", "import", "predict", "ledger", "inspect", "features"):
        assert f"\n  {name} " in done.stdout
        assert "usage: " in lantern(site, tmp_path, name, "--help").stdout
    done = lantern(site, tmp_path, "rum")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no command 'rum'. Did you mean 'run'? Valid: run, plan")
    assert done.stderr.count("\n") == 1
