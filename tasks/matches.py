"""Champion and challenger: which policy is the better one, and what is promoted on that ground."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json, tree_sha256
from rlhf.settings import load_settings
from rlhf.settings.evaluation import Promotion
from rlhf.workspace import Workspace
from tasks import tracking
from tasks.artifacts import show_table, summary_rows
from tasks.errors import StageFailed
from tasks.metric_names import under
from tasks.process import run_process
from tasks.registry import registered_name, unregistered
from tasks.tracking import TrackedRun, client_of, set_tags
from tasks.versions import (
    CHALLENGER,
    CHAMPION,
    RegisteredVersion,
    find_by_alias,
    find_by_tree,
    restored,
)
from tasks.worker import match_command, worker_environment

SHARES = ("win", "tie", "lose", "win_rate", "win_rate_low", "win_rate_high")


# -- results --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparisonResult:
    """How one comparison ended, as the details of `evaluate` have it.

    prompts: how many there were
    metrics: over all that were judged, and how many were not; kinds: the shares of each kind
    """

    challenger: str
    baseline: str
    judge: str
    prompts: int
    metrics: Mapping[str, Any]
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
            metrics=row["metrics"],
            kinds=row["kinds"],
        )
        for row in details["comparisons"]
    ]


def first_of_policy(results: Sequence[ComparisonResult]) -> ComparisonResult | None:
    """The policy's first comparison, by the first judge; None where it was compared with no model."""
    return next((result for result in results if result.challenger == "policy"), None)


# -- the decision ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """Whether a challenger is promoted, and why."""

    promoted: bool
    reason: str


def decide(result: ComparisonResult, baseline: str, rule: Promotion | None) -> Decision:
    """Decide by the result of a match against `baseline`.

    A challenger is promoted when enough was judged and the 95 % interval of its win rate lies above
    `evaluate.promotion.above`.
    """
    metrics = result.metrics
    judged = result.prompts - metrics["unjudged"]
    by = f"by {result.judge}, {judged} of {result.prompts} prompts judged"
    if judged == 0:
        return Decision(False, f"no verdict against {baseline} {by}")

    rate, low, high = metrics["win_rate"], metrics["win_rate_low"], metrics["win_rate_high"]
    outcome = f"win rate {rate:.3f} [{low:.3f}, {high:.3f}] over {baseline} {by}"
    if rule is None:
        return Decision(False, f"{outcome}; evaluate.promotion is null")
    # an endpoint that refuses most prompts leaves those it likes
    if judged < rule.verdicts or 2 * judged < result.prompts:
        needed = f"a promotion needs {rule.verdicts} verdicts, and half of the prompts judged"
        return Decision(False, f"{outcome}: {needed}")
    if low > rule.above:
        return Decision(True, f"{outcome}: its interval lies above {rule.above:g}")
    return Decision(False, f"{outcome}: its interval does not lie above {rule.above:g}")


# -- after `evaluate` ---------------------------------------------------------------------------


@task(task_run_name="champion and challenger", cache_policy=NO_CACHE)
def promote_policy(run: TrackedRun) -> None:
    """Make the evaluated policy `challenger`, and `champion` if it beats the present one.

    Where there is no champion yet, it has to beat the model that it was compared with first. The
    reason is in MLflow.
    """
    logger = get_run_logger()
    with tracking.best_effort("champion and challenger", logger.warning):
        # by its bytes: DVC may have brought back a policy that an earlier run registered
        tree = tree_sha256(Workspace(run.root).model("policy"))
        policy = find_by_tree(run.root, run.experiment, "policy", tree)
        if policy is None:
            logger.warning("nothing is promoted. %s", unregistered(run, ["policy"]))
            return
        client = client_of(run.root)
        client.set_registered_model_alias(policy.name, CHALLENGER, policy.version)
        champion = find_by_alias(run.root, run.experiment, "policy", CHAMPION)
        if champion == policy:
            set_tags(client, run.run_id, {"promotion": "it is the champion already"})
            return
        decision = _decide_on_policy(run, policy, champion)
        apply_decision(run, policy, champion, decision)


