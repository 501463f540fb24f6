import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lantern.errors import UserError
from lantern.features.extractors.feature_tables import card_of, read_feature_table

IDS = ["u1", "u2", "u3"]
VALUES = np.arange(6, dtype=np.float32).reshape(3, 2)


def make(folder: Path, kind: str, names: list[str] = IDS, values: np.ndarray = VALUES) -> Path:
    path = folder / {"npz by id": "a.npz", "npz keys": "b.npz", "csv by id": "c.csv", "tensors": "d.safetensors"}[kind]
    if kind == "npz by id":
        np.savez(path, features=values, ids=np.array(names))
    elif kind == "npz keys":
        np.savez(path, **dict(zip(names, values)))
    elif kind == "tensors":
        save_file({name: np.ascontiguousarray(row) for name, row in zip(names, values)}, path)
    else:
        lines = [f"{name},{','.join(map(str, row))}" for name, row in zip(names, values.tolist())]
        path.write_text("\n".join(["utterance,x,y", *lines, ""]))
    return path


BY_ID = ["npz by id", "npz keys", "csv by id", "tensors"]


@pytest.mark.parametrize("kind", BY_ID)
def test_rows_by_id_in_any_order_and_missing_ones_are_masked(tmp_path: Path, kind: str) -> None:
    features, present = read_feature_table(make(tmp_path, kind, ["u3", "u1"], VALUES[[2, 0]]), IDS)
    assert present.tolist() == [True, False, True]
    np.testing.assert_array_equal(features, VALUES * [[1], [0], [1]])
    assert features.dtype == np.float32


@pytest.mark.parametrize("kind", BY_ID)
def test_strangers_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, kind, ["u1", "u2", "zz"])
    with pytest.raises(UserError, match=r"1 utterances are not in the transcript, the first is 'zz'") as caught:
        read_feature_table(path, IDS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", BY_ID)
def test_values_that_are_not_finite_name_the_utterance(tmp_path: Path, kind: str) -> None:
    values = VALUES.copy()
    values[1, 0] = np.nan
    with pytest.raises(UserError, match="features of utterance 'u2' are not finite"):
        read_feature_table(make(tmp_path, kind, values=values), IDS)


@pytest.mark.parametrize("kind", ["npz by id", "csv by id"])
def test_an_id_that_occurs_twice_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="utterance 'u1' occurs twice"):
        read_feature_table(make(tmp_path, kind, ["u1", "u2", "u1"]), IDS)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".csv"])
def test_rows_in_transcript_order(tmp_path: Path, suffix: str) -> None:
    path, values = tmp_path / f"f{suffix}", VALUES.copy()
    values[1] = np.nan
    if suffix == ".npy":
        np.save(path, values)
    elif suffix == ".npz":
        np.savez(path, features=values)
    elif suffix == ".safetensors":
        save_file({"features": values}, path)
    else:
        path.write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in values.tolist()))
    features, present = read_feature_table(path, IDS)
    assert present.tolist() == [True, False, True]
    np.testing.assert_array_equal(features, VALUES * [[1], [0], [1]])
    with pytest.raises(UserError, match=r"3 rows in transcript order, the transcript has 2 utterances"):
        read_feature_table(path, IDS[:2])


def test_in_transcript_order_a_row_is_missing_only_if_it_is_so_throughout(tmp_path: Path) -> None:
    values = VALUES.copy()
    values[1, 0] = np.nan
    np.save(tmp_path / "f.npy", values)
    with pytest.raises(UserError, match="features of utterance 'u2' are not finite"):
        read_feature_table(tmp_path / "f.npy", IDS)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("the pickle was run",))


def test_pickles_are_refused_and_run_nothing(tmp_path: Path) -> None:
    array = np.empty(3, dtype=object)
    array[:] = Trap()
    np.save(tmp_path / "o.npy", array, allow_pickle=True)
    np.savez(tmp_path / "o.npz", features=array)
    (tmp_path / "p.npy").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "q.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("o.npy", "o.npz", "p.npy", "q.npz"):
        with pytest.raises(UserError, match=rf"{name}: not an a"):
            read_feature_table(tmp_path / name, IDS)
    for name in ("f.pkl", "f.pt"):
        with pytest.raises(UserError, match="a pickle can run code when it is read"):
            read_feature_table(tmp_path / name, IDS)


def test_damaged_and_misshapen_files_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04rest")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    (tmp_path / "words.csv").write_text("utterance,x\nu1,high\n")
    np.save(tmp_path / "flat.npy", np.ones(3))
    np.savez(tmp_path / "uneven.npz", u1=np.ones(2), u2=np.ones(3))
    np.savez(tmp_path / "short.npz", features=np.ones((2, 2)), ids=np.array(["u1"]))
    np.save(tmp_path / "text.npy", np.array([["a"], ["b"], ["c"]]))
    for name, message in {
        "cut.npy": "not an array",
        "cut.npz": "not an archive",
        "cut.safetensors": "not a safetensors file",
        "words.csv": r"line 2: x 'high' is not a number",
        "flat.npy": r"features are float64 \[3\], expected numbers \[utterances, dims\]",
        "uneven.npz": r"expected a row of one length per utterance, found shapes \[2\], \[3\]",
        "short.npz": r"1 ids for 2 rows",
        "text.npy": r"features are <U1 \[3, 1\], expected numbers",
        "none.npy": "is missing",
        "f.mat": r"a feature file ends in \.npy, \.npz, \.safetensors, \.csv, not in '\.mat'",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            read_feature_table(tmp_path / name, IDS)
        assert "\n" not in str(caught.value)


def test_cards_say_what_is_known(tmp_path: Path) -> None:
    card = card_of(tmp_path / "a.npy", None)
    assert (card.extractor, card.version, card.fitted_on) == ("unknown (a.npy)", "unknown", "unknown")
    path = tmp_path / "card.yaml"
    path.write_text("extractor: wav thing\nversion: 2.1\nlayer: last, mean\nfitted_on: train-labels\n")
    card = card_of(tmp_path / "a.npy", path)
    assert (card.extractor, card.version, card.layer, card.fitted_on) == (
        "wav thing",
        "2.1",
        "last, mean",
        "train-labels",
    )
    for text, message in (
        ("fitted_on: test", "'test' is not one of none"),
        ("author: me", "has the keys extractor"),
        ("layer: [1]", r"layer: \[1\] is not a line of text"),
        ("a: b: c", "not YAML"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            card_of(tmp_path / "a.npy", path)
