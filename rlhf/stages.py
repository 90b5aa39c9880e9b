"""The stages of the chain: one table, which whoever lists stages reads.

A new stage is a row here, its function, and `flows/<name>.py`; `make dvc.yaml` writes the row into
`dvc.yaml`. `flows/README.md` shows how.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rlhf import registry
from rlhf.common.address import Address
from rlhf.common.errors import RlhfError
from rlhf.settings import Settings
from rlhf.workspace import Workspace

Run = Callable[[Settings, Workspace], object]


# -- what settings choose by name ------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A table of the registry, and the names in it that settings choose."""

    table: Mapping[str, str]
    names: Callable[[Settings], Iterable[str]]

    def places(self, settings: Settings) -> list[tuple[str, str]]:
        """Each chosen name, once, with its `module:name`; names of another table are passed over."""
        names = dict.fromkeys(self.names(settings))
        return [(name, self.table[name]) for name in names if name in self.table]


def _kinds(addresses: Iterable[str]) -> list[str]:
    return [Address.parse(address).kind for address in addresses]


def _kinds_of_sources(settings: Settings) -> list[str]:
    data = settings.data
    lists = (data.sft, data.preferences, data.prompts, data.evaluation, data.pretrain)
    return _kinds([settings.model.source, *(one for addresses in lists for one in addresses)])


_SOURCES = Choice(registry.SOURCES, _kinds_of_sources)
_ENGINES = Choice(registry.ENGINES, lambda settings: [settings.engine.kind])
_ALGORITHMS = Choice(registry.ALGORITHMS, lambda settings: [settings.ppo.algorithm])
_SAMPLERS = Choice(registry.SAMPLERS, lambda settings: [settings.ppo.sampling.sampler])
_REWARDS = Choice(registry.REWARDS, lambda settings: _kinds(settings.ppo.rewards))
_JUDGES = Choice(registry.JUDGES, lambda settings: _kinds(settings.evaluate.judges))


# -- a stage ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """What a stage is called, runs, reads and writes.

    function: where it is, `module:name`; takes the settings and the workspace
    tables: of `data/prepared`, read; models: below `models/`, read; reads: other paths
    params: sections of params.yaml, or keys that every settings file has
    chooses: from which tables the settings choose for it, the engine of a stage that trains aside
    model: below `models/`, written
    registered: whether MLflow's registry gets that model; alias: its alias there
    writes: other paths, written; summary, step_log, details, samples: whether it writes these
    recorded: further files that MLflow keeps with its run (.jsonl and .parquet become tables)
    trains: on `engine.processes` processes, with checkpoints
    downloads: whether it may use the network
    shared_by_arms: whether a study runs it once, for all of its arms
    key_metrics: those that `rlhf show` prints; compared: of these, the few in DVC's tables
    key_curves: of its step log, those to look at first
    """

    name: str
    about: str
    function: str
    params: tuple[str, ...]
    chooses: tuple[Choice, ...] = ()
    tables: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    model: str | None = None
    registered: bool = False
    alias: str | None = None
    writes: tuple[str, ...] = ()
    summary: bool = True
    step_log: bool = False
    details: bool = False
    samples: bool = False
    recorded: tuple[str, ...] = ()
    trains: bool = False
    downloads: bool = False
    shared_by_arms: bool = False
    key_metrics: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    key_curves: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """The module that its function is in."""
        return self.function.partition(":")[0]

    def load(self) -> Run:
        """Import its function; a stage loads only what it needs."""
        run: Run = registry.find({self.name: self.function}, self.name)
        return run

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All tables from which settings choose for it."""
        return (_ENGINES, *self.chooses) if self.trains else self.chooses

    def chosen(self, settings: Settings) -> list[tuple[str, str]]:
        """What the settings choose by name for it: each name with its `module:name`."""
        return [place for choice in self.choices for place in choice.places(settings)]

    def modules(self, settings: Settings) -> list[str]:
        """The modules that it runs: its own, and those of what the settings choose."""
        chosen = [place.partition(":")[0] for _, place in self.chosen(settings)]
        return [self.module, *chosen]

    @property
    def metrics_files(self) -> list[str]:
        """What it writes of its measurements, beside what DVC's tables and plots read."""
        files = {
            f"metrics/{self.name}.json": self.summary,
            f"metrics/{self.name}.jsonl": self.step_log,
            f"metrics/{self.name}_details.json": self.details,
            f"metrics/{self.name}_samples.jsonl": self.samples,
        }
        return [path for path, written in files.items() if written]

    @property
    def outs(self) -> list[str]:
        """All that it writes, beside what DVC's tables read."""
        model = [f"models/{self.model}"] if self.model else []
        plots = [f"metrics/{self.name}_steps.json"] if self.step_log else []
        return [*model, *self.writes, *self.metrics_files, *plots]

    @property
    def dvc_metrics(self) -> list[str]:
        """The file that `dvc metrics` and `dvc exp show` read.

        All measurements would be a table of 300 columns.
        """
        return [f"metrics/{self.name}_key.json"] if self.compared else []


_RANKING_METRICS = (
    "accuracy",
    "accuracy_helpful",
    "accuracy_harmless",
    "accuracy_unseen_openings",
    "seconds",
)
_RANKING_CURVES = ("pair_loss", "validation_loss", "train_accuracy", "validation_accuracy")


# -- the table -------------------------------------------------------------------------------------