def _decide_on_policy(
    run: TrackedRun, policy: RegisteredVersion, champion: RegisteredVersion | None
) -> Decision:
    settings = load_settings(Workspace(run.root).params)
    rule = settings.evaluate.promotion
    if champion is None:
        result = first_of_policy(read_results(Workspace(run.root)))
        if result is None:
            return Decision(
                False, "no champion yet, and evaluate.comparisons compares policy with no model"
            )
        decision = decide(result, result.baseline, rule)
        return Decision(decision.promoted, f"no champion yet; {decision.reason}")
    if rule is None:
        return Decision(False, "evaluate.promotion is null")
    try:
        result = run_match(run, policy, champion)
    except RlhfError as error:
        return Decision(False, f"it could not be compared with the champion, {champion}: {error}")
    return decide(result, str(champion), rule)


# -- a match ------------------------------------------------------------------------------------


@task(task_run_name="compare {challenger} with {baseline}", cache_policy=NO_CACHE)
def run_match(
    run: TrackedRun, challenger: RegisteredVersion, baseline: RegisteredVersion
) -> ComparisonResult:
    """Let two versions answer the held-out prompts and the first judge compare them.

    MLflow gets the metrics of the match and the table of answers.
    """
    logger = get_run_logger()
    with tempfile.TemporaryDirectory() as scratch:
        output = Workspace(Path(scratch) / "match")
        _compare_models(run, challenger, baseline, output)
        # one comparison, by one judge
        (result,) = read_results(output)
        metrics = read_json(output.metrics("evaluate"))
        table = pd.read_parquet(output.comparisons)

    with tracking.best_effort("the comparison", logger.warning):
        client = client_of(run.root)
        tracking.log_metrics(client, run.run_id, tracking.metrics_of(under("match", metrics), 0))
        sides = {"match.challenger": str(challenger), "match.baseline": str(baseline)}
        set_tags(client, run.run_id, sides)
        client.log_table(run.run_id, table, "tables/match.json")
    show_table("compare-metrics", summary_rows(metrics), f"{challenger} against {baseline}")
    return result


def _compare_models(
    run: TrackedRun, challenger: RegisteredVersion, baseline: RegisteredVersion, output: Workspace
) -> None:
    """Run the worker of a match, which writes below `output`; raises StageFailed."""
    settings = load_settings(Workspace(run.root).params)
    log_file = run.root / "logs" / "compare.log"
    with restored(run.root, challenger) as first, restored(run.root, baseline) as second:
        code, last_lines = run_process(
            match_command(first, second, output.root),
            log_file=log_file,
            on_line=get_run_logger().info,
            environment=worker_environment("evaluate", settings),
            directory=run.root,
        )
    if code:
        raise StageFailed("compare", code, log_file, last_lines)


# -- promotion ----------------------------------------------------------------------------------


def apply_decision(
    run: TrackedRun,
    challenger: RegisteredVersion,
    champion: RegisteredVersion | None,
    decision: Decision,
) -> None:
    """Move the alias `champion` if that was decided; the reason goes to the run and the version.

    `champion` is the one that the match was against; if another has taken its place meanwhile,
    nothing is promoted.
    """
    client = client_of(run.root)
    # a match takes minutes
    present = find_by_alias(run.root, run.experiment, "policy", CHAMPION)
    if decision.promoted and present != champion:
        late = f"but meanwhile {present} became champion: compare with that one"
        decision = Decision(False, f"{decision.reason}, {late}")

    verdict = "promoted to champion" if decision.promoted else "not promoted"
    tags = {
        "promotion": verdict,
        "promotion.reason": decision.reason,
        "promotion.run": run.run_id,
        "promotion.time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
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


def champion_to_beat(
    root: Path, experiment: str, challenger: RegisteredVersion, baseline: RegisteredVersion
) -> RegisteredVersion | None:
    """Give the champion that a match would be against, None where there is none yet.

    Raises RlhfError unless winning would make a champion: a policy that is not it yet, over the
    present one, or over the SFT model where there is none.
    """
    policies = registered_name(experiment, "policy")
    first_opponent = registered_name(experiment, "sft")
    champion = find_by_alias(root, experiment, "policy", CHAMPION)
    if challenger.name != policies or challenger == champion:
        raise RlhfError(
            f"{challenger}: only a version of {policies} that is not champion yet can become it"
        )
    if champion is None and baseline.name != first_opponent:
        raise RlhfError(
            f"{baseline}: there is no champion yet; the first has to beat {first_opponent}"
        )
    if champion is not None and champion != baseline:
        raise RlhfError(
            f"{baseline}: the champion is {champion}; a promotion needs a match against it"
        )
    return champion
