"""Checks everything about a run that can be checked before it starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lantern.config.compose import to_plain
from lantern.config.schema import FinetuneConfig, RunConfig, split_backbone
from lantern.corpora.fitted import fitted_for
from lantern.corpora.folder import Corpus, load_corpus, no_corpus
from lantern.corpora.protocols.overlaps import protocol_report
from lantern.corpora.protocols.splits import Split, folds, resolve_split
from lantern.corpora.sample.generator import generate_sample
from lantern.environment import versions
from lantern.errors import UserError
from lantern.features.extractors.minilm import find_model
from lantern.files import check_place, digest
from lantern.pipeline.store import StageStore, modalities, train_inputs
from lantern.refine.backends.batches import BatchClient
from lantern.refine.backends.litellm_backend import LiteLLMBackend
from lantern.refine.backends.simulated import SimulatedBackend
from lantern.refine.ledger.location import is_url
from lantern.report.sinks.tracking import check_tracking
from lantern.results.texts import refiner_of


@dataclass(frozen=True, slots=True)
class VanillaStage:
    """One vanilla model that a run needs."""

    title: str
    split: Split
    """``train`` and ``dev`` of this model; ``test`` are the dialogues it predicts."""
    corpus: Corpus
    """With the features for this model: those that were fitted on labels saw no dialogue that it predicts."""
    inputs: dict[str, Any]
    """What it depends on: the address of its stage."""
    done: bool
    """It was trained before and will be reused."""


@dataclass(frozen=True)
class ReadyRun:
    """A run whose inputs have been checked; nothing has been started."""

    config: RunConfig
    corpus: Corpus
    split: Split
    backend: Any
    """The LLM that refines; None without one."""
    folder: Path

    @property
    def store(self) -> StageStore:
        """The stages that all runs in ``runs`` share."""
        return StageStore(Path(self.config.runs) / "stages")

    @cached_property
    def key(self) -> str:
        """Digest of everything that the result depends on; part of the result."""
        return digest(
            {
                "version": 1,
                "run": self.folder.name,  # which ends in the digest of the configuration
                "corpus": self.corpus.fingerprint,
                "test": list(self.split.test),
                "stages": [stage.inputs for stage in self.vanilla_stages],
            }
        )

    def finished(self) -> dict[str, Any] | None:
        """The result of this run if it is complete and made from the same inputs by this Lantern, else None.

        A result with failed fields is not complete: they may succeed now.
        """
        try:
            result = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
            whole = result["key"] == self.key and (result["llm"] is None or not result["llm"]["failed_fields"])
            whole = whole and result["incomplete"] is None and result["versions"] == versions()
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return result if whole and (self.folder / "predictions.test.parquet").is_file() else None

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """Names, counts and overlaps of the split, as the result holds them."""
        return protocol_report(self.corpus, self.split, self.config.protocol)

    @cached_property
    def refined(self) -> dict[str, tuple[str, ...]]:
        """Ids of the dialogues that the LLM refines, by split; empty without an LLM.

        ``oof`` are training dialogues, predicted by models that did not train on them.
        """
        if self.backend is None:
            return {}
        config, limit = self.config, self.config.refine.limit_dialogues
        fitted = (
            {"oof": self.split.train[:limit]} if config.weighting.fit_on == "oof" else {"dev": self.split.dev[:limit]}
        )
        return {**fitted, "test": self.split.test[:limit]}

    @property
    def predicts_by_mean(self) -> bool:
        """Whether the mean of the folds' models predicts the test dialogues."""
        return self.config.oof.test_model == "mean" and "oof" in self.refined

    @cached_property
    def vanilla_stages(self) -> list[VanillaStage]:
        """The vanilla model of all training dialogues, then those of the folds that are needed."""
        config, split = self.config, self.split
        name = config.backbone["name"]
        stages = [self._vanilla_stage(f"train {name} on {len(split.train)} dialogues", split, in_training=True)]
        needed = set(self.refined.get("oof", ()))
        pairs = folds(self.corpus, split.train, config.oof.folds, config.fold_seed) if needed else []
        for number, (fit, held) in enumerate(pairs, 1):
            if self.predicts_by_mean or needed & set(held):
                title = f"train {name} without fold {number} of {len(pairs)}, on {len(fit)} dialogues"
                stages.append(self._vanilla_stage(title, Split(fit, split.dev, held)))
        return stages

    def _vanilla_stage(self, title: str, split: Split, in_training: bool = False) -> VanillaStage:
        chosen = modalities(self.config, self.corpus)
        corpus = fitted_for(self.corpus, split.train, split.dev, chosen, finetune_command(self.config))
        inputs = train_inputs(self.config, corpus, split, in_training)
        return VanillaStage(title, split, corpus, inputs, self.store.done("train", inputs))


