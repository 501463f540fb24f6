"""Published results: the bundle holds no words, and computes the same table again; a changed one is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.compare import main as compare
from experiments.replay import main as replay
from experiments.run import main as run
from lantern.corpora.folder import Corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.environment import cores
from lantern.errors import UserError
from lantern.files import read_json
from lantern.pipeline.replay import bundle as bundles
from lantern.pipeline.replay.make import settings
from lantern.pipeline.replay.page import commands_of
from lantern.report.sinks.escaping import markdown
from lantern.results.load import Run
from lantern.results.sweep import Trial, sweep_of
from lantern.tables import columns
from tests.processes import ROOT, start, wait_until_gone

SMALL = ["backbone.hidden=16", "trainer.epochs=2", "weighting.epochs=3", "weighting.guard=false"]


@dataclasses.dataclass(frozen=True)
class Published:
    """Three runs on a corpus folder, and their bundle."""

    corpus: Corpus
    runs: Path
    folder: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    place = tmp_path_factory.mktemp("replay")
    corpus = generate_sample(dialogues=15)
    corpus.save(place / "corpus")
    runs, folder = place / "runs", place / "docs" / "results" / "sample"
    places = [f"runs={runs}", f"corpus.path={place / 'corpus'}"]
    assert run(["-m", "backbone=gru", "llm=simulated", "seed=0,1", *SMALL, *places]) == 0
    assert run(["backbone=gru", "refine.enabled=false", *SMALL, *places]) == 0
    assert compare([str(runs), "--bundle", str(folder)]) == 0
    return Published(corpus, runs, folder)


@pytest.fixture
def copy(published: Published, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published.folder, tmp_path / "bundle"))


def test_a_bundle_alone_gives_the_same_table_and_report(
    published: Published,
    copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(copy.parent)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert replay(["bundle", "--out", "out"]) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert re.fullmatch(r"  equal to the published numbers to the last digit \(2 rows, \d+ numbers\)", last)
    assert compare([str(published.runs), "--out", str(tmp_path / "before")]) == 0
    shown = capsys.readouterr().out
    assert compare([str(tmp_path / "out"), "--out", str(tmp_path / "after")]) == 0
    replayed = capsys.readouterr().out
    assert replayed.partition("included.")[0] == shown.partition("included.")[0]
    for name in ("table.csv", "table.tex", "table.md"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
    page = (tmp_path / "after" / "report.html").read_text(encoding="utf-8")
    for part in ("Confusion", "Reliability", "Weights by band", "Gain by context length", "Slices", "Learning curves"):
        assert part in page


def test_replayed_runs_hold_the_same_numbers(published: Published, tmp_path: Path) -> None:
    assert replay([str(published.folder), "--out", str(tmp_path / "out")]) == 0
    for folder in sorted(published.runs.glob("*/metrics.json")):
        before, after = (read_json(path) for path in (folder, tmp_path / "out" / folder.parent.name / "metrics.json"))
        assert before.keys() == after.keys()
        for key in before.keys() - {"folder", "test", "protocol"}:
            assert before[key] == after[key], key
        named = {part["slice"]: part for part in before["test"].pop("slices")}
        numbered = {part["slice"]: part for part in after["test"].pop("slices")}
        assert before["test"] == after["test"]
        assert named.keys() == numbered.keys() >= {"speaker", "text", "position in the dialogue"}
        speakers = [[str({**part, "part": ""}) for part in one.pop("speaker")["parts"]] for one in (named, numbered)]
        assert sorted(speakers[0]) == sorted(speakers[1])
        assert named == numbered


def words_of(folder: Path) -> Iterator[str]:
    """Every text in the files of *folder*: lines, and the cells of tables."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.suffix == ".parquet":
            table, about = columns.read(path, lambda name: True)
            yield json.dumps(about)
            for values in table.values():
                if values.dtype == object:
                    yield from (str(value) for value in values.reshape(-1))
        else:
            yield path.read_text(encoding="utf-8")


def test_no_word_of_a_transcript_is_in_a_bundle(published: Published) -> None:
    words = list(words_of(published.folder))
    raw = b"".join(path.read_bytes() for path in published.folder.rglob("*") if path.is_file())
    cells = set(words)
    for utterance in published.corpus.utterances:
        assert utterance.text not in cells
        if len(utterance.text) > 12:
            assert not any(utterance.text in one for one in words)
            assert utterance.text.encode() not in raw
    for speaker in {utterance.speaker for utterance in published.corpus.utterances}:
        assert not any(re.search(rf"\b{re.escape(speaker)}\b", one) for one in words), speaker
    assert all(u.id in cells for i in published.corpus.splits["test"] for u in published.corpus.by_id[i].utterances)
    assert str(published.runs.parent) not in "".join(words)


