"""The evaluate flow: models answer held-out prompts and are judged pairwise."""

from flows.stage import main, run_stage, stage_flow
from tasks.matches import promote_policy


@stage_flow
def evaluate() -> None:
    """Write every judged pair to `data/evaluation`; MLflow shows the first of them as a table.

    The policy becomes the registry's `challenger`, and its `champion` if it beats the one before.
    """
    run_stage("evaluate", promote_policy)


if __name__ == "__main__":
    main(evaluate)