def preflight_all(configs: Sequence[RunConfig], check_backend: bool = True) -> list[ReadyRun]:
    """:func:`preflight` of the runs of a sweep, which share the corpora that they have in common."""
    corpora: dict[str, Corpus] = {}
    ready = []
    for config in configs:
        key = digest(asdict(config.corpus))
        if key not in corpora:
            corpora[key] = read_corpus(config)
        ready.append(preflight(config, check_backend, corpora[key]))
    return ready


def preflight(config: RunConfig, check_backend: bool = True, corpus: Corpus | None = None) -> ReadyRun:
    """Load the corpus and check everything that can be checked before training starts.

    With ``check_backend=False`` the LLM's key and server are not checked, which is enough for a plan. *corpus*: what
    :func:`read_corpus` gives for this configuration, where it has been read already.

    Raises:
        UserError: a missing corpus, backbone option, key, modality or consent.
    """
    defaults, _ = split_backbone(config.backbone)
    corpus = corpus or read_corpus(config)
    split = resolve_split(corpus, config.protocol, config.seed)
    for part in ("train", "dev", "test"):
        ids = getattr(split, part)
        if all(u.label is None for i in ids for u in corpus.by_id[i].utterances):
            raise UserError(f"corpus {corpus.name!r}: no utterance of the {len(ids)} {part} dialogues is labelled")
    backend = None
    if config.refine.enabled:
        backend = backend_of(config)
        if config.llm.remote and corpus.redistribution == "forbidden" and not config.corpus.allow_external_llm:
            raise UserError(
                f"corpus {corpus.name!r} may not be passed on and llm={config.llm.name} is a remote service; "
                "set corpus.allow_external_llm=true if your licence allows it, or take a local LLM"
            )
        if config.prompt.demonstrations and config.prompt.demonstrations_by == "nearest":
            find_model()
        if config.refine.batch:
            if config.llm.simulated is not None:
                raise UserError("refine.batch=true: llm=simulated has no batch interface")
            BatchClient(backend)  # refuses providers without one
            if config.refine.when != "end":
                raise UserError(f"refine.batch=true cannot wait inside a training; refine.when={config.refine.when}")
        if check_backend:
            backend.check_ready()
    if check_backend:
        check_training(config)
        check_tracking(config)
        check_place("runs", Path(config.runs), folder=True)
        if not is_url(config.ledger):
            check_place("refine.ledger", Path(config.ledger), folder=False)
        elif backend is not None:
            from lantern.refine.ledger.ledger import Ledger

            Ledger(config.ledger).close()  # refuses a server that cannot be reached
    llm = config.llm.name if config.refine.enabled else "none"
    identity = to_plain(config)
    for key in ("runs", "tracking"):
        identity.pop(key)
    for section, keys in _NO_PART.items():
        for key in keys:
            identity[section].pop(key)
    if config.llm.elicitation != "words":
        identity["prompt"].pop("class_words")
    for (section, keys), unset in _LATER.items():
        if identity[section][keys[0]] == unset:
            for key in keys:
                identity[section].pop(key)
    name = f"{corpus.name}-{defaults.name}-{llm}-seed{config.seed}-{digest(identity)[:8]}"
    ready = ReadyRun(config, corpus, split, backend, Path(config.runs) / name)
    assert ready.vanilla_stages  # built now: refuses a wrong backbone or fold
    if backend is not None and ready.finished() is None:
        prompt = refiner_of(config, corpus.by_id, corpus.label_set, corpus.score_range).prompt
        backend.check_words(prompt.shape(1))
        backend.check_parameters()  # last: it needs litellm's tables, which take seconds to read
    return ready


def finetune_command(config: RunConfig) -> str:
    """The command that makes fine-tuned features for the models of a run."""
    named = [f"corpus={config.corpus.name}"]
    named += [f"{key}={value}" for key, value in (("corpus.limit_dialogues", config.corpus.limit_dialogues),) if value]
    named += [f"protocol={config.protocol.name}", f"seed={config.fold_seed}"]
    if config.refine.enabled and config.weighting.fit_on == "oof":
        named.append(f"oof.folds={config.oof.folds}")
    return f"python -m experiments.finetune_text {' '.join(named)}"


