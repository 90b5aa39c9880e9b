"""The findings flow: what a study's runs say to what the paper found, as a page and a table.

DVC calls it.
"""

import sys

from flows.stage import main, stage_flow
from tasks.steps import record, run_worker, tracked_stage


@stage_flow
def findings(figures: list[str]) -> None:
    """Write `reports/index.html`, `reports/findings.json` and `metrics/findings.json`."""
    with tracked_stage("findings") as run:
        run_worker(run, "rlhf.report.study", *figures)
        record(run, "reports/index.html", "reports/findings.json")


if __name__ == "__main__":
    main(findings, sys.argv[1:])
