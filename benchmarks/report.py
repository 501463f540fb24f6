"""How long a report over many runs takes and how large it is: ``python -m benchmarks.report``.

Makes a sweep of IEMOCAP's size (2,170 test turns in 31 dialogues, three fields each): 2 backbones, 2 LLMs, 5 seeds;
then copies of it under other seeds up to 100 run folders.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from lantern.files import write_json
from tests.results.made_runs import write_run


def main() -> None:
    """Make the runs, compare them, print seconds and megabytes."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch) / "runs"
        for backbone in ("corect", "sdt"):
            for llm in ("gpt-4o", "llama-3.1-405b"):
                for seed in range(5):
                    write_run(runs, backbone, llm, seed, turns=2170, length=70, coverage=3)
        _compare(runs, Path(scratch) / "out")
        for folder in sorted(runs.iterdir()):
            for number in range(1, 5):
                copy(folder, folder.with_name(f"{folder.name}-copy{number}"), 5 * number)
        _compare(runs, Path(scratch) / "out")


def copy(run: Path, target: Path, later: int) -> None:
    """A run folder like *run*, under a seed that is *later*."""
    shutil.copytree(run, target)
    config = yaml.safe_load((target / "config.yaml").read_text())
    result = json.loads((target / "metrics.json").read_text())
    config["seed"] = result["seed"] = result["seed"] + later
    (target / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(target / "metrics.json", result)


def _compare(runs: Path, out: Path) -> None:
    for arguments in ([str(runs)], [str(runs), "--out", str(out)]):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "experiments.compare", *arguments], check=True, capture_output=True)
        seconds = time.monotonic() - start
        what = "table and report" if len(arguments) > 1 else "table"
        print(f"{len(list(runs.iterdir()))} runs, {what}: {seconds:.1f} s")
    print(f"  report.html: {(out / 'report.html').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