def too_wide(ready: ReadyRun) -> list[str]:
    """A warning where ``backbone.hidden`` is more than :data:`TOO_WIDE` times the width of all features together.

    A layer wider than its input adds nothing that it could read from it, only weights to learn the training dialogues
    by heart. Published settings are narrower than their features: SDT 1024 on 2,948-d (IEMOCAP) and 1,666-d (MELD),
    CORECT 100 on 1,380-d; what was chosen here on MELD's dev split with 384-d text is a third as wide. Twice as wide is
    beyond all of them and still leaves room for small features under a common size.
    """
    config, cards = ready.config, ready.corpus.cards
    dims = {name: cards[name].dims for name in modalities(config, ready.corpus)}
    hidden, width = config.backbone.get("hidden"), sum(dims.values())
    if not isinstance(hidden, int) or hidden <= TOO_WIDE * width:
        return []
    features = " + ".join(f"{size}-d {name}" for name, size in dims.items())
    fitting = max(8, 2 ** (max(1, width // 2).bit_length() - 1))
    return [
        f"backbone.hidden={hidden} is {hidden / width:.1f} times as wide as the features ({features}); a model this "
        f"wide learns the {len(ready.split.train):,} training dialogues by heart: set backbone.hidden={fitting} or so"
    ]


def check_training(config: RunConfig | FinetuneConfig) -> None:
    """Refuse, before anything starts, a device that this machine does not have and settings that Lightning refuses."""
    trainer = config.trainer
    if trainer.accelerator == "gpu" and not _has_cuda():
        raise UserError("trainer=gpu: this machine has no CUDA device that torch can use; take trainer=cpu")
    if trainer.accelerator == "mps" and not _has_metal():
        raise UserError("trainer.accelerator=mps: this machine has no Metal device for torch; take trainer=cpu")
    if (trainer.workers or 1) > 1 and isinstance(config, FinetuneConfig):
        raise UserError(f"trainer.workers={trainer.workers}: encoders are fine-tuned one after the other; leave it out")
    if trainer.precision == "tf32" and trainer.accelerator in ("cpu", "mps"):
        raise UserError("trainer.precision=tf32 is for NVIDIA GPUs (trainer=gpu); CPUs may have bf16-mixed")
    if trainer.extra or trainer.callbacks or trainer.loggers or trainer.compile:
        from lantern.pipeline.loggers import check_loggers
        from lantern.pipeline.trainer import check_trainer

        check_trainer(config)
        check_loggers(config)


def _has_cuda() -> bool:
    # Without a driver's device file there is no need to import torch.
    if sys.platform == "linux" and not any(Path(f"/dev/{name}").exists() for name in ("nvidiactl", "kfd", "dxg")):
        return False
    import torch

    return torch.cuda.is_available()


def _has_metal() -> bool:
    if sys.platform != "darwin":
        return False
    import torch

    return torch.backends.mps.is_available()


TOO_WIDE = 2
_NO_PART = {
    "refine": ("ledger", "min_answered"),
    "trainer": ("loggers", "workers"),
    "llm": ("headers", "trusted_hosts", "base_model", "patience"),
}
"""Settings that no number of a run depends on: they take no part in the name of its folder."""
_LATER = {
    ("llm", ("reasoning_effort",)): None,
    ("oof", ("seed",)): None,
    ("prompt", ("demonstrations", "demonstrations_by", "examples")): 0,
    ("refine", ("independent",)): False,
    ("trainer", ("compile",)): False,
}
"""Settings that came later, by the one that decides whether they take part, and its value where they do not: other
folders keep their names."""


def backend_of(config: RunConfig) -> Any:
    """The backend that ``config.llm`` describes."""
    return SimulatedBackend(config.llm) if config.llm.simulated else LiteLLMBackend(config.llm)


def read_corpus(config: RunConfig | FinetuneConfig) -> Corpus:
    """The corpus of a configuration, limited as it says."""
    wanted = config.corpus
    if wanted.path is None:
        if wanted.name != "sample":
            raise UserError(f"corpus={wanted.name} needs corpus.path=<folder written by experiments.import_corpus>")
        corpus = generate_sample(seed=wanted.seed, dialogues=wanted.dialogues)
    else:
        if not (Path(wanted.path) / "corpus.json").is_file():
            raise no_corpus(f"corpus.path={wanted.path}", Path(wanted.path))
        corpus = load_corpus(Path(wanted.path))
    return corpus if wanted.limit_dialogues is None else corpus.limit(wanted.limit_dialogues)
