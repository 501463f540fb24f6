"""What is typed after ``experiments.run``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.bad_inputs.place import Place, check, tiny

ROOT = Path(__file__).resolve().parent.parent.parent

# A blank before key= separates overrides; each is refused before anything starts.
SETTINGS = [
    # how it is typed
    ("seed", ("'seed' is not of the form key=value",)),
    ("--quick", ("unknown option --quick", "--help")),
    ("seed=1=2", ("seed=1=2", "quotes")),
    ("corpus.modalities=[text", ("corpus.modalities=[text", "brackets")),
    ("seed=１", ("seed=１: the value cannot be read",)),
    ("seed=0,1", ("seed=0,1", "experiments.run -m seed=0,1")),
    ("llm=gpt-4o,claude", ("llm=gpt-4o,claude", "needs -m")),
    ("seed=${oc.env:NOT_SET}", ("NOT_SET",)),
    # groups and keys
    ("backbone=corekt", ("backbone=corekt", "Did you mean 'corect'")),
    ("llm=Simulated", ("llm=Simulated", "Did you mean 'simulated'")),
    ("llm=gpt-5000", ("llm=gpt-5000", "Did you mean 'gpt-5'", "Valid: azure, bedrock")),
    ("backbone=null", ("backbone=null: no such backbone", "Valid: corect")),
    ("trainer=null", ("trainer=null: no such trainer", "Valid: cpu,")),
    ("experiment=frist_run", ("Did you mean 'first_run'",)),
    ("corpu.name=x", ("unknown key 'corpu'", "Did you mean 'corpus'")),
    ("refine.coverag=3", ("refine.coverag", "Did you mean 'coverage'")),
    ("backbone.hiden=3", ("backbone.hiden", "Did you mean 'hidden'")),
    ("+backbone.extra=3", ("backbone.extra is not an option of backbone gru", "Valid: hidden")),
    ("study.seeds=3", ("study.seeds=3: only with experiment=simulate",)),
    ("llm=gpt-4o llm.simulated.skill=1", ("llm.simulated.skill=1: only with llm=simulated",)),
    # types
    ("seed=one", ("seed", "one")),
    ("refine.coverage=three", ("refine.coverage", "three")),
    ("backbone.epochs=many", ("backbone.epochs", "many")),
    ("backbone.hidden=many", ("backbone.hidden", "many")),
    ("variants=abc", ("variants=abc",)),
    # numbers
    ("seed=-1", ("seed=-1", "0 to 4294967295")),
    ("seed=4294967296", ("seed=4294967296",)),
    ("refine.max_cost=nan", ("refine.max_cost=nan is not a finite number", "null")),
    ("llm.simulated.skill=inf", ("llm.simulated.skill=inf is not a finite number",)),
    ("model.dimension_weight=nan", ("model.dimension_weight=nan",)),
    ("backbone.lr=nan", ("backbone.lr=nan is not a finite number",)),
    ("backbone.lr=-1", ("backbone.lr=-1.0 must be above 0",)),
    ("backbone.weight_decay=-1", ("backbone.weight_decay=-1.0 must be 0 or more",)),
    ("backbone.epochs=0", ("backbone.epochs=0 must be at least 1",)),
    ("refine.coverage=0", ("refine.coverage=0 must be at least 1",)),
    ("refine.coverage=99999999999", ("refine.coverage=99999999999 must be at most 100",)),
    ("refine.samples=1000", ("refine.samples=1000 must be at most 100",)),
    ("refine.samples=2 llm=vllm", ("refine.samples=2", "llm.temperature=0")),
    ("llm.top_p=0", ("llm.top_p=0.0 must be above 0 and at most 1",)),
    ("llm.timeout=0", ("llm.timeout=0.0 must be above 0",)),
    ("llm.price_input=1", ("llm.price_input and llm.price_output must be given together",)),
    ("protocol.dev_share=2", ("protocol.dev_share=2.0", "between 0 and 1")),
    ("weighting.hidden=99999999999", ("weighting.hidden=99999999999 must be at most 1024",)),
    ("trainer.threads=99999", ("trainer.threads=99999 must be at most 1024",)),
    ("experiment=simulate study.test=2", ("study.test=2 must be at least 100",)),
    ("trainer.gradient_clip=-1", ("trainer.gradient_clip=-1.0 must be above 0, or null",)),
    ("corpus.dialogues=2", ("corpus.dialogues=2 must be at least 5",)),
    ("corpus.seed=-1", ("corpus.seed=-1 must not be negative",)),
    ("corpus.limit_dialogues=2", ("corpus.limit_dialogues=2", "at least 3")),
    ("trainer.extra.accumulate_grad_batches=0", ("trainer.extra.accumulate_grad_batches=0 must be above 0",)),
    ("trainer.extra.val_check_interval=0", ("trainer.extra.val_check_interval=0 must be above 0",)),
    ("trainer.extra.val_check_interval=-0.5", ("trainer.extra.val_check_interval=-0.5 must be above 0",)),
    # words
    ("refine.when=never", ("refine.when=never is not one of end, best, every_n",)),
    ("model.dimension_loss=CCC", ("model.dimension_loss=CCC is not one of ccc, mse", "Did you mean 'ccc'")),
    ("weighting.name=attentoin", ("weighting.name=attentoin", "Did you mean 'attention'")),
    ("weighting.fit_on=train", ("weighting.fit_on=train", "use weighting.fit_on=oof")),
    ("backbone.scheduler=cosine", ("backbone.scheduler=cosine is not one of none, plateau",)),
    ("trainer.accelerator=tpu", ("trainer.accelerator=tpu is not one of cpu, gpu",)),
    ("trainer.precision=fp16", ("trainer.precision=fp16 is not one of 32-true, tf32, bf16-mixed, 16-mixed",)),
    ("corpus.modalities=[smell]", ("smell", "text, audio, visual")),
    ("corpus.modalities=[]", ("corpus.modalities=[] names none", "null")),
    ("corpus.modalities=[text,text]", ("corpus.modalities=[text,text] names one twice",)),
    ("prompt.system='{clases}{reply}'", ("prompt.system: {clases} has no meaning", "Did you mean 'classes'")),
    ("prompt.system=hello", ("prompt.system must hold {classes} and {reply}",)),
    ("prompt.question='{'", ("prompt.question", "write a literal brace twice")),
    ("runs=", ("runs='' must name a folder",)),
    # settings that contradict one another
    ("protocol.name=loso", ("protocol.name=loso needs protocol.fold=1 to 5",)),
    ("protocol.fold=3", ("protocol.fold=3 is for protocol=loso",)),
    ("protocol=loso protocol.fold=9", ("test session 9 is not in corpus 'sample'",)),
    ("refine.batch=true", ("refine.batch=true", "no batch interface")),
    # secrets: the setting is named, its value is not
    ("+llm.extra_body.api_key=sk-123", ("llm.extra_body.api_key holds a literal secret", "llm.api_key_env")),
    ("+llm.extra_body.headers={x-api-key:sk-123}", ("llm.extra_body.headers.x-api-key holds a literal secret",)),
    ("+llm.extra_body.note=Bearer sk-123", ("llm.extra_body.note holds a literal secret",)),
    ("+llm.extra_body.tools=[{a:sk-123abcdef}]", ("llm.extra_body.tools.0.a holds a literal secret",)),
    ("+llm.headers.X-Org=sk-123", ("llm.headers.X-Org must be the name of an environment variable, not its value",)),
    ("llm=vllm +llm.headers.X-Org=NOT_SET", ("llm=vllm needs the environment variable NOT_SET", "the header X-Org")),
    ("llm.api_base=https://me:sk-123@host/v1", ("llm.api_base holds a literal secret",)),
    ("llm.api_base='https://host/v1?api-key=sk-123'", ("llm.api_base holds a literal secret",)),
    # the LLM
    ("llm=gpt-4o", ("llm=gpt-4o needs the environment variable OPENAI_API_KEY", "export OPENAI_API_KEY")),
    ("llm=gpt-4o llm.api_key_env=SOME_KEY llm.model=opnai/gpt-4o", ("'opnai'", "Did you mean 'openai'")),
    ("llm.model=gpt-4o", ("llm.model=gpt-4o must be provider/model",)),
    ("llm.name=a/b", ("llm.name='a/b'", "letters, digits")),
    ("llm=vllm llm.api_base=localhost:8000", ("llm.api_base=localhost:8000 must be a URL", "http://")),
    ("llm.elicitation=logprobs", ("llm.elicitation=logprobs is not one of json, letters, words",)),
    ("llm.elicitation=letters llm.drop_params=[logprobs]", ("drop_params=[logprobs] leaves out logprobs", "=json")),
    ("llm.elicitation=words llm.drop_params=[seed,top_logprobs]", ("leaves out top_logprobs", "=json")),
    ("llm=claude llm.api_key_env=SOME_KEY llm.elicitation=words", ("use llm.elicitation=json",)),
    ("llm=smollm2 llm.embedded=/none.gguf", ("llm.embedded=/none.gguf: there is no such file",)),
    # this machine
    pytest.param(
        "trainer=gpu",
        ("trainer=gpu", "take trainer=cpu"),
        marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
    ),
    ("runs=/dev/null", ("runs=/dev/null is a file; name a folder",)),
    ("runs=/dev/null/x", ("runs=/dev/null/x cannot be made: /dev/null is a file",)),
    ("refine.ledger=/", ("refine.ledger=/ is a folder; name a file",)),
    ("corpus.path=/nowhere", ("corpus.path=/nowhere: no corpus folder there", "import_corpus")),
    ("corpus=meld corpus.path=/nowhere/meld", ("/nowhere/meld", "import_corpus meld")),
    ("protocol.dev_list=/nowhere", ("protocol.dev_list=/nowhere cannot be read",)),
    ("backbone.init_from=/none.pt", ("backbone.init_from=/none.pt: no such file",)),
    ("-m seed=0,x", ("seed", "x")),
    ("-m llm=simulated,gtp-4", ("llm=gtp-4: no such llm", "Did you mean 'gpt-4'")),
]


@pytest.mark.parametrize(("settings", "told"), SETTINGS)
def test_a_bad_setting(settings: str, told: tuple[str, ...], place: Place) -> None:
    given = re.split(r" (?=\S+=)", settings)
    typed = {setting.partition("=")[0] for setting in given}
    kept = [setting for setting in tiny(place.at) if setting.partition("=")[0] not in typed]
    code, out, err = place.call("run", *kept, *given)
    check(code, err, told)
    assert out == ""
    assert "sk-" not in err
    assert list(place.at.iterdir()) == []


@pytest.mark.slow
def test_a_terminal_without_the_letters_and_a_reader_that_leaves(place: Place) -> None:
    command = [sys.executable, "-m", "experiments.plan", *tiny(place.at)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    command = [sys.executable, "-m", "experiments.run", "--config"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "backbone=corekt"], "Did you mean 'corect'"),
        (["plan", "refine.max_cost=nan"], "refine.max_cost=nan"),
        (["predict", "/none.txt", "--run", "/none"], "/none.txt is missing"),
        (["import_corpus", "sample", "--dialogues", "1", "--out", "/none/c"], "at least 5"),
    ],
)
def test_as_a_command(arguments: list[str], told: str) -> None:
    command = [sys.executable, "-m", f"experiments.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    check(done.returncode, done.stderr, (told,))
    assert done.stdout == ("reading settings\n" if arguments[0] in ("run", "plan") else "")
