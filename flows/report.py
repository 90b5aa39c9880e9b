"""The report flow: draw one page from the metrics and the judged pairs."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, run_worker


@stage_flow
def report() -> None:
    """Write `reports/index.html`, and keep it with the run."""
    with recorded("report") as run:
        run_worker(run)
        record(run, "reports/index.html")


if __name__ == "__main__":
    main(report)
