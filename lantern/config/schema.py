"""The typed configuration of a run. Imports neither torch, lightning nor litellm."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from lantern.config.overrides import one_line
from lantern.corpora.protocols.config import ProtocolConfig
from lantern.errors import UserError
from lantern.features.encoders.config import EncoderConfig
from lantern.refine.backends.config import BackendConfig
from lantern.refine.backends.simulated import SimulatedConfig
from lantern.refine.prompt import PromptConfig
from lantern.refine.questions import RefineConfig
from lantern.settings import Amount, Count, OneOf, Positive, Rate, Within, check
from lantern.weighting.config import StudyConfig, WeightingConfig


@dataclass
class CorpusConfig:
    """Which dialogues."""

    name: str = "???"
    path: str | None = None
    """Corpus folder written by ``experiments.import_corpus``; null: made by the generator (``sample`` only)."""
    dialogues: int = 60
    """Dialogues to generate (``sample`` only)."""
    seed: int = 0
    """Seed of the generator (``sample`` only)."""
    limit_dialogues: int | None = None
    """Use only the first so many dialogues, in the proportions of the splits. null: all."""
    modalities: list[str] | None = None
    """Use only these of the corpus's modalities (text, audio, visual). null: all it has."""
    allow_external_llm: bool = False
    """Send text of a corpus whose licence forbids redistribution to a remote LLM all the same."""

    def __post_init__(self) -> None:
        if self.modalities is not None and len(set(self.modalities)) != max(1, len(self.modalities)):
            problem = "names one twice" if self.modalities else "names none"
            raise UserError(f"corpus.modalities=[{','.join(self.modalities)}] {problem}; null takes all the corpus has")


@dataclass
class ModelConfig:
    """What the vanilla model learns."""

    dimensions: bool = True
    """A head for valence, arousal and dominance; off by itself where the corpus has no scores."""
    dimension_loss: Annotated[str, OneOf("ccc", "mse")] = "ccc"
    """``ccc`` (1 - concordance over the batch) or ``mse``."""
    dimension_weight: Amount = 1.0
    """Lambda of the dimension loss."""
    class_weights: Annotated[str, OneOf("inverse", "none")] = "inverse"
    """``inverse``: inverse class frequency of the training split; ``none``."""
    modality_dropout: Rate = 0.0
    """Probability with which a training dialogue loses each modality (one always stays): for a model that is to work
    where modalities are missing."""

    def __post_init__(self) -> None:
        check(self, "model")


@dataclass
class OofConfig:
    """Cross-fitting: the vanilla models whose held-out predictions the weighting is fitted on.

    The model of a fold takes its best epoch by the same dev dialogues as the main one, never by those it holds out:
    predictions that chose their own epoch would be too good.
    """

    folds: Annotated[int, Within(least=2)] = 5
    """Groups of training dialogues; not used where the training dialogues come from 2 to 8 recording sessions, which
    are the folds then."""
    seed: Annotated[int, Within(least=0)] | None = None
    """Decides which dialogues a fold holds out. null: ``seed``. Runs of several seeds share fine-tuned features only
    where this is the same."""
    test_model: Annotated[str, OneOf("full", "mean")] = "full"
    """Who predicts the test dialogues: ``full``, one model trained on all training dialogues, or ``mean``, the mean of
    the folds' models."""

    def __post_init__(self) -> None:
        check(self, "oof")


