"""Environment variables that Prefect, MLflow and DVC read when they are imported.

They turn telemetry off and keep the state of all three in the workspace.
"""

import getpass
import os
import sys
from pathlib import Path

# the folder of a workspace that holds its studies, workspaces themselves
STUDIES_FOLDER = "studies"

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # it would print the server's address, password and all
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_FLOW_LOG_FORMAT = "%(asctime)s | %(flow_name)s | %(message)s"
_DEFAULTS = {
    # 2 processes and 0.4 GB instead of 10 and 1.5 GB
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # an unreachable server is reported in seconds, not in minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # tasks.server shares one server instead: an ephemeral one costs 8 s a stage
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": _FLOW_LOG_FORMAT,
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": _FLOW_LOG_FORMAT,
}
_LOOPBACK = ("127.0.0.1", "localhost")


def prepare_environment(root: Path | None = None) -> None:
    """Set what is not set yet; `root` is the workspace (the current directory unless given).

    Runs made while no UI is open are kept in `<root>/.prefect`, where the UI finds them later.
    """
    os.environ.update(_ALWAYS)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    # the servers here are on loopback, where no proxy can reach them
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = _with_loopback(os.environ.get(name, ""))
    records = records_root(root or Path.cwd())
    os.environ.setdefault("PREFECT_HOME", str(records / ".prefect"))
    if not _has_home():
        _stand_in_home(records / ".home")
    _name_user()


def _has_home() -> bool:
    try:
        return Path.home().is_dir()
    # a user without a name and without HOME, as in some containers
    except RuntimeError:
        return False


def _stand_in_home(home: Path) -> None:
    """DVC and Prefect do not start without a home directory, nor can the model be kept for next time."""
    try:
        home.mkdir(exist_ok=True)
    except OSError as error:
        # for a command that needs none
        print(f"warning: no home directory, nor can one be made: {error}", file=sys.stderr)
        return
    os.environ["HOME"] = str(home)
    print(f"no home directory: {home} stands in for it (HOME names another)", file=sys.stderr)


def _name_user() -> None:
    """DVC asks for the user's name, which the machine may not have."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = f"user-{os.getuid()}"


def _with_loopback(no_proxy: str) -> str:
    hosts = [host.strip() for host in no_proxy.split(",") if host.strip()]
    missing = [host for host in _LOOPBACK if host not in hosts]
    return ",".join([*hosts, *missing])


def records_root(root: Path) -> Path:
    """Give the directory that keeps the records (MLflow, Prefect, logs) of a workspace.

    It is the workspace itself, or the one around a study or a DVC experiment. DVC runs queued
    experiments in copies below `.dvc/tmp/exps`, which it deletes afterwards.
    """
    path = root.resolve()
    around = path.parent.parent
    if path.parent.name == STUDIES_FOLDER and (around / "dvc.yaml").is_file():
        path = around
    for parent in (path, *path.parents):
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return path
