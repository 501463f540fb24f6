"""Clips in the corpora's own folders and names: MELD's with its twins and unusable ones, EmoryNLP's, IEMOCAP's."""

from pathlib import Path

import pytest

from benchmarks.release import Said, write_dialogue
from lantern.corpora.folder import Corpus
from lantern.corpora.readers.emorynlp import import_emorynlp
from lantern.corpora.readers.iemocap import import_iemocap
from lantern.corpora.readers.meld import import_meld
from lantern.errors import UserError
from lantern.features.sources import SOUNDS, VIDEOS, Sources, find_clips
from tests.corpora.readers.test_emorynlp import write_csv
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
    sources = find_clips(meld, root, SOUNDS if suffix == ".wav" else VIDEOS, frames=suffix == ".mp4")
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
    assert found(find_clips(meld, root / "dev_splits_complete", SOUNDS), root) == {
        "dev_0_0": "dev_splits_complete/dia0_utt0.wav"
    }


def test_ids_as_names_and_a_clip_that_somebody_mended(meld: Corpus, tmp_path: Path) -> None:
    root = clips(tmp_path, "x/train_0_0.wav", "x/train_125_3.wav", "train_splits/dia0_utt1.wav")
    sources = find_clips(meld, root, SOUNDS)
    assert found(sources, root) == {
        "train_0_0": "x/train_0_0.wav",
        "train_0_1": "train_splits/dia0_utt1.wav",
        "train_125_3": "x/train_125_3.wav",
    }
    assert sources.missing == {"no clip": 3, "a clip that is known to be unusable (dia110_utt7 of dev)": 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("clips/dia0_utt0.wav",),
            r"clips/dia0_utt0\.wav: a clip of train, dev or test\?.*folders named train, dev and",
        ),
        (("train/dia0_utt0.wav", "train/b/dia0_utt0.wav"), r"two files for 'train_0_0'"),
        (
            ("train/dia0_utt0.txt",),
            r"no clip .* \(no clip: 7\); .* \*\*/train_0_0 or \*\*/train_splits/dia0_utt0 or \*\*/train_0 \(the whole",
        ),
    ],
)
def test_what_cannot_be_placed_is_refused(meld: Corpus, tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_clips(meld, clips(tmp_path, *names), SOUNDS)


def test_the_better_of_two_files_is_used(meld: Corpus, tmp_path: Path) -> None:
    root = clips(tmp_path, "train/dia0_utt0.mp4", "train/dia0_utt0.wav", "train/dia0_utt1.avi", "train/dia0_utt1.mp4")
    sound, pictures = find_clips(meld, root, SOUNDS), find_clips(meld, root, VIDEOS, frames=True)
    assert found(sound, root) == {"train_0_0": "train/dia0_utt0.wav", "train_0_1": "train/dia0_utt1.mp4"}
    assert found(pictures, root) == {"train_0_0": "train/dia0_utt0.mp4", "train_0_1": "train/dia0_utt1.mp4"}


def test_names_and_folders_of_emorynlp(tmp_path: Path) -> None:
    write_csv(tmp_path)
    corpus = import_emorynlp(csv=tmp_path)
    first, other = corpus.utterances[0].id, corpus.utterances[-1].id
    season, episode, scene, number = (int(part[1:]) for part in first.split("_"))
    root = clips(
        tmp_path,
        f"emorynlp_train_splits/sea{season}_ep{episode}_sc{scene}_utt{number}.mp4",
        f"x/{other}.mp4",
        "emorynlp_train_splits/sea99_ep1_sc1_utt1.mp4",
        "emorynlp_train_splits/dia0_utt0.mp4",
    )
    sources = find_clips(corpus, root, SOUNDS)
    assert set(found(sources, root)) == {first, other}
    assert sources.missing == {"no clip": len(corpus.utterances) - 2}


@pytest.fixture
def release(tmp_path: Path) -> tuple[Corpus, Path]:
    """A dialogue of IEMOCAP in which each actor says two things, and its recordings in the folders of the release."""
    root = tmp_path / "release"
    for session in range(1, 6):
        name = f"Ses{session:02d}M_impro01"
        said = [Said(f"{name}_{'FM'[n % 2]}{n:03d}", "so", 2.0 * n, 2.0 * n + 1.5, "neu") for n in range(4)]
        write_dialogue(root, name, said)
    for name in (
        "dialog/avi/DivX/Ses02M_impro01.avi",
        "dialog/avi/DivX/._Ses02M_impro01.avi",
        "dialog/wav/Ses02M_impro01.wav",
        "sentences/wav/Ses02M_impro01/Ses02M_impro01_F000.wav",
    ):
        path = root / "Session2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return import_iemocap(root), root


def test_half_of_the_picture_and_a_piece_of_the_dialogue_are_the_speakers(release: tuple[Corpus, Path]) -> None:
    corpus, root = release
    items = find_clips(corpus, root, VIDEOS, frames=True).items
    # Ses02M: the man wears the markers, and sits on the left.
    assert [(i.id[-4:], i.half, i.start, i.end) for i in items] == [
        ("F000", "right", 0.0, 1.5),
        ("M001", "left", 2.0, 3.5),
        ("F002", "right", 4.0, 5.5),
        ("M003", "left", 6.0, 7.5),
    ]
    assert {i.path.name for i in items if i.path} == {"Ses02M_impro01.avi"}
    sound = find_clips(corpus, root, SOUNDS).items
    assert [(i.path.parent.name, i.start, i.half) for i in sound if i.path] == [
        ("Ses02M_impro01", None, ""),
        ("wav", 2.0, ""),
        ("wav", 4.0, ""),
        ("wav", 6.0, ""),
    ]
