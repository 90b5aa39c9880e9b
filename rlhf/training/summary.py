"""What a policy run is summed up by: the flat metrics of the stage."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.common.metrics import Value
from rlhf.core.steps import ends
from rlhf.training.monitor import Watch

Rows = Sequence[Mapping[str, Any]]


def summarise(
    rows: Rows, curves: Sequence[str], peaks: Sequence[str], seconds: float
) -> dict[str, Value]:
    """Ends of the curves, means over a tenth of the iterations (at least one); peaks; speeds.

    rows: the step log from iteration 0 on; the last validation has a row of its own
    """
    # 1. curves
    summary: dict[str, Value] = {}
    iterations = [row for row in rows if "update_seconds" in row]
    for key in curves:
        measured = [row for row in iterations if key in row]
        if measured:
            summary[f"{key}_first"], summary[f"{key}_last"] = ends(measured, key)

    # 2. the fixed prompts
    validated = [row for row in rows if "validation_reward" in row]
    summary["validation_reward_first"] = validated[0]["validation_reward"]
    summary["validation_reward_last"] = validated[-1]["validation_reward"]
    summary["validation_win_rate_last"] = validated[-1]["validation_win_rate"]

    # 3. peaks
    for key in peaks:
        values = [row[key] for row in rows if key in row]
        if values:
            summary[f"{key}_max"] = max(values)
    return summary | _speed(iterations) | {"iterations": len(iterations), "seconds": seconds}


def verdict(watch: Watch, best: Mapping[str, float] | None, rows: Rows) -> dict[str, Value]:
    """Whether and when the policy collapsed, and which validation's policy was stored."""
    last = rows[-1]
    return {
        "collapsed": watch.collapse is not None if watch.seen else None,
        "collapse_step": watch.collapse,
        "kept_step": int(best["step"]) if best else int(last["step"]),
        "kept_objective": best["objective"] if best else last.get("validation_objective"),
    }


def _speed(iterations: Rows) -> dict[str, Value]:
    """Response tokens a second, where any were drawn."""
    tokens = sum(row.get("tokens", 0.0) for row in iterations)
    if not tokens:
        return {}
    return {
        "rollout_tokens_per_second": tokens / sum(row["rollout_seconds"] for row in iterations),
        "update_tokens_per_second": tokens / sum(row["update_seconds"] for row in iterations),
    }
