"""Bring the weights of a registered version into MLflow's store: `python -m tasks.weights NAME/VERSION`.

For versions that were registered by reference (`mlflow.weights: reference`). The bytes come from DVC's
cache or its remote; from then on MLflow's own calls load the version. `rlhf weights` calls it.
"""

import argparse
from pathlib import Path

from rlhf.common.command import exit_on_fault
from rlhf.settings import load_settings
from rlhf.workspace import Workspace
from tasks.lineage import CachedOutput
from tasks.registry import add_weights, logged_model_of
from tasks.tracking import client_of
from tasks.versions import find_version, restored


def bring_weights(root: Path, experiment: str, reference: str) -> str:
    """Add the weights to a version that lacks them; gives its address. Raises RlhfError."""
    found = find_version(root, experiment, reference)
    client = client_of(root)
    version = client.get_model_version(found.name, found.version)
    logged = logged_model_of(client, version)
    with restored(root, found) as directory:
        add_weights(client, logged, directory, CachedOutput(found.dvc_hash))
    return f"models:/{version.name}/{version.version}"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and bring them."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="rlhf weights", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("version", help="NAME@ALIAS, NAME/VERSION, or NAME: its newest")
    options = parser.parse_args(arguments)
    with exit_on_fault():
        experiment = load_settings(Workspace().params).experiment
        address = bring_weights(Path(), experiment, options.version)
        print(f"{address} has its weights now")


if __name__ == "__main__":
    main()
