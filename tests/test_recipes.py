"""Every command in the documents, the configuration files and the experiments is run as written, at a small size."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import re
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import hub
from lantern.config.compose import compose
from lantern.config.groups import CONFIG_DIR, choices
from lantern.pipeline.preflight import preflight
from lantern.results.sweep import read_sweep
from tests.documented import DOCUMENTS, ROOT, commands, fill, in_comments, write_raw, write_recordings
from tests.llm_server import LLMServer

NOT_RUN = {
    r"make run": "sets up an environment, from the network",
    r"make test": "likewise",
    r"make lint": "likewise",
    r"source \.venv/bin/activate": "belongs to the shell that types it",
    r"\.venv/bin/pip install .*": "the network",
    r"python -m experiments\.examples\.api": "tests/test_api.py runs it",
    r".* hydra/launcher=.*": "wants Ray or Slurm; tests/test_sweep.py goes through a launcher",
}
"""Commands that no test can run, as regular expressions over the whole command, and why."""
NEEDS = {r".*--modality visual.*": ("cv2", "ai_edge_litert", "fer"), r".*--extractor is10.*": ("opensmile",)}
"""Packages of extras without which a command cannot be tried."""
SMALL = ["trainer.epochs=1", "trainer.threads=1", "corpus.dialogues=10", "refine.limit_dialogues=1", "oof.folds=2"]
SMALL += ["backbone.hidden=56", "weighting.epochs=2", "weighting.guard=false"]
_LATER = re.compile(r"\bseed=[2-9]")
TEXTS = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in DOCUMENTS}
DOCUMENTED = list(dict.fromkeys(command for text in TEXTS.values() for command in commands(text)))
QUICK = list(dict.fromkeys(commands(TEXTS[Path("README.md")])))
"""Tried by ``make test`` as well."""
COMMENTED = [command for command in dict.fromkeys(in_comments()) if command not in DOCUMENTED]
EXPERIMENTS = choices("experiment")


@pytest.fixture(scope="module")
def server() -> Iterator[LLMServer]:
    """Takes the place of every LLM that is not in this process; one reply in five is a refusal."""
    with LLMServer({"right": 0.8, "refusal": 0.2}) as running:
        yield running


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, server: LLMServer) -> Path:
    """The folder in which all commands are typed: raw corpora, imported ones, a chat, and a finished run, ``one``,
    on MELD's text, whose LLM refused now and then."""
    place = tmp_path_factory.mktemp("recipes")
    write_raw(place / "raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        best = "defaults: [override /backbone: gru]\nbackbone: {name: gru, lr: 0.002}\nmodel: {class_weights: none}\n"
        Path("tuned.yaml").write_text(best)
        Path("chat.txt").write_text("Ann: we won!\nBob: that is wonderful\n")
        example = CONFIG_DIR.parent / "tests" / "examples" / "custom"
        custom = ["--transcript", f"{example}/transcript.csv", "--label-set", f"{example}/labels.yaml"]
        custom += ["--score-range", "1,5"]
        execute("experiments.import_corpus", ["custom", *custom, "--no-features", "--out", "data/shop"])
        write_recordings(Path("data/shop"), Path("raw"))
        execute("experiments.import_corpus", ["meld", "--csv", "raw/meld", "--out", "data/meld"])
        release = ["iemocap", "--release", "raw/IEMOCAP_full_release"]
        execute("experiments.import_corpus", [*release, "--out", "data/iemocap"])
        execute("experiments.import_corpus", [*release, "--no-features", "--out", "data/iemocap-raw"])
        asked = ["llm=vllm", f"llm.api_base={server.url}", "weighting.fit_on=dev"]
        # Of a corpus folder that no command changes.
        execute("experiments.import_corpus", ["meld", "--csv", "raw/meld", "--out", "data/kept"])
        taken = ["corpus=meld", "corpus.path=data/kept", "backbone=gru", "refine.limit_dialogues=4"]
        execute("experiments.run", [*asked, *SMALL, *taken])
        (run,) = Path("runs").glob("*/metrics.json")
        Path("one").symlink_to(run.parent)
        execute("experiments.ledger", ["export", "answers.jsonl"])
        execute("experiments.compare", ["one", "--bundle", "docs/results/meld"])
    return place


@pytest.mark.parametrize(
    "command",
    [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in (*DOCUMENTED, *COMMENTED) if one not in QUICK)],
    ids=lambda command: command[-60:],
)
def test_a_documented_command_works(
    command: str, workshop: Path, server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(re.fullmatch(pattern, command) for pattern in NOT_RUN):
        for package in itertools.chain(*(names for pattern, names in NEEDS.items() if re.fullmatch(pattern, command))):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        monkeypatch.chdir(workshop)
        type_in(command, server, monkeypatch)


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```", TEXTS[Path("docs/tracking.md")], re.M | re.S))
def test_documented_code_works(code: str, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    exec(code.replace("runs/<one>", "one"), {})


def test_what_is_not_run_is_documented() -> None:
    for pattern in NOT_RUN:
        assert any(re.fullmatch(pattern, command) for command in DOCUMENTED), f"{pattern} matches nothing any more"


@pytest.mark.parametrize("document", TEXTS, ids=str)
def test_links_and_benchmarks_exist(document: Path) -> None:
    text = TEXTS[document]
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        path = (ROOT / document.parent / file) if file else ROOT / document
        assert path.exists(), f"{document} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{document} links to {target}"
    for module in re.findall(r"python -m (benchmarks\.\w+)", text):
        assert importlib.util.find_spec(module), f"{document} names {module}"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python -m experiments.run backbone=corekt", "ended with 2"),
        ("python -m experiments.run -m llm=simulated,simulatd", "ended with 2"),
        ("python -m experiments.run corpus=meld corpus.paht=data/meld", "ended with 2"),
        ("python -m experiments.run corpus=meld corpus.path=data/mled backbone=gru", "ended with 2"),
        ("python -m experiments.plan --cheap", "ended with 2"),
        ("python -m experiments.predict chatt.txt --run runs/<one>", "ended with 2"),
        (
            "python -m experiments.import_corpus meld --csvs <folder of the CSVs> --out data/meld",
            "no value for <fold",
        ),
        ("python -m experiments.import_corpus sample --ouput data/sample", "ended with 2"),
        ("python -m experiments.ledgers stats", "experiments.ledgers"),
        ("make rnu", "NOT_RUN"),
    ],
)
def test_a_documented_mistake_is_noticed(
    command: str, message: str, workshop: Path, server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workshop)
    with pytest.raises((AssertionError, ImportError), match=message):
        type_in(command, server, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_file_starts_with_its_command_which_runs(
    name: str, workshop: Path, server: LLMServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, command, question = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[:3]
    assert head == "# @package _global_"
    assert command.split()[:5] == ["#", "python", "-m", "experiments.run", f"experiment={name}"]
    assert question.startswith("# ")
    monkeypatch.chdir(workshop)
    arguments = type_in(command.removeprefix("# "), server, monkeypatch)
    if name == "simulate":
        assert Path("runs/simulate.json").is_file()
        return
    sweeps = [read_sweep(path.parent) for path in Path("runs").glob("sweeps/*/sweep.json")]
    mine = [sweep for sweep in sweeps if sweep.trials[0].overrides[: len(arguments)] == tuple(arguments)]
    folders = [trial.folder for sweep in mine for trial in sweep.trials]
    if not mine:
        folders = [preflight(config).folder for config in hub.variants_of(arguments).values()]
        assert len(folders) == 1
    assert len(set(folders)) == len(folders), "two variants are the same run"
    assert all((folder / "metrics.json").is_file() for folder in folders)


def test_variants_multiply_with_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    execute("experiments.run", ["-m", "experiment=causal", "seed=0,1", "--config"])
    told = re.findall(r"^(?:seed|  context): (\w+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(zip(told[::2], told[1::2])) == [(s, c) for s in "01" for c in ("both", "causal")]


def test_the_hub_has_a_row_for_every_experiment_and_no_other() -> None:
    tables = hub.read_tables(hub.parted(hub.HUB.read_text(encoding="utf-8"))[1])
    for corpus in ("sample", "meld"):
        named = {row.strip("`") for row in tables[corpus]}
        assert named == set(EXPERIMENTS) - set(hub.LEFT_OUT[corpus])


def test_a_row_measured_again_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text(hub.HUB.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(hub, "HUB", tmp_path / "README.md")
    before = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    hub.keep("meld", "causal", ["small", "2", "3s (4s)", "5", "6 GB", "7"])
    hub.keep("backbones", "`gru` | sample", ["30", "0.1 s", "50", "50"])
    after = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    changed = [line for line in after if line not in before]
    assert changed == ["| `causal` | small | 2 | 3s (4s) | 5 | 6 GB | 7 |", "| `gru` | sample | 30 | 0.1 s | 50 | 50 |"]
    assert len(after) == len(before)


def type_in(command: str, server: LLMServer, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a documented command at small size, in this process; returns the arguments that it was given."""
    words = fill(command)
    target = Path(words[-1]) if ">" in words[:-1] else None
    words = words if target is None else words[: words.index(">")]
    assert words[:2] == ["python", "-m"], f"{command}: not a command that can be tried; NOT_RUN is the place for it"
    module, arguments = words[2], words[3:]
    if module in ("experiments.run", "experiments.plan"):
        arguments = small(module, arguments, server)
        monkeypatch.setenv("OPENAI_API_KEY", "planted")
    elif module == "experiments.finetune_text":
        arguments = [*arguments, "encoder.epochs=1", "encoder.frozen_epochs=0", "trainer.threads=1"]
    elif module == "experiments.import_corpus" or (module, *arguments[:1]) == ("experiments.ledger", "export"):
        arguments = [*arguments, "--overwrite"]  # an earlier command may have written it
    with contextlib.ExitStack() as stack:
        if target is not None:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(target.open("w", encoding="utf-8"))))
        execute(module, arguments)
    return arguments


def small(module: str, arguments: list[str], server: LLMServer) -> list[str]:
    """The arguments of a run or a plan, cut down: a tiny model, few dialogues, two runs per sweep, two seeds per
    experiment, no LLM to wait for."""
    if "--help" in arguments:
        return arguments
    overrides = [a for a in arguments if "=" in a and not a.startswith(("plan=", "hydra", "search="))]
    sweep = [a for a in arguments if a in ("-m", "--multirun") or a.startswith("search=")]
    # As written, so that no mistake hides behind what is added below.
    execute("experiments.run", [*sweep, *overrides, "--config"])
    varied = [override for override in overrides if "interval(" not in override]
    one = compose([shortened(override, 1) for override in varied] if sweep else overrides)
    if one.study is not None:
        return [*arguments, "study.seeds=1", "study.fit=60", "study.test=100", "weighting.epochs=2"]
    instead = "llm=simulated llm.elicitation=words"  # as the small LLM is asked
    few = [variant.replace("llm=smollm2", instead) for variant in one.variants if not _LATER.search(variant)]
    size = [*SMALL, *([f"variants={json.dumps(few)}"] if few != one.variants else [])]
    if one.corpus.name != "sample":
        size.append("corpus.limit_dialogues=20")
    if sweep:
        arguments = swept_less([re.sub(r"^search=\d+$", "search=2", argument) for argument in arguments])
    if module == "experiments.plan":
        return [*arguments, *size]
    if one.llm.name in ("smollm2", "simulated"):
        return [*(a for a in arguments if not a.startswith("llm=")), "llm=simulated", *size]
    return [*arguments, f"llm.api_base={server.url}", *size]


def swept_less(arguments: list[str]) -> list[str]:
    """*arguments* with two values of the first key that has several, and one of the others."""
    found, count = [], 2
    for argument in arguments:
        found.append(shortened(argument, count))
        if found[-1] != shortened(argument, 1):
            count = 1
    return found


def shortened(argument: str, count: int) -> str:
    """``key=a,b,c`` with its first *count* values."""
    key, equals, value = argument.partition("=")
    plain_list = equals and not set(value) & set("[{('\"")
    return f"{key}={','.join(value.split(',')[:count])}" if plain_list else argument


def execute(module: str, arguments: list[str]) -> None:
    """What ``python -m module arguments`` does; a failure raises."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", [module, *arguments])
        warnings.filterwarnings("ignore", message=".*found in sys.modules.*", category=RuntimeWarning)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
    assert code == 0, f"python -m {module} {' '.join(arguments)} ended with {code}"
