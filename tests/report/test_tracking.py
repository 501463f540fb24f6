from __future__ import annotations

import csv
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli.command_line import expand
from experiments.run import main
from lantern.config.schema import TrackingConfig
from lantern.errors import UserError
from lantern.files import locked
from lantern.report.sinks.tracking import append_csv, wandb_sweep
from lantern.report.sinks.wandb_sink import _mode, reachable
from lantern.results.load import read_run
from lantern.results.summary import FACTS, SUMMARY_KEYS, facts, flat_summary
from tests.composed import compose
from tests.processes import done
from tests.report.wandb_files import inspect
from tests.results.made_runs import write_run

Tiny = Callable[..., list[str]]


def test_every_run_has_the_same_keys(tmp_path: Path) -> None:
    with_llm = read_run(write_run(tmp_path, "gru", "gpt-4o", 0)).result
    without = read_run(write_run(tmp_path, "gru", "none", 0)).result
    assert tuple(flat_summary(with_llm)) == tuple(flat_summary(without)) == SUMMARY_KEYS
    assert None not in flat_summary(with_llm).values()
    assert flat_summary(without)["test/weighted/accuracy"] is None
    assert flat_summary(without)["test/vanilla/accuracy"] == without["test"]["methods"]["vanilla"]["accuracy"]


def test_what_a_run_is(tmp_path: Path) -> None:
    result = read_run(write_run(tmp_path, "gru", "none", 4)).result
    found = facts(compose(["backbone=gru", "llm=simulated", "seed=4"]), result, tmp_path / "name")
    assert tuple(found) == FACTS
    assert (found["run"], found["seed"], found["backbone"], found["llm"]) == ("name", 4, "gru", "none")


def append_many(runs: Path, folder: Path, worker: int, gate: Any) -> None:
    gate.wait()
    for number in range(10):
        append(runs, folder, 10 * worker + number)


def append(runs: Path, folder: Path, number: int) -> None:
    result = read_run(folder).result
    append_csv(runs, {**dict.fromkeys(FACTS, "x"), "run": f"run{number}"}, result)


def test_processes_add_whole_lines_to_one_file(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "gru", "gpt-4o", 0, turns=40)
    context = get_context("fork")
    gate = context.Barrier(8)
    workers = [context.Process(target=append_many, args=(tmp_path, folder, number, gate)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    append(tmp_path, folder, 3)  # typed again
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["run"] for row in rows) == sorted(f"run{number}" for number in range(80))
    assert list(rows[0]) == [*FACTS, *SUMMARY_KEYS]
    assert (tmp_path / "results.csv").read_text().count("run,time") == 1
    assert all(None not in row.values() for row in rows)


def test_a_line_waits_for_the_one_that_is_being_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "gru", "gpt-4o", 0, turns=40)
    worker = get_context("fork").Process(target=append, args=(tmp_path, folder, 1))
    with locked(tmp_path / "results.csv.lock"):
        worker.start()
        worker.join(timeout=0.5)
        waiting = worker.is_alive()
    worker.join(timeout=100)
    assert waiting
    assert worker.exitcode == 0
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 2


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "gru", "gpt-4o", 0, turns=40)
    (tmp_path / "results.csv").write_text("run,accuracy\nold,0.5\n")
    append(tmp_path, folder, 0)
    append(tmp_path, folder, 1)
    assert (tmp_path / "results.csv").read_text() == "run,accuracy\nold,0.5\n"
    (other,) = tmp_path.glob("results-*.csv")
    assert len(other.read_text().splitlines()) == 3


