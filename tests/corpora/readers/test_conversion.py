"""Files that are refused because they hold tensors or objects: the command in the message makes a file that is read."""

import pickle
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lantern.corpora.readers.published import read_published
from lantern.errors import UserError
from lantern.features.extractors.feature_tables import read_feature_table
from tests.corpora.pickles import LABELS, ORDERS, iemocap, part, preprocessed


@pytest.fixture
def sample() -> Iterator[type]:
    """The class of COGMEN's objects, in a module that is gone when the file is read."""
    module = types.ModuleType("cogmen_made_up")
    made = type("Sample", (), {"__module__": module.__name__, "__init__": lambda self, **of: self.__dict__.update(of)})
    module.Sample = made  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    yield made
    del sys.modules[module.__name__]


def tensors(value: Any) -> Any:
    """*value* with tensors in place of arrays."""
    if isinstance(value, dict):
        return {key: tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(tensors, value))
    return torch.tensor(value, requires_grad=True) if isinstance(value, np.ndarray) else value


def _objects(made: type) -> Any:
    keys = {"speakers": "speaker", "labels": "label"}
    found = {}
    for name, dialogues in preprocessed(iemocap()).items():
        found[name] = [made(**{keys.get(key, key): value for key, value in d.items()}) for d in dialogues]
        for dialogue in found[name]:
            dialogue.sbert_sentence_embeddings = dialogue.text
            dialogue.text = [np.ones(3)] * len(dialogue.label)
    return found


def _boxed(content: Any) -> Any:
    """Words in arrays of objects, as pandas leaves them."""
    *others, words, train, test = content
    return (*others, {i: np.array(of, dtype=object) for i, of in words.items()}, train, test)


SAVE: dict[str, Callable[[Any, Path, type], object]] = {
    "torch.save": lambda content, path, _: torch.save(tensors(content), path),
    "old torch.save": lambda content, path, _: torch.save(content, path, _use_new_zipfile_serialization=False),
    "tensors in a pickle": lambda content, path, _: path.write_bytes(pickle.dumps(tensors(content))),
    "objects": lambda _, path, made: path.write_bytes(pickle.dumps(_objects(made))),
    "objects, protocol 2": lambda _, path, made: path.write_bytes(pickle.dumps(_objects(made), 2)),
    "arrays of objects": lambda content, path, _: path.write_bytes(pickle.dumps(_boxed(content))),
}


@pytest.mark.parametrize("kind", SAVE)
def test_the_command_in_the_message_makes_a_file_that_is_read(tmp_path: Path, sample: type, kind: str) -> None:
    members = iemocap()
    path = tmp_path / "it's data.pt"
    SAVE[kind](part(members, ORDERS["mmgcn"]), path, sample)
    with pytest.raises(UserError, match=r"If you trust who made it, .*: python -c ") as caught:
        read_published(path, "iemocap")
    message = str(caught.value)
    assert "\n" not in message
    command = shlex.split(message[message.index("python -c ") :])
    done = subprocess.run([sys.executable, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "it's data-plain.pkl"
    assert made.name in message
    found = read_published(made, "iemocap")
    assert {d.id: list(d.labels) for d in found.dialogues} == LABELS
    for dialogue in found.dialogues:
        np.testing.assert_allclose(dialogue.features["text"], np.stack(members["text"][dialogue.id]))


def test_harm_is_never_advised(tmp_path: Path) -> None:
    import os

    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    (tmp_path / "p").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match=r"nothing in the file was run$"):
        read_published(tmp_path / "p", "meld")


def test_a_table_of_pandas_becomes_a_csv_file(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "p.pkl"
    pandas.DataFrame({"speaker": ["A"], "text": ["Hm."]}).to_pickle(path)
    with pytest.raises(UserError, match=r"names 'pandas\..*import p-plain\.csv") as caught:
        read_published(path, "meld")
    command = shlex.split(str(caught.value)[str(caught.value).index("python -c ") :])
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert (tmp_path / "p-plain.csv").read_text() == "speaker,text\nA,Hm.\n"


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_features_too(tmp_path: Path, suffix: str) -> None:
    path, values = tmp_path / f"f{suffix}", np.arange(6.0).reshape(3, 2)
    if suffix == ".pt":
        torch.save(torch.tensor(values), path)
    else:
        path.write_bytes(pickle.dumps(values))
    with pytest.raises(UserError, match=r"save the array as \.npy or \.npz; if you trust who made it: ") as caught:
        read_feature_table(path, ["a", "b", "c"])
    command = shlex.split(str(caught.value).partition("made it: ")[2])
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert read_feature_table(tmp_path / "f.npy", ["a", "b", "c"])[0].tolist() == values.tolist()
