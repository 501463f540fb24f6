"""Extractors of the extras, with stand-ins for the packages: what they are asked for, and what the card says."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lantern.errors import UserError
from lantern.features.registry import build
from lantern.features.smile import LICENCE
from lantern.features.types import Item, Recipe, Unusable
from tests.features.conftest import tone, write_wav


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Stands in for sentence-transformers; tells with what it was asked for a model."""
    seen: dict[str, Any] = {}

    class SentenceTransformer:
        def __init__(self, folder: str, **options: Any) -> None:
            seen.update(options, folder=folder, offline=os.environ.get("HF_HUB_OFFLINE"))

        def encode(self, texts: list[str], **_: Any) -> np.ndarray:
            return np.array([[len(text), 1.0] for text in texts])

    library: Any = ModuleType("sentence_transformers")
    library.SentenceTransformer, library.__version__ = SentenceTransformer, "9.9"
    logging: Any = ModuleType("transformers.utils.logging")
    logging.disable_progress_bar = lambda: None
    for name, module in (
        ("sentence_transformers", library),
        ("transformers", ModuleType("transformers")),
        ("transformers.utils", ModuleType("transformers.utils")),
        ("transformers.utils.logging", logging),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "0")  # so that what the extractor sets is undone
    return seen


def test_a_model_folder_is_read_offline_and_without_pickles(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    save_file({"w": np.ones(3, dtype=np.float32)}, folder / "model.safetensors")
    extractor = build(Recipe("sentence-transformers", model=str(folder)))
    assert [v.tolist() for v in extractor.extract([Item(0, "a", "xyz"), Item(1, "b", "")])] == [[3, 1], [0, 1]]
    assert (asked["offline"], asked["local_files_only"], asked["trust_remote_code"]) == ("1", True, False)
    assert asked["model_kwargs"] == {"use_safetensors": True}
    assert (extractor.card.extractor, extractor.card.fitted_on) == ("my-model", "unknown")
    assert "sentence-transformers 9.9" in extractor.card.version
    before = extractor.card.version
    save_file({"w": np.zeros(3, dtype=np.float32)}, folder / "model.safetensors")
    assert build(Recipe("sentence-transformers", model=str(folder))).card.version != before


def test_a_model_that_is_not_here_is_not_fetched_unasked(asked: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"--model nobody/nothing: no folder and no model in the cache; --download"):
        build(Recipe("sentence-transformers", model="nobody/nothing"))
    with pytest.raises(UserError, match="needs --model FOLDER"):
        build(Recipe("sentence-transformers"))
    assert asked == {}


@pytest.mark.parametrize(("name", "expected"), [("egemaps", "eGeMAPSv02"), ("compare", "ComParE_2016")])
def test_opensmile_gets_the_signal_and_its_card_tells_the_licence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, expected: str
) -> None:
    class Smile:
        num_features = 2

        def __init__(self, feature_set: str, level: str) -> None:
            assert (feature_set, level) == (expected, "functionals")

        def process_signal(self, signal: np.ndarray, rate: int) -> Any:
            value = len(signal) / rate if len(signal) > 800 else np.nan
            return SimpleNamespace(to_numpy=lambda dtype: np.array([[value, np.abs(signal).max()]], dtype))

    library: Any = ModuleType("opensmile")
    library.Smile, library.__version__ = Smile, "2.6.0"
    library.FeatureSet = {"eGeMAPSv02": "eGeMAPSv02", "ComParE_2016": "ComParE_2016"}
    library.FeatureLevel = SimpleNamespace(Functionals="functionals")
    monkeypatch.setitem(sys.modules, "opensmile", library)
    extractor = build(Recipe(name))
    card = extractor.card
    assert (card.extractor, card.version, card.licence) == (f"openSMILE {expected}", "opensmile 2.6.0", LICENCE)
    items = [
        Item(n, str(n), path=write_wav(tmp_path / f"{n}.wav", tone(200, seconds, 8000), 8000))
        for n, seconds in enumerate((0.5, 0.05))
    ]
    first, second = extractor.extract(items)
    assert not isinstance(first, Unusable)
    assert first[0] == 0.5
    assert second == Unusable("too short: the features are not finite")