def test_a_sweep_file_has_the_grid_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        "backbone=corect,sdt",
        "llm=gpt-4o",
        "model.dimensions=true,false",
        "seed=range(3)",
        "trainer.epochs=3",
    ]
    assert main(["-m", *overrides, "--wandb-sweep"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert found["method"] == "grid"
    assert found["parameters"] == {
        "backbone": {"values": ["corect", "sdt"]},
        "llm": {"value": "gpt-4o"},
        "model.dimensions": {"values": [True, False]},
        "seed": {"values": [0, 1, 2]},
        "trainer.epochs": {"value": 3},
    }
    assert found["command"][-3:] == ["tracking=wandb", "tracking.online=true", "${args_no_hyphens}"]
    trials = 1
    for parameter in found["parameters"].values():
        trials *= len(parameter.get("values", [0]))
    assert trials == len(expand(overrides))
    with pytest.raises(UserError, match="seed=interval"):
        wandb_sweep(["seed=interval(0,1)"])


class _Forbidden(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *arguments: Any) -> None:
        pass


def test_any_answer_is_reached_and_silence_is_not() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Forbidden)
    threading.Thread(target=server.handle_request, daemon=True).start()
    assert reachable(f"http://127.0.0.1:{server.server_port}", 60)
    server.server_close()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        assert not reachable(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.3)
        assert time.monotonic() - start < 30


def test_online_without_key_or_network_falls_back_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = TrackingConfig(name="wandb", online=True)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "no key for 127.0.0.1" in _mode(online)[1][0]
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert _mode(online)[0] is False
    assert "does not answer" in _mode(online)[1][0]
    assert _mode(TrackingConfig(name="wandb")) == (False, [])


@pytest.mark.slow
def test_a_server_that_refuses_costs_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe is answered, what W&B wants of the server is not."""
    server = HTTPServer(("127.0.0.1", 0), _Forbidden)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    folder = write_run(tmp_path, "gru", "gpt-4o", 0, turns=40)
    code = (
        "import sys; from pathlib import Path; from lantern.config.compose import compose;"
        "from lantern.results.load import read_run;"
        "from lantern.report.sinks.tracking import track; folder = Path(sys.argv[1]);"
        "config = compose(['tracking=wandb', 'tracking.online=true']);"
        "track(config, read_run(folder).result, folder, print)"
    )
    environment = {**os.environ, "WANDB_BASE_URL": address, "WANDB_API_KEY": "k" * 40}
    ended = done("-c", code, folder, environment=environment)
    server.shutdown()
    server.server_close()
    assert ended.returncode == 0, ended.stderr
    assert "written offline" in ended.stdout
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_an_offline_sweep_is_read_back_by_wandbs_own_command(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lantern.corpora.sample.generator import generate_sample

    monkeypatch.setenv("WANDB_API_KEY", "planted-wandb-key-0123456789abcdef01234567")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-value")
    assert main(["-m", *tiny("tracking=wandb", "trainer.epochs=2", "weighting.guard=false", "seed=0,1")]) == 0
    logs = sorted((tmp_path / "runs").glob("*/wandb/offline-run-*/*.wandb"))
    (whole,) = (tmp_path / "runs").glob("sweeps/*/wandb/offline-run-*/*.wandb")
    assert len(logs) == 2
    told = json.loads(inspect(logs[0], "--summary"))
    assert {"tables/changed", "tables/weights_by_band"} <= set(told["summary"])
    charts = {f"charts/{kind}_{method}_table" for kind in ("confusion", "f1") for method in ("vanilla", "weighted")}
    assert charts | {"charts/reliability_table"} <= set(told["summary"])
    assert set(SUMMARY_KEYS) <= set(told["summary"])
    assert told["project"] == "lantern-sample-sample-6"
    assert told["tags"] == ["gru", "simulated", "scores"]
    records = [json.loads(line) for line in inspect(logs[0]).splitlines()]
    run = next(record["run"] for record in records if record["type"] == "run")
    assert run["job_type"] == "evaluate"
    assert run["run_group"].startswith("sweep-")
    history = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert sorted({item["train/epoch"] for item in history if "train/epoch" in item}) == [0, 1]
    assert any("train/dev/weighted_f1" in item for item in history)
    assert [item["weighting/epoch"] for item in history if "weighting/loss" in item][:1] == [0]
    steps = [record["metric"] for record in records if record["type"] == "metric"]
    assert {"train/epoch", "weighting/epoch"} <= {metric.get("step_metric") for metric in steps}
    assert json.loads(inspect(whole, "--summary"))["summary"]["sweep/backbone_by_llm"]["nrows"] == 1
    texts = [u.text.encode() for u in generate_sample(dialogues=15).utterances if len(u.text) > 20]
    for path in (p for p in (tmp_path / "runs").rglob("wandb/**/*") if p.is_file()):
        content = path.read_bytes()
        assert b"planted" not in content, path
        assert not any(text in content for text in texts), path


@pytest.mark.slow
def test_csv_and_none_import_no_wandb(tiny: Tiny, tmp_path: Path) -> None:
    code = (
        "import sys; from experiments.run import main; main(sys.argv[1:]); assert 'wandb' not in sys.modules, 'wandb'"
    )
    given = tiny("tracking=csv", "trainer.epochs=1")
    ended = done("-c", code, *given)
    assert ended.returncode == 0, ended.stderr
    assert "results of all runs" in ended.stdout
    assert len((tmp_path / "runs" / "results.csv").read_text().splitlines()) == 2
