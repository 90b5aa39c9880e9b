"""What a stage of the chain is, and what settings choose for it by name; `stages.py` has the table."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rlhf import registry
from rlhf.common.address import Address
from rlhf.settings import Settings
from rlhf.settings.reads import OPTIONAL_MODELS
from rlhf.workspace import Workspace

Run = Callable[[Settings, Workspace], object]


# -- what settings choose by name ------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A table of the registry, and the names in it that settings choose.

    files: those of the user's that the settings name for it, by their paths in the project
    """

    table: Mapping[str, str]
    names: Callable[[Settings], Iterable[str]]
    files: Callable[[Settings], list[str]] = lambda _settings: []

    def places(self, settings: Settings) -> list[tuple[str, str]]:
        """Each chosen name, once, with its `module:name`; names of another table are passed over."""
        names = dict.fromkeys(self.names(settings))
        return [(name, self.table[name]) for name in names if name in self.table]


def _kinds(addresses: Iterable[str]) -> list[str]:
    return [Address.parse(address).kind for address in addresses]


def _kinds_of_sources(settings: Settings) -> list[str]:
    data = settings.data
    lists = (
        data.sft,
        data.preferences,
        data.prompts,
        data.evaluation,
        data.pretrain,
        data.steps,
    )
    return _kinds([settings.model.source, *(one for addresses in lists for one in addresses)])


SOURCES = Choice(registry.SOURCES, _kinds_of_sources)
ENGINES = Choice(registry.ENGINES, lambda settings: [settings.engine.kind])
ALGORITHMS = Choice(registry.ALGORITHMS, lambda settings: [settings.ppo.algorithm])
SAMPLERS = Choice(registry.SAMPLERS, lambda settings: [settings.ppo.sampling.sampler])
REWARDS = Choice(
    registry.REWARDS,
    lambda settings: [source.address.kind for source in settings.ppo.rewards],
    lambda settings: [source.file for source in settings.ppo.rewards if source.file],
)
PAIR_JUDGES = Choice(
    registry.JUDGES,
    lambda settings: _kinds([settings.ppo.pair_judge] if settings.ppo.pair_judge else []),
)
JUDGES = Choice(registry.JUDGES, lambda settings: _kinds(settings.evaluate.judges))


# -- models of optional stages ----------------------------------------------------------------------


def stand_in(algorithm: str, model: str) -> str:
    """The file in the folder of an algorithm's code that stands for an optional model which it reads.

    It has the hash of the weights, null where the stage is off, and the stage that makes the model
    writes it. So the stage ppo depends on the model where the chosen algorithm reads it, and on no
    other: DVC ties a folder to what a stage writes into it.
    """
    return f"rlhf/.code/algorithms/{algorithm}/{model}.json"


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
    optional: the section of the settings that switches it on; where that is null the stage leaves
        its outputs empty
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
    optional: str | None = None
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
        return (ENGINES, *self.chooses) if self.trains else self.chooses

    def chosen(self, settings: Settings) -> list[tuple[str, str]]:
        """What the settings choose by name for it: each name with its `module:name`."""
        return [place for choice in self.choices for place in choice.places(settings)]

    def modules(self, settings: Settings) -> list[str]:
        """The modules that it runs: its own, those of what the settings choose, and files of the user's."""
        chosen = [place.partition(":")[0] for _, place in self.chosen(settings)]
        files = [file for choice in self.choices for file in choice.files(settings)]
        return [self.module, *chosen, *files]

    def is_off(self, settings: Settings) -> bool:
        """Whether the settings leave it out."""
        return self.optional is not None and getattr(settings, self.optional) is None

    @property
    def stand_ins(self) -> list[str]:
        """The files that stand for its model in the folders of the algorithms that read it."""
        return [
            stand_in(algorithm, model)
            for algorithm, models in OPTIONAL_MODELS.items()
            for model in models
            if model == self.model
        ]

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
        return [*model, *self.writes, *self.stand_ins, *self.metrics_files, *plots]

    @property
    def dvc_metrics(self) -> list[str]:
        """The file that `dvc metrics` and `dvc exp show` read.

        All measurements would be a table of 300 columns.
        """
        return [f"metrics/{self.name}_key.json"] if self.compared else []
