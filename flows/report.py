"""The report flow: draw one page from the metrics and the judged pairs."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def report() -> None:
    """Write `reports/index.html`, and keep it with the run."""
    run_stage("report")


if __name__ == "__main__":
    main(report)
