"""The flow goes one way: each floor imports only floors below it; the request path needs no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    {"errors", "environment", "files", "settings"},
    {"corpora.types", "corpora.labels", "corpora.text_files"},
    {"tables"},
    {"corpora", "models"},
    {"metrics", "features"},
    {"refine", "weighting"},
    {"config"},
    {"results"},
    {"report"},
    {"pipeline"},
    {"api"},
    {"experiments"},
)
MODULES = [p for top in ("lantern", "experiments") for p in sorted((ROOT / top).rglob("*.py"))]


def floor(module: str) -> int | None:
    """Number of the most specific floor entry that holds *module* (dotted, without ``lantern.``)."""
    parts = module.split(".")
    for length in (2, 1):
        name = ".".join(parts[:length])
        for number, names in enumerate(FLOORS):
            if name in names:
                return number
    return None


def imported(path: Path) -> set[str]:
    """Modules of the project that *path* imports when it runs (type-checking imports do not count)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "lantern" else [node.module]
            found |= {n for n in names if n.startswith(("lantern.", "experiments"))}
    return {n.removeprefix("lantern.") for n in found}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    relative = path.relative_to(ROOT).with_suffix("")
    own = floor(".".join(relative.parts[1:]) if relative.parts[0] == "lantern" else "experiments")
    if own is None:
        assert path.name == "__init__.py"
        return
    for module in imported(path):
        below = floor(module)
        assert below is not None, f"{module} stands on no floor"
        assert below <= own, f"{relative} imports {module} from a floor above"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_request_path_needs_no_torch() -> None:
    modules = "config.compose, refine.questions, refine.backends.litellm_backend, refine.engine.engine, tables"
    code = "".join(f"import lantern.{m.strip()};" for m in modules.split(","))
    heavy = "{'torch', 'lightning', 'litellm', 'openai', 'wandb'}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys;{code} assert not {heavy} & set(sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


PACKAGES = sorted({path.parent for path in MODULES})


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_package_is_crowded(folder: Path) -> None:
    most = 6 if folder == ROOT / "lantern" else 12
    assert len(list(folder.glob("*.py"))) <= most


def test_no_imports_go_in_a_circle() -> None:
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("lantern."): imported(path)
        for path in MODULES
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"{' -> '.join(way)} -> {name}"
        if name in done or name not in names:
            return
        for other in sorted(names[name]):
            visit(other, (*way, name))
        done.add(name)

    for name in names:
        visit(name, ())
