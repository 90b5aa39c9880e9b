"""What MLflow and Prefect hold of a chain with the tiny preset."""

import httpx
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.waiting import SECONDS

EXPERIMENT = "rlhf-tiny"


def runs(client: MlflowClient) -> list[Run]:
    """All runs of the experiment, oldest first."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(
        client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    )


def newest(client: MlflowClient, stage: str) -> Run:
    """The last run of a stage."""
    return [run for run in runs(client) if run.data.tags.get("rlhf.stage") == stage][-1]


def flow_runs(prefect: str, flow: str) -> dict[str, str]:
    """State of each run of a flow, by its name."""
    wanted = {"flows": {"name": {"any_": [flow]}}}
    found = httpx.post(
        f"{prefect}/flow_runs/filter", json=wanted, timeout=SECONDS, trust_env=False
    ).raise_for_status()
    return {run["name"]: run["state_type"] for run in found.json()}
