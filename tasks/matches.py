"""Champion and challenger: which policy is the better one, and what is promoted on that ground."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException

from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json, tree_sha256
from rlhf.settings import load_settings
from rlhf.settings.evaluation import Promotion
from rlhf.workspace import Workspace
from tasks import tracking
from tasks.errors import StageFailed
from tasks.process import run_process
from tasks.registry import registered_name
from tasks.tracking import StageRun, client_of, set_tags
from tasks.versions import CHALLENGER, CHAMPION, Registered, by_alias, by_tree, restored
from tasks.worker import match_command, worker_environment

SHARES = ("win", "tie", "lose", "win_rate", "win_rate_low", "win_rate_high")


@dataclass(frozen=True)
class ComparisonResult:
    """How one comparison ended, as the details of `evaluate` have it.

    prompts: how many there were
    figures: over all that were judged, and how many were not; kinds: the shares of each kind
    """

    challenger: str
    baseline: str
    judge: str
    prompts: int
    figures: Mapping[str, Any]
    kinds: Mapping[str, Mapping[str, Any]]


def read_results(workspace: Workspace) -> list[ComparisonResult]:
    """Every comparison of `metrics/evaluate_details.json`, those of the first judge first."""
    details = read_json(workspace.details("evaluate"))
    return [
        ComparisonResult(
            challenger=row["challenger"],
            baseline=row["baseline"],
            judge=row["judge"],
            prompts=details["prompts"],
            figures=row["figures"],
            kinds=row["kinds"],
        )
        for row in details["comparisons"]
    ]


def first_of_policy(results: Sequence[ComparisonResult]) -> ComparisonResult | None:
    """The policy's first comparison, by the first judge; None where it was compared with no model."""
    return next((result for result in results if result.challenger == "policy"), None)


@dataclass(frozen=True)
class Decision:
    """Whether a challenger is promoted, and why."""

    promoted: bool
    reason: str


def decide(result: ComparisonResult, over: str, rule: Promotion | None) -> Decision:
    """Promote when enough was judged and the win rate over `over` is high enough.

    Its 95 % interval must lie above `evaluate.promotion.above`.
    """
    figures = result.figures
    count = result.prompts - figures["unjudged"]
    judged = f"by {result.judge}, {count} of {result.prompts} prompts judged"
    if count == 0:
        return Decision(False, f"no verdict against {over} {judged}")

    rate, low, high = (figures[key] for key in ("win_rate", "win_rate_low", "win_rate_high"))
    found = f"win rate {rate:.3f} [{low:.3f}, {high:.3f}] over {over} {judged}"
    if rule is None:
        return Decision(False, f"{found}; evaluate.promotion is null")
    if count < rule.verdicts or 2 * count < result.prompts:
        return Decision(
            False,
            f"{found}: a promotion needs {rule.verdicts} verdicts, and half of the prompts judged",
        )
    above = low > rule.above
    return Decision(
        above, f"{found}: its interval {'lies' if above else 'does not lie'} above {rule.above:g}"
    )


@task(task_run_name="champion and challenger", cache_policy=NO_CACHE)
def promote_policy(run: StageRun) -> None:
    """Make the evaluated policy `challenger`, and `champion` if it beats the present one; says why in MLflow.

    Where there is no champion yet, it has to beat the model that it was compared with first.
    """
    logger = get_run_logger()
    with tracking.tolerated("champion and challenger", logger.warning):
        policy = by_tree(
            run.root, run.experiment, "policy", tree_sha256(Workspace(run.root).model("policy"))
        )
        if policy is None:
            logger.warning(
                "the policy is not in MLflow's registry (another server was in use?): nothing is promoted"
            )
            return
        client_of(run.root).set_registered_model_alias(policy.name, CHALLENGER, policy.version)
        champion = by_alias(run.root, run.experiment, "policy", CHAMPION)
        if champion == policy:
            set_tags(client_of(run.root), run.run_id, {"promotion": "it is the champion already"})
            return
        settle(run, policy, champion, _against(run, policy, champion))


