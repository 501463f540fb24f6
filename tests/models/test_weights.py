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
from safetensors.torch import save_file
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


@pytest.mark.parametrize("key", ["args", "config", "hyper_parameters"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"wf": 5}, r"\(wf=5\); add backbone.future_window=5$"),
        ({"wf": 2, "wp": 3}, "add backbone.past_window=3$"),
        ({"wf": 2, "edge_type": "temp"}, "add backbone.edges=temporal$"),
        ({"wf": "2"}, "argument wf='2' must be a whole number"),
        ({"wf": None}, "argument wf=None must be a whole number"),
        ({"wf": float("nan")}, "argument wf=nan must be a whole number"),
        ({"wf": 10**30}, "argument wf=10{30} must be a whole number"),
        ({"wf": 2, "wp": 2.5}, "argument wp=2.5 must be a whole number"),
        ({"wf": 2, "use_speaker": "False"}, "argument use_speaker='False' must be true or false"),
        ({"wf": 2, "modalities": ["a"]}, "published modalities .* must be letters"),
        ({"wf": 2}, None),
        ({"lr": 0.1}, None),
    ],
)
def test_settings_in_a_file_are_those_of_the_model(key: str, given: Any, told: str | None, tmp_path: Path) -> None:
    state, expected = published("corect")
    torch.save({key: given, "best_state": state}, tmp_path / "x.pt")
    fresh = _with_windows(expected)
    if told is None:
        init_backbone(fresh, "corect", tmp_path / "x.pt")
        torch.testing.assert_close(fresh(batch()).logits, expected(batch()).logits)
        return
    with pytest.raises(UserError, match=told):
        init_backbone(fresh, "corect", tmp_path / "x.pt")


def _begun(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


WRAPPED: dict[str, Any] = {
    "DataParallel": lambda s: _begun("module.", s),
    "torch.compile": lambda s: _begun("_orig_mod.", s),
    "Lightning": lambda s: {"epoch": 3, "state_dict": _begun("model.", s), "hyper_parameters": {"lr": 1}},
    "Lightning, parallel": lambda s: {"state_dict": _begun("model.module.", s), "optimizer_states": [{"state": {}}]},
    "whole, parallel": lambda s: nn.DataParallel(Net(s)),
    "another key": lambda s: {"net": OrderedDict(s), "optimizer": {"state": {}, "param_groups": []}, "epoch": 3},
    "another key, whole": lambda s: {"net": Net(s), "args": argparse.Namespace()},
    "best_state": lambda s: {"best_state": OrderedDict(s), "args": argparse.Namespace(), "best": np.float64(1)},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "64 bits": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("old", [False, True], ids=["archive", "before 1.6"])
@pytest.mark.parametrize("own", [False, True], ids=["published", "own"])
@pytest.mark.parametrize("name", ["corect", "sdt"])
@pytest.mark.parametrize("form", WRAPPED)
def test_weights_are_found_in_whatever_wraps_them(form: str, name: str, own: bool, old: bool, tmp_path: Path) -> None:
    state, expected = published(name)
    made = WRAPPED[form](expected.state_dict() if own else state)
    torch.save(made, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    fresh = type(expected)(expected.config, Sizes(DIMS, classes=6, speakers=2)).eval()  # type: ignore[call-arg,arg-type]
    init_backbone(fresh, name, tmp_path / "x.pt")
    torch.testing.assert_close(fresh(batch()).logits, expected(batch()).logits)


def test_a_file_is_told_by_its_content_not_by_its_name(tmp_path: Path) -> None:
    state, expected = published("sdt")
    torch.save(state, tmp_path / "x.safetensors")
    save_file({k: v.contiguous().clone() for k, v in state.items()}, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        assert read_weights(tmp_path / name).tensors.keys() == state.keys()
    torch.save({"first": state, "second": state}, tmp_path / "two.pt")
    with pytest.raises(UserError, match="several could be its weights: first, second; save the state dict alone"):
        init_backbone(expected, "sdt", tmp_path / "two.pt")


@pytest.mark.parametrize("own", [False, True], ids=["published", "own"])
@pytest.mark.parametrize("name", ["corect", "sdt"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.int(), "is torch.int32, expected floating-point numbers"),
        (lambda w: w.bool(), "is torch.bool, expected floating-point numbers"),
        (lambda w: torch.full_like(w, 1e300, dtype=torch.float64), "holds NaN or infinity"),
        (lambda w: torch.zeros(3, 5), "3, 5]"),
        (lambda w: w.numpy(), "not a tensor"),
    ],
)
def test_a_weight_that_is_none_is_named(change: Any, told: str, name: str, own: bool, tmp_path: Path) -> None:
    state, expected = published(name)
    state = expected.state_dict() if own else state
    weight = next(key for key, value in state.items() if value.ndim == 2 and value.is_floating_point())
    torch.save({**state, weight: change(state[weight])}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=told.replace("]", "\\]")) as caught:
        init_backbone(expected, name, tmp_path / "x.pt")
    assert told == "not a tensor" or weight in str(caught.value)


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
    assert told in str(caught.value) or (old and "complex, quantised or of another type" in str(caught.value))
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
    shared = torch.zeros(1_000_000)  # 4 MB, which would be 1 GB as tensors of their own
    for old in (False, True):
        torch.save({f"w{n}": shared[n:] for n in range(250)}, path, _use_new_zipfile_serialization=not old)
        assert len(read_weights(path).tensors) == 250
    torch.save({"w": torch.zeros(10_000_000)}, path)  # 40 MB, which compress to next to nothing
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


@pytest.mark.parametrize("old", [False, True], ids=["archive", "before 1.6"])
@pytest.mark.parametrize("form", ["shared", "itself", "deep"])
def test_modules_within_modules_take_no_time(form: str, old: bool, tmp_path: Path) -> None:
    inner: nn.Module = Net({"w": W})
    whole = inner
    for _ in range(1 if form == "itself" else 60 if form == "shared" else 110):
        outer = nn.Module()
        outer._modules["a"] = whole
        if form == "shared":
            outer._modules["b"] = whole
        whole = outer
    if form == "itself":
        whole._modules["b"] = whole
    torch.save(whole, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(WeightsError, match="more modules within modules than any model has"):
        read_weights(tmp_path / "w.pt")


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
