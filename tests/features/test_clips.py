"""MELD's own clips: their names and folders, twins, and the two that nobody can use."""

from pathlib import Path

import pytest

from lantern.corpora.folder import Corpus
from lantern.corpora.readers.meld import import_meld
from lantern.errors import UserError
from lantern.features.sources import VIDEOS, Sources, per_utterance
from tests.corpora.readers.test_meld import row, write


@pytest.fixture
def meld(tmp_path: Path) -> Corpus:
    rows = {
        "train": [row("a", "joy", 0, 0), row("b", "joy", 0, 1), row("c", "joy", 125, 3)],
        "dev": [row("d", "joy", 0, 0), row("e", "joy", 110, 7)],
        "test": [row("f", "joy", 0, 0), row("g", "joy", 1, 2)],
    }
    return import_meld(write(tmp_path, rows))


def clips(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "MELD.Raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder / "MELD.Raw"


def found(sources: Sources, root: Path) -> dict[str, str]:
    return {item.id: str(item.path.relative_to(root)) for item in sources.items if item.path}


@pytest.mark.parametrize(
    "folders",
    [
        ("train_splits", "dev_splits_complete", "output_repeated_splits_test"),
        ("train/train_splits", "dev/dev_splits_complete", "test/output_repeated_splits_test"),
        ("train", "dev", "test"),
        ("audio/Train-wav", "audio/dev_wav", "audio/16k test"),
    ],
)
@pytest.mark.parametrize("suffix", [".wav", ".mp4"])
def test_names_and_folders_of_the_archive(
    meld: Corpus, tmp_path: Path, folders: tuple[str, str, str], suffix: str
) -> None:
    train, dev, test = folders
    names = [f"{train}/dia0_utt0", f"{train}/dia0_utt1", f"{train}/._dia0_utt0", f"{train}/dia125_utt3"]
    names += [f"{dev}/dia0_utt0", f"{dev}/dia66_utt9", f"{test}/dia0_utt0", f"{test}/final_videos_testdia1_utt2"]
    names += [f"{test}/final_videos_testdia0_utt0"]
    root = clips(tmp_path, *(name + suffix for name in names))
    sources = per_utterance(meld, root, (".wav",) if suffix == ".wav" else VIDEOS, "clip", frames=suffix == ".mp4")
    assert found(sources, root) == {
        "train_0_0": f"{train}/dia0_utt0{suffix}",
        "train_0_1": f"{train}/dia0_utt1{suffix}",
        "dev_0_0": f"{dev}/dia0_utt0{suffix}",
        "test_0_0": f"{test}/dia0_utt0{suffix}",
        "test_1_2": f"{test}/final_videos_testdia1_utt2{suffix}",
    }
    reason = "a clip that is known to be unusable (dia110_utt7 of dev, dia125_utt3 of train)"
    assert sources.missing == {reason: 2}
    assert sources.notes == ("1 clips have a second version, final_videos_test…; the one without these words is used",)


def test_the_folder_of_one_split(meld: Corpus, tmp_path: Path) -> None:
    root = clips(tmp_path, "dev_splits_complete/dia0_utt0.wav")
    assert found(per_utterance(meld, root / "dev_splits_complete", (".wav",), "wav"), root) == {
        "dev_0_0": "dev_splits_complete/dia0_utt0.wav"
    }


def test_ids_as_names_and_a_clip_that_somebody_mended(meld: Corpus, tmp_path: Path) -> None:
    root = clips(tmp_path, "x/train_0_0.wav", "x/train_125_3.wav", "train_splits/dia0_utt1.wav")
    sources = per_utterance(meld, root, (".wav",), "wav")
    assert found(sources, root) == {
        "train_0_0": "x/train_0_0.wav",
        "train_0_1": "train_splits/dia0_utt1.wav",
        "train_125_3": "x/train_125_3.wav",
    }
    assert sources.missing == {"no wav": 3, "a clip that is known to be unusable (dia110_utt7 of dev)": 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("clips/dia0_utt0.wav",),
            r"clips/dia0_utt0\.wav: a clip of train, dev or test\?.*folders named train, dev and",
        ),
        (("train/dia0_utt0.wav", "train/b/dia0_utt0.wav"), r"two files for 'train_0_0'"),
        (
            ("train/dia0_utt0.flac",),
            r"no wav for any utterance; .*\*\*/train_0_0\.wav or \*\*/train_splits/dia0_utt0\.wav$",
        ),
        (("train/dia0_utt0.mp4",), r"there are 1 videos, whose sound this takes out: find .*ffmpeg .*\\;$"),
    ],
)
def test_what_cannot_be_placed_is_refused(meld: Corpus, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        per_utterance(meld, clips(tmp_path, *names), (".wav",), "wav")
