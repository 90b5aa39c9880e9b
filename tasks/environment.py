"""Environment variables that Prefect, MLflow and DVC read when they are imported: no telemetry, state in the workspace."""

import os
from pathlib import Path

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_DEFAULTS = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # 2 processes and 0.4 GB instead of 10 and 1.5 GB
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # an unreachable server is told in seconds, not in minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # tasks.server shares one server instead (8 s a stage)
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s | %(flow_name)s | %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s | %(flow_name)s | %(message)s",
}
STUDIES = "studies"  # the folder of a workspace that holds its studies, workspaces themselves
_LOOPBACK = ("127.0.0.1", "localhost")


def prepare_environment(root: Path | None = None) -> None:
    """Set what is not set yet; `root` is the workspace (the current directory unless given).

    Runs made while no UI is open are kept in `<root>/.prefect`, where the UI finds them later.
    """
    os.environ.update(_ALWAYS)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in (
        "NO_PROXY",
        "no_proxy",
    ):  # the servers here are on loopback, where no proxy can reach them
        known = [host.strip() for host in os.environ.get(name, "").split(",") if host.strip()]
        os.environ[name] = ",".join([*known, *(host for host in _LOOPBACK if host not in known)])
    os.environ.setdefault("PREFECT_HOME", str(home_of(root or Path.cwd()) / ".prefect"))


def home_of(root: Path) -> Path:
    """Give the directory that keeps the records of a workspace: itself, or the one around a study or a DVC experiment.

    DVC runs queued experiments in copies below `.dvc/tmp/exps`, which it deletes afterwards.
    """
    path = root.resolve()
    if path.parent.name == STUDIES and (path.parent.parent / "dvc.yaml").is_file():
        path = path.parent.parent
    for parent in (path, *path.parents):
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return path
