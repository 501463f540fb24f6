"""What only the run finds out: it ends in one line, and what was done is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bad_inputs.place import Case, Place, Prepare, cases, check, tiny
from tests.llm_server import LLMServer


def _asking(place: Place, address: str) -> list[str]:
    kept = [setting for setting in tiny(place.at) if not setting.startswith("llm=")]
    return [*kept, "llm=vllm", f"llm.api_base={address}", "llm.retries=0", "refine.limit_dialogues=1"]


def _weights(place: Place) -> Path:
    return next((place.made / "runs").glob("*/checkpoints/best.ckpt"))


def _reads(place: Place) -> list[str]:
    place.folder("runs")
    place.folder("runs/test_reads.jsonl")
    return tiny(place.at)


STARTED: list[Case] = [
    (
        "nobody listens",
        lambda p: _asking(p, "http://127.0.0.1:9/v1"),
        "api_base=http://127.0.0.1:9",
        "start the server",
    ),
    ("port that is none", lambda p: _asking(p, "http://127.0.0.1:99999/v1"), "127.0.0.1:99999", "65535"),
    (
        "weights that are text",
        lambda p: tiny(p.at, f"backbone.init_from={p.file('w.pt', 'x')}"),
        "w.pt: not a safetensors file or a plain state dict",
    ),
    (
        "weights of another size",
        lambda p: tiny(p.at, "backbone.hidden=8", f"backbone.init_from={_weights(p)}"),
        "best.ckpt does not fit backbone gru",
        "size mismatch",
    ),
    ("training goes astray", lambda p: tiny(p.at, "backbone.lr=1e30"), "backbone.lr=1e+30", "lower backbone.lr"),
    ("no memory holds it", lambda p: tiny(p.at, "backbone.hidden=9999999999"), "backbone=gru", "lower backbone.hidden"),
    ("record that is a list", lambda p: p.stage("done.json", "[]"), "done.json is damaged; delete the folder"),
    ("record that is empty", lambda p: p.stage("done.json", '{"record": {}}'), "done.json is damaged; delete the"),
    ("predictions cut off", lambda p: p.stage("vanilla.test.*", '{"schema": 1'), "vanilla.test.", "delete that file"),
    ("reads that are a folder", _reads, "test_reads.jsonl: Is a directory", "the same command goes on"),
]


@cases(STARTED)
def test_what_only_the_run_finds(prepare: Prepare, told: tuple[str, ...], place: Place) -> None:
    code, out, err = place.call("run", *prepare(place))
    check(code, err, told)
    assert "Traceback" not in out


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[str]:
    with LLMServer([request.param]) as server:
        yield server.url


@pytest.mark.parametrize(
    ("answering", "told"),
    [
        ("401", ("auth", "check the key")),
        ("404", ("not_found", "check llm.model and llm.api_base")),
        ("html", ("bad_body", "no LLM server")),
        ("quota", ("quota", "no credit left")),
        ("reset", ("connection", "check llm.api_base and the network")),
    ],
    indirect=["answering"],
)
def test_a_server_that_answers_nothing(answering: str, told: tuple[str, ...], place: Place) -> None:
    code, _, err = place.call("run", *_asking(place, answering))
    check(code, err, ("llm=vllm", "answered none of", *told, "the same command goes on"))
    assert list(place.at.glob("runs/*/metrics.json")) == []


def test_a_full_disk_is_one_line(place: Place) -> None:
    real = Path.open

    def full(self: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if "w" in mode and self.name.startswith("vanilla."):
            raise OSError(28, "No space left on device", str(self))
        return real(self, mode, *more, **options)

    place.patch.setattr(Path, "open", full)
    code, _, err = place.call("run", *tiny(place.at))
    check(code, err, ("No space left on device", "the same command goes on"))
