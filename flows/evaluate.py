"""The evaluate flow: models answer held-out prompts and are judged pairwise."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, run_worker


@stage_flow
def evaluate() -> None:
    """Write every judged pair to `data/evaluation`; MLflow shows the first of them as a table."""
    with recorded("evaluate") as run:
        run_worker(run)
        record(run, "data/evaluation/comparisons.parquet")


if __name__ == "__main__":
    main(evaluate)
