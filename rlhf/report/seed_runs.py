"""Which workspaces of many seeds belong into one table, and why the others do not."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json
from rlhf.common.yaml import read_yaml
from rlhf.report.inputs import JsonObject
from rlhf.report.stale import stale
from rlhf.settings import flatten
from rlhf.workspace import Workspace

TIMED = ("sft", "reward", "ppo", "gold", "evaluate")
# in which runs of one table differ
_OWN = ("seed", "engine.precision")
# other keys that are told of a run
_SHOWN = 3


@dataclass(frozen=True)
class SeedResult:
    """One run of the chain: its settings, and its metrics by stage, flat as `metrics/<stage>.json` has them."""

    name: str
    precision: str
    seed: int
    settings: JsonObject
    metrics: dict[str, JsonObject]

    @property
    def evaluated(self) -> JsonObject:
        """What the comparisons came to."""
        return self.metrics["evaluate"]

    @property
    def headline(self) -> tuple[str, str]:
        """Which models were compared (`policy with sft`), and the judge."""
        return self.evaluated["compared"], self.evaluated["judge"]

    @property
    def is_above_half(self) -> bool:
        """Whether the whole interval of the headline lies above 0.5."""
        low = self.evaluated.get("win_rate_low")
        return low is not None and float(low) > 0.5

    @property
    def seconds(self) -> float:
        """That the stages took which train or judge."""
        return sum(float(self.metrics[stage].get("seconds") or 0.0) for stage in TIMED)


def read_results(
    folder: Path, preset: str, like: str | None = None
) -> tuple[list[SeedResult], dict[str, str]]:
    """The finished runs of the same settings, by precision and seed; and of all others what is amiss.

    like: the workspace whose settings they have; else that which was judged last

    Raises RlhfError where not all compare the same models by the same judge.
    """
    results, left_out = [], {}
    name = re.compile(rf"{re.escape(preset)}-(?P<precision>[a-z0-9]+)-seed-(?P<seed>\d+)")
    for path in sorted(folder.iterdir()):
        match = name.fullmatch(path.name)
        if match is None:
            continue
        workspace = Workspace(path)
        if fault := next(_faults(workspace), None):
            left_out[path.name] = fault
            continue
        settings = flatten(read_yaml(workspace.params))
        metrics = {stage: read_json(workspace.metrics(stage)) for stage in TIMED}
        seed = int(match["seed"])
        results.append(SeedResult(path.name, match["precision"], seed, settings, metrics))
    kept, others = _of_equal_settings(folder, results, like)
    _refuse_mixed(kept)
    return sorted(kept, key=lambda run: (run.precision, run.seed)), left_out | others


# -- is it done? -----------------------------------------------------------------------------------


def _faults(workspace: Workspace) -> Iterator[str]:
    """Why the figures in a workspace are not those of one whole run of its params.yaml."""
    for stage in TIMED:
        if not workspace.metrics(stage).is_file():
            yield f"metrics/{stage}.json is missing"
    for path in (workspace.params, workspace.root / "dvc.lock"):
        if not path.is_file():
            yield f"{path.name} is missing"
    yield from stale(workspace)


# -- is it of the same settings? -------------------------------------------------------------------


def _of_equal_settings(
    folder: Path, results: Sequence[SeedResult], like: str | None
) -> tuple[list[SeedResult], dict[str, str]]:
    """The runs whose settings are those of one of them, but for seed and precision; and the others' keys."""
    if not results:
        return [], {}
    by_name = {run.name: run for run in results}
    last = max(
        results, key=lambda run: Workspace(folder / run.name).metrics("evaluate").stat().st_mtime
    )
    wanted = by_name.get(like or "", last)
    kept, others = [], {}
    for run in results:
        keys = sorted(
            key
            for key in (run.settings.keys() | wanted.settings.keys()) - set(_OWN)
            if run.settings.get(key) != wanted.settings.get(key)
        )
        if keys:
            more = ", ..." if len(keys) > _SHOWN else ""
            others[run.name] = (
                f"other settings than {wanted.name}: {', '.join(keys[:_SHOWN])}{more}"
            )
        else:
            kept.append(run)
    return kept, others


def _refuse_mixed(results: Sequence[SeedResult]) -> None:
    found = {run.headline: run.name for run in results}
    if len(found) > 1:
        told = "; ".join(
            f"{name} has {compared} by {judge}" for (compared, judge), name in found.items()
        )
        raise RlhfError(f"runs that compare different things have no mean: {told}")
