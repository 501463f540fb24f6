from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lantern.errors import UserError
from lantern.files import atomic, digest, write_json
from lantern.pipeline.store import StageStore


def test_digest_ignores_key_order_and_refuses_nan() -> None:
    assert digest({"a": 1, "b": [1.5, None]}) == digest({"b": [1.5, None], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    # Of SHA-256 of '{"a":1}': what an earlier version stored is found again.
    assert digest({"a": 1}) == "015abd7f5cc57a2d"
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


def test_a_stage_is_done_once(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    with store.open("train", {"seed": 0}) as stage:
        assert stage.record is None
        stage.finish({"score": 0.5})
    with store.open("train", {"seed": 0}) as stage:
        assert stage.record == {"score": 0.5}
    with store.open("train", {"seed": 1}) as stage:
        assert stage.record is None
    with store.open("weight", {"seed": 0}) as stage:
        assert stage.record is None


def test_a_stage_that_was_only_begun_is_not_done(tmp_path: Path) -> None:
    store = StageStore(tmp_path)
    assert not store.done("train", {})
    assert list(tmp_path.iterdir()) == []
    with store.open("train", {}) as stage:
        assert not store.done("train", {})
        stage.finish({})
    assert store.done("train", {})


def test_the_second_comer_waits(tmp_path: Path) -> None:
    store, order = StageStore(tmp_path), []
    entered = threading.Event()

    def other() -> None:
        entered.set()
        with store.open("train", {}) as stage:
            order.append(stage.record)

    with store.open("train", {}) as stage:
        thread = threading.Thread(target=other)
        thread.start()
        entered.wait()
        thread.join(0.2)
        assert order == []
        stage.finish({"by": "first"})
    thread.join(100)
    assert order == [{"by": "first"}]


def test_damage_is_told(tmp_path: Path) -> None:
    with StageStore(tmp_path).open("train", {}) as stage:
        for content in ("{", "{}"):
            stage.path.joinpath("done.json").write_text(content)
            with pytest.raises(UserError, match="damaged"):
                _ = stage.record


def test_write_json_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n "a": 1\n}\n'


def test_what_could_not_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"a": 1})

    def half() -> None:
        with atomic(path) as partial:
            partial.write_text("half of it")
            raise RuntimeError("disk gone")

    with pytest.raises(RuntimeError, match="disk gone"):
        half()
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]
    assert path.read_text() == '{\n "a": 1\n}\n'


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("a file where the folder would be")
    with pytest.raises(UserError, match=r"runs: cannot write to .*/train/"), StageStore(tmp_path).open("train", {}):
        pass