@dataclass
class TrainerConfig:
    """How and where the vanilla model is trained."""

    accelerator: Annotated[str, OneOf("cpu", "gpu", "mps", "auto")] = "cpu"
    """``cpu``, ``gpu`` (CUDA), ``mps`` (Metal), or ``auto``: the best that the machine has."""
    devices: Count = 1
    """Processes on each machine; several share the dialogues of a step."""
    nodes: Count = 1
    """Machines. With several, srun or torchrun starts the command on each."""
    precision: Annotated[str, OneOf("32-true", "tf32", "bf16-mixed", "16-mixed", "bf16-true", "64-true")] = "32-true"
    """``tf32``: 32 bits, but matrix products of NVIDIA GPUs (Ampere or later) round their factors to 19 bits."""
    compile: bool = False
    """Train CORECT or SDT as code that ``torch.compile`` makes; equal within rounding. docs/scale.md says where it
    pays."""
    epochs: Count | None = None
    """null: the backbone's own number."""
    patience: Count | None = None
    """Stop after so many epochs without a better dev weighted F1. null: never."""
    gradient_clip: Positive | None = None
    """Clip gradients by norm. null: off, as published."""
    threads: Annotated[int, Within(least=1, most=1024)] | None = None
    """CPU threads of each model, whose last bits depend on their number. null: one, and for an encoder all cores."""
    workers: Count | None = None
    """Processes that train models at the same time: those of a run's folds, and those of all runs of a sweep. Each
    holds the corpus. null: from the command line and on a CPU one for each core, but no more than four, once training
    has taken ten seconds; else one. No number depends on it."""
    deterministic: bool = True
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other argument of Lightning's ``Trainer`` for the training, such as ``accumulate_grad_batches: 2``."""
    callbacks: list[Any] = field(default_factory=list)
    """Lightning callbacks by name, or with options: ``[{name: swa, swa_lrs: 0.01}, lr_finder]``. Names: accumulation,
    device_stats, ema, lr_finder, lr_monitor, swa, timer."""
    loggers: list[Any] = field(default_factory=list)
    """Loggers beside ``training/metrics.csv``, by name or with options; they write into the run folder: tensorboard,
    mlflow."""

    @property
    def model_threads(self) -> int:
        """CPU threads of a vanilla model."""
        return self.threads or 1

    def __post_init__(self) -> None:
        check(self, "trainer")
        if (self.workers or 1) > 1 and self.processes > 1:
            raise UserError(
                f"trainer.workers={self.workers} trains several models at once and trainer.devices={self.devices} x "
                f"trainer.nodes={self.nodes} one model in several processes; take one of the two"
            )

    @property
    def processes(self) -> int:
        """That train one model together."""
        return self.devices * self.nodes


@dataclass
class TrackingConfig:
    """A sink besides the run folder."""

    name: Annotated[str, OneOf("none", "csv", "wandb")] = "none"
    """``none``; ``csv``: a line in ``results.csv`` beside the run folders; ``wandb``."""
    project: str | None = None
    """null: one project per corpus and label set."""
    online: bool = False
    """false: W&B writes to the run folder only; true: to its server, with your own login, where it answers."""
    group: str | None = None
    """W&B's group of the run, such as the name of a sweep. null: backbone and LLM."""
    system: bool = False
    """true: W&B also records the load of processor, memory and GPU."""

    def __post_init__(self) -> None:
        check(self, "tracking")


@dataclass
class LLMConfig(BackendConfig):
    """A backend, one file under ``configs/llm/``."""

    simulated: SimulatedConfig | None = None
    """Only for ``llm=simulated``."""


@dataclass
class TrainingDefaults:
    """The keys that every file under ``configs/backbone/`` has besides the backbone's own options."""

    name: str = "???"
    init_from: str | None = None
    """Weights to start from: safetensors, a state dict, a run's checkpoint, or a file of the published code."""
    epochs: Count = 30
    batch_size: Count = 16
    """Dialogues per step."""
    lr: Positive = 1e-4
    weight_decay: Amount = 0.0
    """Coupled L2, as in Adam."""
    scheduler: Annotated[str, OneOf("none", "plateau")] = "none"
    """``none``, or ``plateau``: a tenth of the rate after 10 epochs without a better dev loss."""

    def __post_init__(self) -> None:
        check(self, "backbone")


