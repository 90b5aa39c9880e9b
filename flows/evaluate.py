"""The evaluate flow: models answer held-out prompts and are judged pairwise."""

from flows.stage import main, stage_flow
from tasks.matches import promote_policy
from tasks.steps import record, recorded, run_worker


@stage_flow
def evaluate() -> None:
    """Write every judged pair to `data/evaluation`; MLflow shows the first of them as a table.

    The policy becomes the registry's `challenger`, and its `champion` if it beats the one before.
    """
    with recorded("evaluate") as run:
        run_worker(run)
        record(run, "data/evaluation/comparisons.parquet")
        promote_policy(run)


if __name__ == "__main__":
    main(evaluate)
