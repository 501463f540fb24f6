"""Files of weights as others write them, and as nobody should."""

from __future__ import annotations

import argparse
import io
import pickle
import resource
import sys
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lantern.errors import UserError
from lantern.models.batch import Sizes
from lantern.models.corect.model import Model
from lantern.models.registry import init_backbone
from lantern.models.weights import Weights, WeightsError, read_weights
from tests.models.test_registry import DIMS, batch, published


class Net(nn.Module):
    """A module of a program that is not here."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in state.items():
            *path, last = name.split(".")
            at: nn.Module = self
            for part in path:
                if part not in at._modules:
                    at.add_module(part, nn.Module())
                at = at.get_submodule(part)
            at.register_buffer(last, value)
        self.something = [{1, 2}, argparse.Namespace(x=np.float64(1))]


def _args(**more: Any) -> argparse.Namespace:
    given = {
        "modalities": "atv",
        "wp": 2,
        "wf": 2,
        "edge_type": "temp_multi",
        "use_speaker": True,
        "crossmodal_nheads": 2,
    }
    return argparse.Namespace(**{**given, "self_att_nheads": 2, "device": "cuda", **more})


def _forms(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "model.pt": {"best_dev_f1": np.float64(0.7), "best_epoch": 3, "best_state": OrderedDict(state)},
        "iemocap_best_dev_f1_model_atv.pt": {"args": _args(), "state_dict": Net(state)},
        "whole.pt": Net(state),
    }


def _with_windows(expected: Any, **options: Any) -> Any:
    return Model(replace(expected.config, **options), Sizes(DIMS, classes=6, speakers=2)).eval()


@pytest.mark.parametrize("form", ["model.pt", "iemocap_best_dev_f1_model_atv.pt", "whole.pt"])
def test_the_files_of_the_published_code_predict_what_its_model_does(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, expected = published("corect")
    torch.save(_forms(state)[form], tmp_path / form)
    monkeypatch.delattr(sys.modules[__name__], "Net")  # a class that cannot be imported, as of another program
    fresh = _with_windows(expected)
    init_backbone(fresh, "corect", tmp_path / form)
    torch.testing.assert_close(fresh(batch()).logits, expected(batch()).logits)


@pytest.mark.parametrize("wf", [2, 5, 9, -1])
def test_a_window_that_the_file_names_must_be_that_of_the_model(wf: int, tmp_path: Path) -> None:
    state, expected = published("corect")
    torch.save({"args": _args(wf=wf), "state_dict": Net(state)}, tmp_path / "x.pt")
    right = wf - 1 if wf > 0 else -1
    init_backbone(_with_windows(expected, exact_published=False, future_window=right), "corect", tmp_path / "x.pt")
    init_backbone(_with_windows(expected, exact_published=True, future_window=wf), "corect", tmp_path / "x.pt")
    wrong = _with_windows(expected, exact_published=False, future_window=right + 1)
    with pytest.raises(UserError, match=rf"wf={wf}\); add backbone\.future_window={right}$"):
        init_backbone(wrong, "corect", tmp_path / "x.pt")


def test_a_window_that_nobody_names_is_asked_for(tmp_path: Path) -> None:
    state, expected = published("corect")
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"for wf=5, as published, add backbone\.future_window=4"):
        init_backbone(_with_windows(expected, exact_published=False, future_window=5), "corect", tmp_path / "x.pt")
    init_backbone(_with_windows(expected, exact_published=False, future_window=4), "corect", tmp_path / "x.pt")
    init_backbone(_with_windows(expected, exact_published=True, future_window=5), "corect", tmp_path / "x.pt")


def _quantised() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)


W = torch.ones(2, 3)
BAD = [
    ("sparse", lambda: {"w": W.to_sparse()}, "w is sparse"),
    ("sparse rows", lambda: {"w": W.to_sparse_csr()}, "w is sparse"),
    ("meta", lambda: {"w": W.to("meta")}, "w is without its numbers"),
    ("complex", lambda: {"w": W.to(torch.complex64)}, "w is complex"),
    ("quantised", lambda: {"w": _quantised()}, "w is "),
    ("eight bits", lambda: {"w": W.to(torch.float8_e4m3fn)}, "w is "),
    ("NaN", lambda: {"w": torch.full((2,), float("nan"))}, "w holds NaN or infinity"),
    ("infinity", lambda: {"a": W, "w": torch.tensor([1.0, float("inf")])}, "w holds NaN or infinity"),
    ("integer keys", lambda: {0: W}, "it has 0 for a name"),
    ("values that are lists", lambda: {"w": [1.0]}, "w is a list"),
    ("a list", lambda: [W], "no weights, which are tensors by name"),
    ("nothing", dict, "no weights"),
    ("huge by strides", lambda: {"w": torch.ones(1).expand(1_000_000, 1_000_000)}, "does not hold the numbers"),
]


@pytest.mark.parametrize("old", [False, True], ids=["archive", "before 1.6"])
@pytest.mark.parametrize(("made", "told"), [(b[1], b[2]) for b in BAD], ids=[b[0] for b in BAD])
def test_what_no_model_can_use_is_refused(made: Any, told: str, old: bool, tmp_path: Path) -> None:
    try:
        torch.save(made(), tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    except (RuntimeError, NotImplementedError, AttributeError):
        pytest.skip("torch does not save this so")
    _, model = published("sdt")
    with pytest.raises(UserError) as caught:
        init_backbone(model, "sdt", tmp_path / "w.pt")
    assert told in str(caught.value) or (old and "not a safetensors file" in str(caught.value))
    assert "\n" not in str(caught.value)


def _rewritten(path: Path, kind: int = zipfile.ZIP_STORED, **records: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, value in content.items():
            archive.writestr(name, records.get(name.split("/")[-1].removesuffix(".pkl"), value))


def test_what_a_file_declares_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.save({"w": torch.zeros(50_000_000)}, path)  # 200 MB, which compress to next to nothing
    _rewritten(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed"):
        read_weights(path)
    torch.save({"w": torch.zeros(4)}, path)
    data = pickle.PROTO + b"\x02" + pickle.BYTEARRAY8 + (10**12).to_bytes(8, "little") + b"."
    _rewritten(path, data=data)
    with pytest.raises(KeyError):
        read_weights(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 900_000  # KiB: what this test itself made


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import pathlib; pathlib.Path('trapped').touch()",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"args": Trap(), "state_dict": {"w": W}}, "w.pt")
    found: Weights = read_weights(Path("w.pt"))
    assert list(found.tensors) == ["w"]
    assert torch.equal(found.tensors["w"], W)
    buffer = io.BytesIO()
    torch.save({"w": Trap()}, buffer)
    Path("w.pt").write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match="w is a exec"):
        read_weights(Path("w.pt"))
    assert not Path("trapped").exists()
