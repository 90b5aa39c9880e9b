"""Compare any two models of the registry: `python -m flows.compare CHALLENGER BASELINE [--promote]`.

The workspace's held-out prompts are answered by both and judged by the first of `evaluate.judges`.
`rlhf compare` calls it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from flows.stage import exit_code, main, stage_flow
from rlhf.settings import load_settings
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tasks.lineage import Lineage
from tasks.matches import (
    SHARES,
    ComparisonResult,
    apply_decision,
    champion_to_beat,
    decide,
    run_match,
)
from tasks.steps import check_inputs, closing_run, open_run
from tasks.versions import RegisteredVersion, find_version

_KINDS = ("helpful", "harmless", "other")


@stage_flow
def compare(challenger: str, baseline: str, promote: bool = False) -> None:
    """Print and record how `challenger` does against `baseline`; with `promote` it becomes champion if it is better."""
    root = Path()
    experiment = load_settings(Workspace(root).params).experiment
    first = find_version(root, experiment, challenger)
    second = find_version(root, experiment, baseline)
    # a match that could promote nobody is refused before it costs anything
    champion = champion_to_beat(root, experiment, first, second) if promote else None
    settings, lineage = check_inputs("evaluate", root)
    lineage = _lineage_of_match(lineage, first, second)
    with closing_run(open_run("compare", root, settings, lineage)) as run:
        result = run_match(run, first, second)
        decision = decide(result, str(second), settings.evaluate.promotion)
        if promote:
            apply_decision(run, first, champion, decision)
    for line in format_result(result):
        print(line)
    print(f"{first}: {decision.reason}")


def _lineage_of_match(
    lineage: Lineage, challenger: RegisteredVersion, baseline: RegisteredVersion
) -> Lineage:
    """That of the stage evaluate, with these two models in place of those that it compares."""
    # gold may judge here too
    compared = {f"models/{name}" for name in STAGES["evaluate"].models if name != "gold"}
    read = {path: value for path, value in lineage.dependencies.items() if path not in compared}
    read |= {"challenger": challenger.dvc_hash, "baseline": baseline.dvc_hash}
    return replace(lineage, dependencies=read)


def format_result(result: ComparisonResult) -> list[str]:
    """A line for all prompts and one for each kind that there is."""
    shares_of = {"all": result.metrics}
    shares_of |= {kind: result.kinds.get(kind, {}) for kind in _KINDS}
    lines = []
    # None: a kind without prompts, or without a verdict
    for name, shares in shares_of.items():
        win, tie, lose, rate, low, high = (shares.get(key) for key in SHARES)
        if rate is not None:
            parts = f"win {win:.1%}, tie {tie:.1%}, lose {lose:.1%}"
            lines.append(f"{name:9} {parts}; win rate {rate:.3f} [{low:.3f}, {high:.3f}]")
    return lines


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m flows.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "challenger",
        help="champion, challenger, NAME@ALIAS, NAME/VERSION or NAME: sft, policy/2, other-policy",
    )
    parser.add_argument("baseline", help="the same")
    parser.add_argument(
        "--promote", action="store_true", help="make it champion if evaluate.promotion allows"
    )
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    # a name that nobody has is refused before a flow begins
    with exit_code():
        for reference in (options.challenger, options.baseline):
            find_version(Path(), load_settings(Workspace().params).experiment, reference)
    main(compare, options.challenger, options.baseline, options.promote)
