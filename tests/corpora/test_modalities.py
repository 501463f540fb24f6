"""A modality is added in one place: ``lantern.corpora.types.MODALITIES``."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lantern.corpora.folder import load_corpus
from lantern.corpora.sample.generator import generate_sample
from lantern.errors import UserError

FOURTH = "import lantern.corpora.types as t; t.MODALITIES += ('physio',);"


def with_a_fourth(code: str) -> str:
    """What *code* prints in a process in which Lantern knows one more modality."""
    done = subprocess.run([sys.executable, "-c", FOURTH + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_tool_takes_a_new_modality_from_the_one_list(tmp_path: Path) -> None:
    folder = generate_sample(dialogues=5).save(tmp_path / "c")
    ids = [u.id for u in load_corpus(folder, features=False).utterances]
    np.savez(tmp_path / "p.npz", features=np.ones((len(ids), 3)), ids=np.array(ids))
    arguments = [str(folder), "--modality", "physio", "--arrays", str(tmp_path / "p.npz")]
    out = with_a_fourth(f"from experiments import extract_features as e; e.main({arguments!r})")
    assert "physio: 3-d for" in out
    loaded = with_a_fourth(
        f"from lantern.corpora.folder import load_corpus; print(*load_corpus({str(folder)!r}).features)"
    )
    assert loaded.split() == ["text", "audio", "visual", "physio"]
    with pytest.raises(UserError, match="modality 'physio' is not one of text, audio, visual"):
        load_corpus(folder)


def test_a_new_modality_has_an_extractor_and_is_imported(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("dialogue,speaker,text\nd,A,hi\nd,B,ho\n")
    np.save(tmp_path / "p.npy", np.ones((2, 3)))
    arguments = ["custom", "--transcript", str(tmp_path / "t.csv"), "--label-set", "meld-3", "--no-features"]
    arguments += ["--features", f"physio={tmp_path / 'p.npy'}", "--out", str(tmp_path / "c")]
    assert "physio 3-d" in with_a_fourth(f"from experiments import import_corpus as i; i.main({arguments!r})")
    assert "arrays" in with_a_fourth("from lantern.features.registry import DEFAULT; print(DEFAULT['physio'])")
