from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lantern.errors import UserError
from lantern.models.batch import Backbone, Batch, Sizes
from lantern.models.registry import backbone_config, backbone_part, init_backbone

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = {
    "corect": GOLDEN / "corect" / "golden_6way_atv_wp2_wf2",
    "sdt": GOLDEN / "sdt" / "golden_iemocap_like",
}


def published(name: str) -> tuple[dict[str, torch.Tensor], Backbone]:
    """The official parameters and a model built from them."""
    state, model = _published(name)
    return dict(state), copy.deepcopy(model)


@functools.cache
def _published(name: str) -> tuple[dict[str, torch.Tensor], Backbone]:
    meta: dict[str, Any] = json.loads(FILES[name].with_suffix(".json").read_text())
    tensors = load_file(FILES[name].with_suffix(".safetensors"))
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    return state, backbone_part(name, "published").load_published(state, meta.get("config", meta))


DIMS = {"text": 10, "audio": 6, "visual": 8}


def batch() -> Batch:
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    features = {m: torch.randn(2, 4, d, generator=torch.Generator().manual_seed(0)) for m, d in DIMS.items()}
    speakers = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0]])
    return Batch(features, speakers, mask, torch.full((2, 4), -1), torch.full((2, 4, 3), float("nan")))


@pytest.mark.parametrize("name", ["corect", "sdt"])
@pytest.mark.parametrize("form", ["published.safetensors", "published.pt", "own.pt", "run.ckpt"])
def test_init_from_takes_published_own_and_run_weights(name: str, form: str, tmp_path: Path) -> None:
    state, expected = published(name)
    path = tmp_path / form
    if form == "published.safetensors":
        save_file({k: v.contiguous().clone() for k, v in state.items()}, path)
    elif form == "published.pt":
        torch.save(state, path)
    elif form == "own.pt":
        torch.save(expected.state_dict(), path)
    else:
        torch.save({"state_dict": {f"backbone.{k}": v for k, v in expected.state_dict().items()}}, path)
    fresh = type(expected)(expected.config, Sizes(DIMS, classes=6, speakers=2)).eval()  # type: ignore[call-arg,arg-type]
    init_backbone(fresh, name, path)
    torch.testing.assert_close(fresh(batch()).logits, expected(batch()).logits)


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch trapped",)


def test_a_checkpoint_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, "evil.pt")
    _, model = published("sdt")
    with pytest.raises(UserError, match=r"backbone\.init_from=evil\.pt: not a safetensors file or a plain state dict"):
        init_backbone(model, "sdt", Path("evil.pt"))
    assert not Path("trapped").exists()


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    _, model = published("sdt")
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="nothing"):
        init_backbone(model, "sdt", tmp_path / "x.pt")
    with pytest.raises(UserError, match="no such file"):
        init_backbone(model, "sdt", tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("corekt", {}, "no file lantern/models/corekt.py"),
        ("batch", {}, "must define Config and Model"),
        ("../x", {}, "no file"),
        ("gru", {"hiden": 1}, "backbone.hiden is not an option of backbone gru. Did you mean 'hidden'?"),
        ("gru", {"hidden": "wide"}, "backbone.hidden"),
        ("sdt", {"heads": 3}, "backbone.heads=3"),
        ("corect", {"edges": "none"}, "backbone.edges=none"),
    ],
)
def test_bad_names_and_options(name: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as caught:
        backbone_config(name, options)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "shown", "expected"),
    [
        ({}, "print(os.environ['OMP_WAIT_POLICY']); import torch; print(torch.get_num_threads())", ["passive", "1"]),
        ({"OMP_WAIT_POLICY": "active"}, "print(os.environ['OMP_WAIT_POLICY'])", ["active"]),
    ],
)
def test_thread_environment_is_set_unless_the_user_did(given: dict[str, str], shown: str, expected: list[str]) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    code = (
        f"from lantern.environment import prepare; prepare(1); import os; print(os.environ['OMP_NUM_THREADS']); {shown}"
    )
    done = subprocess.run([sys.executable, "-c", code], env={**clean, **given}, capture_output=True, text=True)
    assert done.stdout.split() == ["1", *expected]