@dataclass
class RunConfig:
    """Everything that decides a run."""

    seed: int = 0
    runs: str = "runs"
    """Folder of run folders, shared stages and the ledger."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    backbone: dict[str, Any] = field(default_factory=dict)
    """:class:`TrainingDefaults` and the backbone's own options, told apart by :func:`split_backbone`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    llm: LLMConfig = field(default_factory=LLMConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    weighting: WeightingConfig = field(default_factory=WeightingConfig)
    oof: OofConfig = field(default_factory=OofConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    variants: list[str] = field(default_factory=list)
    """Of an experiment: runs that differ in these overrides (several, with blanks between, in one line); a sweep."""
    study: StudyConfig | None = None
    """Set by ``experiment=simulate``: the simulation study is done instead of a run."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed={self.seed} must be 0 to {2**32 - 1}, which NumPy takes")
        if not self.runs.strip():
            raise UserError(f"runs={self.runs!r} must name a folder, such as runs=runs")
        if self.protocol.selection == "paper-style" and self.weighting.fit_on == "dev" and self.refine.enabled:
            raise UserError(
                "weighting.fit_on=dev with protocol.selection=paper-style would fit the weighting on the test "
                "dialogues; take weighting.fit_on=oof"
            )
        if self.prompt.demonstrations and self.prompt.demonstrations_by == "nearest" and self.refine.calibrate:
            raise UserError(
                "refine.calibrate=true asks about an empty turn, to which no example is nearest; take "
                "prompt.demonstrations_by=class, or refine.calibrate=false"
            )
        if self.refine.samples > 1 and self.llm.temperature == 0 and self.llm.simulated is None:
            raise UserError(
                f"refine.samples={self.refine.samples}: all samples are the same at llm.temperature=0; set it"
            )
        if self.trainer.processes > 1 and self.refine.enabled and self.refine.when != "end":
            raise UserError(
                f"refine.when={self.refine.when} asks the LLM inside the training, whose {self.trainer.processes} "
                "processes would wait for it and time out; take refine.when=end or trainer.devices=1"
            )
        if self.oof.test_model == "mean" and not (self.refine.enabled and self.weighting.fit_on == "oof"):
            reason = f"weighting.fit_on={self.weighting.fit_on}" if self.refine.enabled else "refine.enabled=false"
            raise UserError(f"oof.test_model=mean needs the models of the folds, and {reason} trains none")

    @property
    def fold_seed(self) -> int:
        """Decides the folds."""
        return self.seed if self.oof.seed is None else self.oof.seed

    @property
    def ledger(self) -> str:
        """The ledger's file, or the URL of its database."""
        return str(Path(self.runs) / "ledger.sqlite") if self.refine.ledger is None else self.refine.ledger


@dataclass
class FoldsConfig:
    """Encoders beside the one that is fitted on all training dialogues."""

    folds: Annotated[int, Within(least=2)] | None = None
    """One for each fold of a run with this ``oof.folds`` and the same ``seed``: ``weighting.fit_on=oof``
    needs them. null: none, which is enough for ``weighting.fit_on=dev`` and for runs without an LLM."""

    def __post_init__(self) -> None:
        check(self, "oof")


@dataclass
class FinetuneConfig:
    """Everything that decides fine-tuned text features."""

    seed: Annotated[int, Within(least=0, most=2**32 - 1)] = 0
    """Of the heads, the order of the windows and the folds."""
    runs: str = "runs"
    """Folder of the shared stages."""
    out: str | None = None
    """Corpus folder that gets the features. null: ``<corpus.path>-<encoder>``, with a backbone ``-<backbone>`` too."""
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    backbone: dict[str, Any] = field(default_factory=dict)
    """Trained together with the encoder, on whole dialogues; empty: none. Of :class:`TrainingDefaults`, ``batch_size``,
    ``lr`` and ``weight_decay`` (decoupled) hold; the epochs and the fall of the rates are the encoder's."""
    oof: FoldsConfig = field(default_factory=FoldsConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    report_test: bool = False
    """Score the encoder's own head, or its backbone, on the test dialogues, once."""

    def __post_init__(self) -> None:
        check(self, "settings")
        if not self.runs.strip() or (self.out is not None and not self.out.strip()):
            raise UserError("runs and out must name a folder, such as runs=runs")
        if self.trainer.processes > 1:
            raise UserError(f"trainer.devices={self.trainer.devices}: an encoder is fine-tuned by one process")
        alone = self.encoder.frozen_epochs
        if self.backbone and self.trainer.epochs is not None and self.trainer.epochs <= alone:
            raise UserError(
                f"trainer.epochs={self.trainer.epochs} ends before the encoder learns: encoder.frozen_epochs={alone}"
            )
        if self.backbone.get("init_from") is not None:
            raise UserError(
                f"backbone.init_from={self.backbone['init_from']}: a backbone that is trained with an encoder starts "
                "from random weights; leave it null"
            )

    @property
    def epochs(self) -> int:
        """Of a training at most."""
        return self.trainer.epochs or self.encoder.epochs + (self.encoder.frozen_epochs if self.backbone else 0)


def split_backbone(node: dict[str, Any]) -> tuple[TrainingDefaults, dict[str, Any]]:
    """Training defaults and the backbone's own options of a ``backbone`` node."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    names = {f.name for f in fields(TrainingDefaults)}
    common = {k: v for k, v in node.items() if k in names}
    try:
        defaults = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainingDefaults), common))
    except OmegaConfBaseException as error:
        raise UserError(f"backbone.{one_line(error, TrainingDefaults)}") from None
    assert isinstance(defaults, TrainingDefaults)
    return defaults, {k: v for k, v in node.items() if k not in names}