BEFORE_REPORT = (
    Stage(
        name="fetch",
        about="Bring the base model and the raw data, pinned by hash; the only stage that touches a network",
        function="rlhf.data.fetch:fetch",
        reads=("rlhf/data/starter",),
        params=(
            "seed",
            "model",
            "data.sft",
            "data.preferences",
            "data.prompts",
            "data.evaluation",
            "data.pretrain",
        ),
        chooses=(_SOURCES,),
        model="base",
        registered=True,
        alias="current",
        writes=("data/raw",),
        downloads=True,
        shared_by_arms=True,
        key_metrics=("bytes",),
    ),
    Stage(
        name="prepare",
        about="Clean, split and tokenise the raw data into four tables",
        function="rlhf.data.prepare:prepare",
        models=("base",),
        reads=("data/raw",),
        params=("seed", "data"),
        # one by one: whoever reads a table is then tied to it by hash
        writes=(
            "data/prepared/preferences.parquet",
            "data/prepared/pretrain.parquet",
            "data/prepared/prompts.parquet",
            "data/prepared/sft.parquet",
        ),
        details=True,
        shared_by_arms=True,
    ),
    Stage(
        name="sft",
        about="Fine-tune the base model on dialogues",
        function="rlhf.training.sft:train",
        tables=("sft",),
        models=("base",),
        params=("seed", "engine", "sft"),
        model="sft",
        registered=True,
        alias="current",
        step_log=True,
        trains=True,
        shared_by_arms=True,
        key_metrics=(
            "validation_loss",
            "validation_perplexity",
            "base_validation_perplexity",
            "seconds",
        ),
        compared=("validation_loss",),
        key_curves=("train_loss", "validation_loss"),
    ),
    Stage(
        name="reward",
        about="Train the reward model on preference pairs",
        function="rlhf.training.reward:train",
        tables=("preferences",),
        models=("${reward.initial}",),
        params=("seed", "engine", "reward"),
        model="reward",
        registered=True,
        alias="current",
        step_log=True,
        details=True,
        trains=True,
        shared_by_arms=True,
        key_metrics=_RANKING_METRICS,
        compared=("accuracy",),
        key_curves=_RANKING_CURVES,
    ),
    Stage(
        name="ppo",
        about="Train the policy against the reward model",
        function="rlhf.training.loop:train",
        tables=("pretrain", "prompts"),
        models=("base", "reward", "sft"),
        params=("seed", "engine", "ppo", "data.max_response_tokens"),
        chooses=(_ALGORITHMS, _SAMPLERS, _REWARDS),
        model="policy",
        # `evaluate` makes its version the registry's challenger
        registered=True,
        step_log=True,
        details=True,
        samples=True,
        recorded=("metrics/ppo_samples.jsonl",),
        trains=True,
        key_metrics=(
            "reward_first",
            "reward_last",
            "kl_last",
            "response_length_last",
            "collapsed",
            "seconds",
        ),
        compared=("reward_last", "kl_last"),
        key_curves=(
            "reward",
            "validation_reward",
            "kl",
            "response_length",
            "finished",
            "entropy",
            "policy_loss",
            "value_loss",
            "explained_variance",
        ),
    ),
    Stage(
        name="gold",
        about="Train a second reward model on pairs that the first never saw; it only judges",
        function="rlhf.training.reward:train_gold",
        tables=("preferences",),
        models=("${gold.initial}",),
        params=("seed", "engine", "gold"),
        model="gold",
        registered=True,
        alias="current",
        step_log=True,
        details=True,
        trains=True,
        shared_by_arms=True,
        key_metrics=_RANKING_METRICS,
        compared=("accuracy",),
        key_curves=_RANKING_CURVES,
    ),
    Stage(
        name="evaluate",
        about="Let models answer held-out prompts and judge them pairwise",
        function="rlhf.evaluation.evaluate:evaluate",
        tables=("pretrain", "prompts"),
        models=("base", "gold", "policy", "sft"),
        # the questions of the alignment tax
        reads=("rlhf/evaluation/knowledge.jsonl",),
        params=("seed", "engine", "evaluate"),
        chooses=(_JUDGES,),
        writes=("data/evaluation",),
        recorded=("data/evaluation/comparisons.parquet",),
        details=True,
        key_metrics=(
            "compared",
            "judge",
            "win",
            "tie",
            "lose",
            "win_rate",
            "win_rate_low",
            "win_rate_high",
        ),
        compared=("win_rate", "win_rate_low", "win_rate_high"),
    ),
)

_REPORT = Stage(
    name="report",
    about="Draw one page from the metrics and the judged pairs",
    function="rlhf.report.build:build",
    reads=(
        "data/evaluation",
        *(path for stage in BEFORE_REPORT for path in stage.metrics_files),
        "rlhf/presets",
        "rlhf/report",
    ),
    params=(
        "seed",
        "experiment",
        "model",
        "data",
        "engine",
        "sft",
        "reward",
        "ppo",
        "gold",
        "evaluate",
        "report",
    ),
    writes=("reports/index.html",),
    recorded=("reports/index.html",),
    summary=False,
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in (*BEFORE_REPORT, _REPORT)}


def find_stage(name: str) -> Stage:
    """The stage of that name; raises RlhfError with the names there are."""
    if name not in STAGES:
        raise RlhfError(f"no stage {name!r}; the stages are: {', '.join(STAGES)}")
    return STAGES[name]
