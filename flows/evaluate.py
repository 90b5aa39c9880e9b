"""The evaluate flow: models answer held-out prompts and are judged pairwise."""

from flows.stage import main, run_stage, stage_flow
from tasks.matches import promote_policy
from tasks.steps import record_judged_models


@stage_flow
def evaluate() -> None:
    """Write every judged pair to `data/evaluation`; MLflow shows the first of them as a table.

    What it finds of a model stands with that model in the registry. The policy becomes its
    `challenger`, and its `champion` if it beats the one before.
    """
    run_stage("evaluate", record_judged_models, promote_policy)


if __name__ == "__main__":
    main(evaluate)
