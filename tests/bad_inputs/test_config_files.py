"""Configuration files of one's own, and what a sweep is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_inputs.place import Place, check, tiny

GLOBAL = "# @package _global_\n"

# The file, its content, and the words that the line must hold.
FILES = [
    ("backbone/e", b"name: gru\nepochs: 3\n\tlr: 1\n", ("e.yaml, line 3: not YAML",)),
    ("backbone/e", b"name: gru\nepochs: 3\nepochs: 4\n", ("e.yaml, line 3: not YAML (found duplicate key epochs)",)),
    ("backbone/e", b"name: [gru\n", ("e.yaml, line ", "not YAML")),
    ("backbone/e", b"- a\n- b\n", ("e.yaml: holds no keys",)),
    ("backbone/e", b"", ("backbone.name: must be given",)),
    ("backbone/e", b"name: \xff\n", ("e.yaml: not UTF-8",)),
    ("backbone/e", b"name: gru\n\x01: 3\n", ("e.yaml: not YAML",)),
    ("backbone/e", b"? {a: b}\n: 3\n", ("e.yaml, line 1: not YAML",)),
    ("backbone/e", b"name: gru\nepochs: many\n", ("backbone.epochs: must be a whole number", "many")),
    ("backbone/e", b"name: gru\nbatch_size: ${oc.env:HOME}\n", ("backbone.batch_size=${oc.env:HOME}", "resolver")),
    ("backbone/e", b"name: gru\n_target_: os.system\n", ("backbone._target_", "_target_ is not used")),
    ("experiment/e", GLOBAL.encode() + b"defaults:\n  - foo: bar\n", ("foo/bar",)),
    ("experiment/e", GLOBAL.encode() + b"defaults: 3\n", ("error: ",)),
    ("experiment/e", GLOBAL.encode() + b"seed: x\n", ("seed: must be a whole number",)),
    ("experiment/e", GLOBAL.encode() + b"refine:\n  coverag: 3\n", ("coverag",)),
    (
        "experiment/e",
        GLOBAL.encode() + b"refine: 3\n",
        ("experiment/e", "section of keys belongs"),
    ),
    ("experiment/e", GLOBAL.encode() + b"corpus:\n  modalities: [[text]]\n", ("corpus.modalities",)),
    ("experiment/e", GLOBAL.encode() + b"llm:\n  extra_body: {_target_: os.system}\n", ("llm.extra_body._target_",)),
    ("experiment/e", GLOBAL.encode() + b"variants: ['seed=${oc.env:HOME}']\n", ("seed=${oc.env:HOME}", "resolver")),
    ("experiment/e", b"# @package\nseed: 3\n", ("e.yaml: its first line must be # @package _global_",)),
    ("experiment/e", b"seed: 3\n", ("e.yaml: its first line must be # @package _global_",)),
    ("experiment/e", b"# @package _group_\nseed: 3\n", ("e.yaml: its first line must be # @package _global_",)),
    ("backbone/e", b"name: gru\nhidden: &a [*a]\n", ("e.yaml: nested too deep, or a part of it holds itself",)),
    ("backbone/e", b"name: gru\nx: " + b"[" * 3000, ("e.yaml: nested too deep",)),
    ("backbone/e", b"name: gru\nhidden: " + b"9" * 5000, ("e.yaml: ", "5000 digits")),
    ("backbone/e", b"name: gru\nhidden: !!python/object/apply:os.system ['id']\n", ("e.yaml, line 2: not YAML",)),
    ("backbone/e", b"name: gru\nhidden: ${${backbone.name}:HOME}\n", ("backbone.hidden=", "resolver")),
    ("backbone/e", b"name: gru\nhidden: ${a.${b}:HOME}\n", ("backbone.hidden=", "resolver")),
    ("backbone/e", b"name: gru\n'${oc.env:HOME}': 3\n", ("${oc.env:HOME}=3", "resolver")),
    ("experiment/e", GLOBAL.encode() + b"variants: [[seed=1]]\n", ("variants: must be a list of texts", "['seed=1']")),
    ("experiment/e", GLOBAL.encode() + b"variants: [{seed: 1}]\n", ("variants: must be a list of texts", "'seed': 1")),
    (
        "experiment/e",
        GLOBAL.encode() + b"llm: {trusted_hosts: [[a]]}\n",
        ("llm.trusted_hosts: must be a list of texts",),
    ),
    ("experiment/e", GLOBAL.encode() + b"llm: {drop_params: [[a]]}\n", ("llm.drop_params: must be a list of texts",)),
]
INTERNAL = ("$VALUE", "ConfigLoader", "unhashable type", "object_type", "Structured config", "subclass", "assert")


def _refused(place: Place, arguments: list[str], told: tuple[str, ...]) -> None:
    code, out, err = place.call("run", *arguments)
    check(code, err, told)
    assert out == ""
    assert not [word for word in INTERNAL if word in err], err


@pytest.mark.parametrize(("name", "content", "told"), FILES)
def test_a_slip_in_a_file(name: str, content: bytes, told: tuple[str, ...], place: Place) -> None:
    path = place.at / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    place.patch.chdir(place.at)
    _refused(place, [f"{path.parent.name}=e", "--config"], told)


def test_a_broken_file_that_is_not_used_stops_nothing(place: Place) -> None:
    path = place.at / "configs" / "backbone" / "broken.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("a: [")
    place.patch.chdir(place.at)
    code, out, err = place.call("run", "backbone=gru", "--config")
    assert (code, err) == (0, "")
    assert "name: gru" in out
    _refused(place, ["seed=x", "--config"], ("seed=x: must be a whole number",))


# A blank separates arguments.
TYPED = [
    ("seed={a:1}", ("seed={a:1}: must be a whole number",)),
    ("refine.coverage=[1]", ("refine.coverage=[1]: must be a whole number",)),
    ("seed=null", ("seed=null: must be a whole number",)),
    ("refine.max_cost=x", ("refine.max_cost=x: must be a number or null",)),
    ("refine.enabled=3.5", ("refine.enabled=3.5: must be true or false",)),
    ("refine=3", ("refine=3: must be a section of keys",)),
    ("corpus.name=${foo}", ("corpus.name", "'foo' not found")),
    ("corpus.modalities=[[text],[text,audio]]", ("written -m 'corpus.modalities=[text],[text,audio]'",)),
    ("-m corpus.modalities=[[text],[text,audio]]", ("written -m 'corpus.modalities=[text],[text,audio]'",)),
    ("backbone=corect backbone.modalities=[[text],[text,audio]]", ("written -m 'backbone.modalities=[text],[text,",)),
    ("llm.drop_params=[[a],[b]]", ("written -m 'llm.drop_params=[a],[b]'",)),
    ("-m backbone=glob(zz*)", ("glob finds none of the choices of backbone: corect,", "backbone=a,b")),
    ("-m seed=glob(*)", ("glob finds none of choices of corpus,", "seed=a,b")),
    ("--wandb-sweep -m backbone=glob(zz*)", ("glob finds none",)),
    ("-m seed=interval(0,1)", ("seed=interval(0,1): a sweep needs single values",)),
    # a key of another section
    ("epochs=5", ("Did you mean 'backbone.epochs'", "'trainer.epochs'")),
    ("lr=1e-3", ("Did you mean 'backbone.lr'?",)),
    ("trainer.lr=1e-3", ("Did you mean 'backbone.lr'?",)),
    ("coverag=3", ("Did you mean 'refine.coverage'?",)),
    ("max_cost=3", ("Did you mean 'refine.max_cost'?",)),
    ("temperature=1", ("'llm.temperature'",)),
    ("llm.api_version=1", ("unknown key 'llm.api_version'. Valid: name,",)),
    ("model=sdt", ("model is a section of keys. Did you mean 'backbone=sdt'?",)),
    ("bacbone=sdt", ("Did you mean 'backbone",)),
    ("llm=none", ("llm=none: no such llm; a run without one is written refine.enabled=false",)),
    # what reads the machine or names code
    ("seed=${oc.env:HOME}", ("seed=${oc.env:HOME}", "resolver")),
    ("corpus.name=${oc.env:HOME}", ("corpus.name=${oc.env:HOME}", "resolver")),
    ("runs=a/${now:%Y}", ("runs=a/${now:%Y}", "resolver")),
    ("corpus.name=${oc.decode:${oc.env:HOME}}", ("oc.decode",)),
    ("corpus.name=${hydra:runtime.cwd}", ("resolver",)),
    ("+llm.extra_body.x=${oc.env:HOME}", ("llm.extra_body.x=${oc.env:HOME}", "resolver")),
    ("+llm.extra_body._target_=os.system", ("_target_ is not used",)),
    ("trainer.callbacks=[{_target_:os.system}]", ("trainer.callbacks.0._target_", "_target_ is not used")),
    ("trainer.extra.x={_target_:os.system}", ("trainer.extra.x._target_", "_target_ is not used")),
    ("-m seed=0,1 hydra.launcher._target_=os.system", ("hydra.launcher._target_=os.system", "do not name code")),
    ("-m seed=0,1 +hydra.launcher.x={_target_:os.system}", ("do not name code",)),
    ("-m seed=0,1 hydra.sweeper._target_=os.system", ("only hydra/launcher",)),
    ("hydra.job_logging=x", ("only hydra/launcher",)),
    ("corpus.name=oc.env prompt.system='${${corpus.name}:HOME}'", ("prompt.system=", "resolver")),
    ("llm.extra_body={'${oc.env:HOME}':1}", ("error: ",)),
    # more than Python reads, or a machine holds
    (f"seed={'9' * 5000}", ("seed=999", "cannot be read")),
    (f"-m seed=0,{'9' * 5000}", ("error: ",)),
    ("-m seed=range(0,99999999)", ("seed=range(0,99999999): a sweep has at most 10,000 runs",)),
    ("-m seed=range(0,200) corpus.seed=range(0,200)", ("40,000 runs are more than a sweep may have, 10,000",)),
    ("-m ~seed", ("~seed is not of the form key=value",)),
    ("variants=[{a:b}]", ("variants: must be a list of texts",)),
]


@pytest.mark.parametrize(("typed", "told"), TYPED)
def test_what_is_typed(typed: str, told: tuple[str, ...], place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.system", None)
    _refused(place, ["llm=simulated", *typed.split(" "), "--config"] if "llm=" not in typed else typed.split(" "), told)


def test_a_glob_stands_for_the_choices_that_it_names(place: Place, tmp_path: Path) -> None:
    code, out, err = place.call("run", "-m", "backbone=glob(*_small)", "llm=simulated", "--config")
    assert (code, err) == (0, "")
    assert out.count("seed: 0\nruns:") == 2
    code, out, err = place.call("run", "--wandb-sweep", "-m", "backbone=glob([corect*,sdt*],exclude=*_meld)")
    assert (code, err) == (0, "")
    assert [word for word in ("- corect\n", "- corect_small\n", "- sdt\n", "- sdt_small\n") if word not in out] == []
    assert "meld" not in out


TUNED = [
    (b"backbone: {lr: 1, lr: 2}\n", ("tuned=", "e.yaml, line 1: not YAML (found duplicate key lr)")),
    (b"backbone: {epochs: 2024-01-01}\n", ("backbone.epochs: must be a whole number", "2024-01-01")),
    (b"backbone: {x: !!set {a}}\n", ("tuned=", "e.yaml: ", "'set' is not a supported")),
    (b"[" * 3000, ("tuned=", "e.yaml: nested too deep")),
    (b"backbone: &a [*a]\n", ("tuned=", "e.yaml: nested too deep, or a part of it holds itself")),
    (b"backbone: {epochs: " + b"9" * 5000 + b"}\n", ("tuned=", "e.yaml: ", "5000 digits")),
    (b"\xff\xfea", ("tuned=", "e.yaml: not UTF-8")),
    (b"- a\n", ("tuned=", "e.yaml: holds no keys")),
    (b"", ("a tuned file holds backbone, model, trainer; this one holds no sections",)),
    (b"seed: 3\n", ("a tuned file holds backbone, model, trainer; this one holds seed",)),
    (b"backbone: {lr: '${oc.env:HOME}'}\n", ("backbone.lr=", "resolver")),
    (b"trainer: {callbacks: [{_target_: os.system}]}\n", ("_target_ is not used",)),
]


@pytest.mark.parametrize(("content", "told"), TUNED)
def test_a_slip_in_a_tuned_file(content: bytes, told: tuple[str, ...], place: Place) -> None:
    path = place.at / "e.yaml"
    path.write_bytes(content)
    _refused(place, ["backbone=gru", "llm=simulated", f"tuned={path}", "--config"], told)


def test_a_launcher_of_ones_own_names_no_code(place: Place) -> None:
    path = place.at / "configs" / "hydra" / "launcher" / "e.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"_target_: subprocess.getoutput\ncmd: touch {place.at}/run\n")
    place.patch.chdir(place.at)
    told = ("hydra/launcher=e: settings do not name code to run (subprocess.getoutput)",)
    code, _, err = place.call("run", *tiny(place.at), "-m", "seed=0,1", "hydra/launcher=e")
    check(code, err, told)
    assert not (place.at / "run").exists()


@pytest.mark.parametrize("key", ["llm.headers", "llm.extra_body", "trainer.extra"])
def test_a_setting_of_any_keys_needs_no_plus(key: str, place: Place) -> None:
    for typed in (f"{key}.x=PATH", f"{key}={{x:PATH}}", f"+{key}.x=PATH", f"++{key}.x=PATH"):
        code, out, err = place.call("run", "backbone=gru", "llm=simulated", typed, "--config")
        assert (code, err) == (0, "")
        assert "    x: PATH\n" in out