def _against(run: StageRun, policy: Registered, champion: Registered | None) -> Decision:
    settings = load_settings(Workspace(run.root).params)
    rule = settings.evaluate.promotion
    if champion is None:
        result = first_of_policy(read_results(Workspace(run.root)))
        if result is None:
            return Decision(
                False, "no champion yet, and evaluate.comparisons compares policy with no model"
            )
        first = decide(result, result.baseline, rule)
        return Decision(first.promoted, f"no champion yet; {first.reason}")
    if rule is None:
        return Decision(False, "evaluate.promotion is null")
    try:
        result = play(run, policy, champion)
    except RlhfError as error:
        return Decision(False, f"it could not be compared with the champion, {champion}: {error}")
    return decide(result, str(champion), rule)


@task(task_run_name="compare {challenger} with {baseline}", cache_policy=NO_CACHE)
def play(run: StageRun, challenger: Registered, baseline: Registered) -> ComparisonResult:
    """Let two versions answer the workspace's held-out prompts and its first judge compare them; MLflow gets it all."""
    logger = get_run_logger()
    settings = load_settings(Workspace(run.root).params)
    log = run.root / "logs" / "compare.log"
    with (
        restored(run.root, challenger) as first,
        restored(run.root, baseline) as second,
        tempfile.TemporaryDirectory() as place,
    ):
        output = Workspace(Path(place) / "match")
        code, last_lines = run_process(
            match_command(first, second, output.root),
            log=log,
            say=logger.info,
            environment=worker_environment("evaluate", settings),
            directory=run.root,
        )
        if code:
            raise StageFailed("compare", code, log, last_lines)
        (result,) = read_results(output)
        metrics = read_json(output.metrics("evaluate"))
        table = pd.read_parquet(output.comparisons)
    with tracking.tolerated("the comparison", logger.warning):
        client = client_of(run.root)
        tracking.log_metrics(client, run.run_id, tracking.metrics_of(metrics, 0, prefix="match."))
        set_tags(
            client,
            run.run_id,
            {"match.challenger": str(challenger), "match.baseline": str(baseline)},
        )
        client.log_table(run.run_id, table, "tables/match.json")
    rows = [{"metric": key, "value": value} for key, value in sorted(metrics.items())]
    with suppress(
        httpx.HTTPError, PrefectException
    ):  # a Prefect server that was lost must not cost the result
        create_table_artifact(
            rows, key="compare-metrics", description=f"{challenger} against {baseline}"
        )
    return result


def settle(
    run: StageRun, challenger: Registered, champion: Registered | None, decision: Decision
) -> None:
    """Move the alias `champion` if that was decided, and write the reason on the run and on both versions.

    `champion` is the one that was played against; if another has taken its place meanwhile, nothing is promoted.
    """
    client = client_of(run.root)
    present = by_alias(run.root, run.experiment, "policy", CHAMPION)
    if decision.promoted and present != champion:
        decision = Decision(
            False,
            f"{decision.reason}, but meanwhile {present} became champion: compare with that one",
        )
    verdict = "promoted to champion" if decision.promoted else "not promoted"
    tags = {"promotion": verdict, "promotion.reason": decision.reason, "promotion.run": run.run_id}
    tags["promotion.time"] = time.strftime("%Y-%m-%d %H:%M:%S %z")
    if decision.promoted:
        client.set_registered_model_alias(challenger.name, CHAMPION, challenger.version)
        if champion is not None:
            client.set_model_version_tag(
                champion.name, champion.version, "promotion.succeeded_by", str(challenger)
            )
    for key, value in tags.items():
        client.set_model_version_tag(challenger.name, challenger.version, key, value)
    set_tags(client, run.run_id, tags)
    get_run_logger().info("%s: %s; %s", challenger, verdict, decision.reason)


def refuse_promotion_over(
    root: Path, experiment: str, challenger: Registered, baseline: Registered
) -> Registered | None:
    """Give the champion that a match would be against, None where there is none yet.

    Raises RlhfError unless winning would make a champion: a policy that is not it yet, over the present one, or over the
    SFT model where there is none.
    """
    name = registered_name(experiment, "policy")
    champion = by_alias(root, experiment, "policy", CHAMPION)
    if challenger.name != name or challenger == champion:
        raise RlhfError(
            f"{challenger}: only a version of {name} that is not champion yet can become it"
        )
    if champion is None and baseline.name != registered_name(experiment, "sft"):
        raise RlhfError(
            f"{baseline}: there is no champion yet; the first has to beat {registered_name(experiment, 'sft')}"
        )
    if champion is not None and champion != baseline:
        raise RlhfError(
            f"{baseline}: the champion is {champion}; a promotion needs a match against it"
        )
    return champion