def test_settings_name_no_folder_and_no_server() -> None:
    config: dict[str, Any] = {
        "runs": "/home/ann/runs",
        "corpus": {"name": "meld", "path": "/data/meld"},
        "backbone": {"name": "sdt", "init_from": "/home/ann/weights.pt"},
        "llm": {"api_base": "http://gpu7:8000/v1", "embedded": "/models/qwen.gguf", "headers": {"x": "KEY"}},
        "refine": {"ledger": "postgresql://ann@db/lantern"},
        "prompt": {"system": "/not a path\nbut words"},
        "tracking": {"name": "wandb", "project": "mine", "group": "g"},
    }
    text = yaml.safe_dump(settings(config))
    for gone in ("ann", "/data", "gpu7", "/models", "KEY", "postgresql", "mine"):
        assert gone not in text
    for kept in ("weights.pt", "qwen.gguf", "/not a path"):
        assert kept in text


def test_commands_are_those_of_the_sweeps_without_paths(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name, {}, {}) for name in ("a", "b", "c")]
    pairs = [("seed=0", "a"), ("seed=1", "b")]
    fixed = ["llm=smollm2", "llm.embedded=/models/q.gguf", "runs=/somewhere", "backbone=gru"]
    sweep_of(tmp_path, [Trial((seed, *fixed), tmp_path / name) for seed, name in pairs]).save()
    assert commands_of(runs) == [
        "python -m experiments.run -m llm=smollm2 backbone=gru llm.embedded=q.gguf seed=0,1",
    ]
    shutil.rmtree(tmp_path / "sweeps")
    sweep_of(tmp_path, [Trial(("seed=0", "llm=a"), tmp_path / "a"), Trial(("seed=1", "llm=b"), tmp_path / "b")]).save()
    assert commands_of(runs) == [
        "python -m experiments.run seed=0 llm=a",
        "python -m experiments.run seed=1 llm=b",
    ]
    assert commands_of(runs[2:]) == []


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _edit(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("replay/*seed0*/test.parquet", _cut, "test.parquet is damaged or was changed"),
        ("replay/*seed1*/facts.json", _edit, "facts.json is damaged or was changed"),
        ("replay/*seed0*/config.yaml", Path.unlink, "config.yaml is missing"),
        ("bundle.json", _cut, "bundle.json cannot be read"),
        ("bundle.json", _edit, "bundle.json|a bundle of schema 2"),
        ("bundle.json", Path.unlink, "holds no bundle of results"),
    ],
)
def test_a_changed_bundle_is_refused(copy: Path, tmp_path: Path, file: str, change: Any, message: str) -> None:
    change(sorted(copy.glob(file))[0])
    with pytest.raises(UserError, match=message):
        replay([str(copy), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_number_that_differs_is_named(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = read_json(copy / bundles.FILE)
    row = content["tables"][0]["rows"][1]
    row["cells"]["weighted acc"] = "99.9"
    row["numbers"]["weighted_accuracy_mean"] += 1e-12
    bundles.seal(copy, content["runs"], content["tables"])
    assert replay([str(copy), "--out", str(tmp_path / "out")]) == 1
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last.startswith("  differs from the published numbers: row 'gru + simulated', column")
    assert "column 'weighted acc': published 99.9, replayed" in last
    assert last.count("published") == 2


def test_rounding_of_another_machine_is_said(published: Published) -> None:
    before = bundles.read_bundle(published.folder).tables
    now = json.loads(json.dumps(before))
    now[0]["rows"][0]["numbers"]["vanilla_nll_mean"] *= 1 + 1e-13
    found = bundles.check(before, now)
    assert not found.differing
    assert "equal to the published table to its last digit" in str(found)
    now[0]["rows"][0]["numbers"]["vanilla_nll_mean"] *= 1.01
    assert "column 'vanilla_nll_mean'" in str(bundles.check(before, now))
    assert "tables: published" in str(bundles.check(before, []))


def test_the_page_shows_the_table_and_keeps_what_was_written_around_it(
    published: Published, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = copy / "README.md"
    text = page.read_text(encoding="utf-8")
    for part in ("| setting |", "helped / harmed", "LLM seconds", "- machine:", "- prompt: scores", "fingerprint"):
        assert part in text
    assert "python -m experiments.run -m backbone=gru llm=simulated" in text
    assert "seed=0,1" in text
    assert "python -m experiments.replay docs/results/sample" in text
    page.write_text(f"{text.replace('# Results', '# My results', 1)}\nWhy: it is too small.\n", encoding="utf-8")
    assert compare([str(published.runs), "--bundle", str(copy)]) == 0
    again = page.read_text(encoding="utf-8")
    assert again.startswith("# My results")
    assert again.endswith("Why: it is too small.\n")
    assert again.count("| setting |") == 1
    row = next(line for line in again.splitlines() if line.startswith("| gru + simulated"))
    page.write_text(again.replace(row, row.replace("| 2 |", "| 3 |")), encoding="utf-8")
    assert replay([str(copy), "--out", str(tmp_path / "out")]) == 1
    assert "README.md shows another table" in capsys.readouterr().out
    page.write_text("# Something else\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"README\.md was not made by --bundle"):
        compare([str(published.runs), "--bundle", str(copy)])
    assert page.read_text(encoding="utf-8") == "# Something else\n"
    assert bundles.read_bundle(copy).runs


PUBLISHED = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/bundle.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_what_this_repository_publishes_is_whole(folder: Path) -> None:
    page = (folder / "README.md").read_text(encoding="utf-8")
    for table in bundles.read_bundle(folder).tables:
        rows = [row["cells"] for row in table["rows"]]
        filled = [head for head in rows[0] if any(row[head] != "-" for row in rows)]
        for row in rows:
            assert f"| {' | '.join(markdown(row[head]) for head in filled)} |" in page


@pytest.mark.slow
def test_a_replay_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    process = start("-m", "experiments.replay", PUBLISHED[0], "--out", tmp_path / "out")
    end = time.monotonic() + 240
    while "1/" not in process.said:
        assert time.monotonic() < end
        time.sleep(0.05)
    workers = process.children
    assert len(workers) >= cores() or cores() == 1
    process.kill()
    wait_until_gone(workers)


def test_runs_of_another_version_are_published_with_a_warning(
    published: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    for folder in published.runs.glob("sample-*seed0*"):
        shutil.copytree(folder, runs / folder.name)
    (older,) = runs.glob("sample-gru-simulated*")
    result = read_json(older / "metrics.json")
    result["test"]["methods"]["vanilla"]["accuracy"] += 0.05
    (older / "metrics.json").write_text(json.dumps(result), encoding="utf-8")
    assert compare([str(runs), "--bundle", str(tmp_path / "out")]) == 1
    *_, differs, advice = capsys.readouterr().out.strip().splitlines()
    assert "column 'vanilla acc'" in differs
    assert advice.startswith("  another version of Lantern evaluated them: delete the metrics.json")


def test_git_takes_every_file_of_a_bundle_as_it_is(published: Published) -> None:
    files = [path.relative_to(published.folder) for path in published.folder.rglob("*") if path.is_file()]
    places = [f"docs/results/sample/{file.as_posix()}" for file in files]
    for command, expected in (("check-ignore --no-index", ""), ("check-attr text", "text: unset")):
        done = subprocess.run(["git", *command.split(), "--", *places], cwd=ROOT, capture_output=True, text=True)
        if done.returncode > 1:
            pytest.skip("not a checkout of git")
        assert all(line.endswith(expected) and expected for line in done.stdout.splitlines()), done.stdout


def test_replayed_runs_take_no_other_runs_place(published: Published) -> None:
    with pytest.raises(UserError, match="holds something else than replayed runs"):
        replay([str(published.folder), "--out", str(published.runs)])


def test_a_corpus_that_may_not_be_passed_on_is_not_published(published: Published, tmp_path: Path) -> None:
    place = tmp_path / "c"
    dataclasses.replace(published.corpus, redistribution="forbidden").save(place)
    runs = shutil.copytree(next(published.runs.glob("sample-*")), tmp_path / "runs" / "one")
    config = runs / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace(str(published.runs.parent / "corpus"), str(place)), encoding="utf-8")
    out = tmp_path / "docs" / "results" / "c"
    with pytest.raises(UserError, match="the licence of sample forbids passing it on"):
        compare([str(runs), "--bundle", str(out)])
    shutil.rmtree(place)
    with pytest.raises(UserError, match="no corpus"):
        compare([str(runs), "--bundle", str(out)])
    generate_sample(dialogues=15, seed=1).save(place)
    with pytest.raises(UserError, match="is not the corpus of the run any more"):
        compare([str(runs), "--bundle", str(out)])
    assert not out.parent.exists()


def test_an_incomplete_run_is_not_published(published: Published, tmp_path: Path) -> None:
    folder = shutil.copytree(next(published.runs.glob("sample-*")), tmp_path / "one")
    result = read_json(folder / "metrics.json")
    result["incomplete"] = {"answered": 1, "fields": 2, "reason": ""}
    (folder / "metrics.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(UserError, match="is incomplete; repeat its command"):
        compare([str(folder), "--bundle", str(tmp_path / "out")])


def test_numbers_are_in_the_table(published: Published, tmp_path: Path) -> None:
    compare([str(published.runs), "--out", str(tmp_path)])
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["reply_seconds"] for row in rows] == ["", "0.0"]
    test = [turn for name in published.corpus.splits["test"] for turn in published.corpus.by_id[name].utterances]
    labelled = sum(turn.label is not None for turn in test)
    for row in rows[1:]:
        changed = float(row["flips_helped"]) - float(row["flips_harmed"])
        assert changed / labelled == pytest.approx(float(row["difference_accuracy"]))
