"""Speech and face encoders of transformers, with small random weights that the tests make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lantern.errors import UserError
from lantern.features.extractors import speech
from lantern.features.extractors.clips import read_frames
from lantern.features.registry import build
from lantern.features.types import Item, Recipe, Result, Unusable
from tests.features.conftest import tone, write_wav
from tests.features.made_clips import drawn_face, write_clip

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
WAVES: dict[str, Any] = {**TINY, "conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (40, 8)}
WAVES |= {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "num_feat_extract_layers": 2}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "1")  # so that what the extractors set is undone


def saved(folder: Path, kind: str, preprocessing: dict[str, Any], **options: Any) -> Path:
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model", None) or getattr(transformers, kind)
    config = getattr(transformers, f"{kind.removesuffix('ForImageClassification')}Config")
    model(config(**options)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


def waves(folder: Path, kind: str, norm: str) -> Path:
    options = {**WAVES, "feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    return saved(folder / kind, kind, {"do_normalize": norm == "layer"}, **options)


def vectors(results: list[Result]) -> np.ndarray:
    assert not [result for result in results if isinstance(result, Unusable)]
    return np.stack(results)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", ["group", "layer"])
@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "WavLM"])
def test_a_vector_is_the_mean_over_layers_and_time_whatever_the_batch(tmp_path: Path, kind: str, norm: str) -> None:
    folder = waves(tmp_path, kind, norm)
    signals = [tone(110 + 50 * n, seconds) for n, seconds in enumerate((0.5, 1.3, 0.2, 0.8))]
    items = [Item(n, str(n), path=write_wav(tmp_path / f"{n}.wav", s)) for n, s in enumerate(signals)]
    extractor = build(Recipe("speech-encoder", model=str(folder), device="cpu"))
    together = vectors(extractor.extract(items))
    alone = np.concatenate([vectors(extractor.extract([item])) for item in items])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    model = getattr(transformers, f"{kind}Model").from_pretrained(folder).eval()
    signal = (signals[1] * 32767).astype(np.int16).astype(np.float32) / 32768
    if norm == "layer":
        signal = (signal - signal.mean()) / np.sqrt(signal.var() + 1e-7)
    with torch.inference_mode():
        states = model(torch.from_numpy(signal)[None], output_hidden_states=True).hidden_states
    expected = torch.stack(states[1:]).mean(dim=(0, 1, 2)).numpy()
    np.testing.assert_allclose(together[1], expected, atol=1e-4)
    assert (extractor.card.dims, extractor.card.layer) == (16, "mean of 2 layers and over time")
    assert extractor.card.extractor == f"{kind} ({model.config.model_type})"


def test_long_recordings_are_encoded_in_windows_and_short_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speech, "WINDOW", 8_000)
    extractor = build(Recipe("speech-encoder", model=str(waves(tmp_path, "Wav2Vec2", "group")), device="cpu"))
    long = Item(0, "0", path=write_wav(tmp_path / "0.wav", np.concatenate([tone(110, 0.5), tone(300, 0.5)])))
    halves = [Item(n, str(n), path=long.path, start=0.5 * n, end=0.5 * (n + 1)) for n in range(2)]
    whole, first, second = vectors(extractor.extract([long, *halves]))
    np.testing.assert_allclose(whole, (first + second) / 2, atol=1e-5)
    assert np.abs(first - second).max() > 1e-3
    short = Item(0, "0", path=write_wav(tmp_path / "s.wav", tone(110, 0.05)))
    assert extractor.extract([short, long])[0] == Unusable("too short: less than 0.1 s")


def test_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = waves(tmp_path, "Wav2Vec2", "group")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layers.1." not in k}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"its weights lack encoder\.layers\.1\."):
        build(Recipe("speech-encoder", model=str(folder)))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="no weights in safetensors; pickled ones are not read"):
        build(Recipe("speech-encoder", model=str(folder)))
    text = saved(tmp_path / "text", "Bert", {}, vocab_size=30, **TINY)
    with pytest.raises(UserError, match="bert is no encoder of sound waves such as wav2vec2"):
        build(Recipe("speech-encoder", model=str(text)))
    (text / "config.json").write_text('{"model_type": "made up"}')
    with pytest.raises(UserError, match=r"--model .*text: .*made up"):
        build(Recipe("speech-encoder", model=str(text)))
    with pytest.raises(UserError, match=r"--model nobody/nothing@refs/pr/1: no folder and no model in the cache"):
        build(Recipe("speech-encoder", model="nobody/nothing@refs/pr/1"))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="--device cuda: torch sees no GPU here"):
            build(Recipe("speech-encoder", model=str(waves(tmp_path, "Hubert", "group")), device="cuda"))


IMAGES = {"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def test_a_face_is_what_the_classifier_hands_to_its_last_layer(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    options = {**TINY, "image_size": 32, "patch_size": 8, "num_labels": 7}
    folder = saved(tmp_path / "faces", "ViTForImageClassification", IMAGES, **options)
    path = write_clip(tmp_path / "a.mp4", None, [drawn_face(mouth=n / 4) for n in range(4)])
    extractor: Any = build(Recipe("face-encoder", model=str(folder), device="cpu"))
    nobody = write_clip(tmp_path / "b.mp4", None, [np.zeros((240, 320, 3), dtype=np.uint8)] * 3)
    found, missing = extractor.extract([Item(0, "a", path=path), Item(1, "b", path=nobody)])
    assert missing == Unusable("no face in 3 frames")
    faces = [extractor._face(frame) for frame in frames_of(path)]
    images = np.stack([cv2.resize(face, (32, 32), interpolation=cv2.INTER_AREA) for face in faces]) / 255
    scaled = ((images - IMAGES["image_mean"]) / IMAGES["image_std"]).transpose(0, 3, 1, 2).astype(np.float32)
    model = transformers.ViTForImageClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model.vit(pixel_values=torch.from_numpy(scaled)).last_hidden_state[:, 0]
    np.testing.assert_allclose(found, states.mean(dim=0).numpy(), atol=1e-4)
    assert (extractor.card.dims, extractor.card.extractor) == (16, "faces (vit) on faces")
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"no preprocessor_config\.json with size, image_mean and image_std"):
        build(Recipe("face-encoder", model=str(folder)))


def frames_of(path: Path) -> list[np.ndarray]:
    return list(read_frames(Item(0, "a", path=path)))
