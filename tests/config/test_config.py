from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from lantern.config.compose import compose, dump, read_config
from lantern.config.groups import GROUPS, choices
from lantern.config.schema import RunConfig
from lantern.errors import UserError

ROOT = Path(__file__).resolve().parent.parent.parent


OF_GROUPS = itertools.zip_longest(*([f"{g}={c}" for c in choices(g)] for g in GROUPS if g != "experiment"))
TOGETHER = [[one for one in row if one is not None] for row in OF_GROUPS]
"""The first choice of every group, the second of every group, and so on."""


@pytest.mark.parametrize("chosen", [*TOGETHER, *([f"experiment={name}"] for name in choices("experiment"))])
def test_every_choice_of_every_group_composes(chosen: list[str]) -> None:
    assert isinstance(compose(chosen), RunConfig)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("override", ["refine.coverage=three", "refine.coverage=0", "seed=one", "backbone.epochs=many"])
def test_errors_that_are_each_others_cause_are_told_all_the_same(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError) as plain:
        compose([override])
    monkeypatch.setenv("OC_CAUSE", "1")  # as under a debugger
    with pytest.raises(UserError) as caught:
        compose([override])
    assert override.partition("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).split()[-1] == str(plain.value).split()[-1]
    (tmp_path / "config.yaml").write_text("sed: 3\n")
    with pytest.raises(UserError, match=r"config\.yaml: not a configuration of this version \(.*sed"):
        read_config(tmp_path / "config.yaml")


def test_experiment_files_override_groups() -> None:
    config = compose(["experiment=first_run"])
    assert config.refine.limit_dialogues == 6
    assert config.backbone["hidden"] == 64


def test_a_header_is_stored_as_the_name_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_GATEWAY", "Bearer secret-of-the-gateway")
    config = compose(["llm=vllm", "+llm.headers.Authorization=MY_GATEWAY"])
    assert config.llm.headers == {"Authorization": "MY_GATEWAY"}
    assert "secret-of-the-gateway" not in dump(config)


def test_runs_of_the_same_choices_share_their_files_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs" / "backbone").mkdir(parents=True)
    mine = tmp_path / "configs" / "backbone" / "mine.yaml"
    mine.write_text("name: gru\nhidden: 8\n")
    monkeypatch.chdir(tmp_path)
    first = compose(["backbone=mine", "backbone.hidden=9", "llm.temperature=0.5"])
    first.variants.append("seed=7")
    again = compose(["backbone=mine", "seed=2"])
    assert (first.backbone["hidden"], again.backbone["hidden"]) == (9, 8)
    assert (again.seed, again.variants, again.llm.temperature) == (2, [], compose([]).llm.temperature)
    mine.write_text("name: gru\nhidden: 16\n")
    assert compose(["backbone=mine", "seed=2"]).backbone["hidden"] == 16
    mine.unlink()
    with pytest.raises(UserError, match="no such backbone"):
        compose(["backbone=mine", "seed=2"])


def test_dump_round_trips() -> None:
    import yaml

    assert yaml.safe_load(dump(compose(["seed=3"])))["seed"] == 3


@pytest.mark.parametrize("arguments", [["--help"], ["--config"], ["-m", "seed=0,1", "--config"]])
def test_help_and_config_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from experiments.run import main; code = main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'litellm', 'wandb', 'torchmetrics', 'openai'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if arguments == ["--help"]:
        assert all(group in done.stdout for group in GROUPS)
        assert "corect, corect_meld, corect_small, gru, sdt, sdt_meld, sdt_small" in done.stdout


@pytest.mark.parametrize("name", list(choices("backbone")))
def test_backbone_files_list_every_option(name: str) -> None:
    import dataclasses

    from lantern.config.schema import split_backbone
    from lantern.models.registry import backbone_config_type

    defaults, options = split_backbone(compose([f"backbone={name}"]).backbone)
    known = {f.name for f in dataclasses.fields(backbone_config_type(defaults.name))}
    assert known - set(options) <= {"modalities"}  # corpus.modalities chooses those
