"""The report stage: one self-contained page."""

import os

from rlhf.common.files import write_text
from rlhf.report.inputs import read_inputs
from rlhf.report.page import render
from rlhf.report.stale import stale
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def build(settings: Settings, workspace: Workspace) -> None:
    """Write `reports/index.html`; the same files at the same commit give the same bytes.

    Stages that have not run since their settings or inputs were changed are named on it, as `dvc.lock`
    tells. The commit shown is that of the environment variable RLHF_GIT_COMMIT, if it is set. Raises
    DataError that names a required file which is missing or broken.
    """
    inputs = read_inputs(workspace)
    outdated = list(stale(workspace, but=("report",)))
    page = render(settings, inputs, commit_from_environment(), workspace.root, outdated)
    write_text(workspace.report, page)


def commit_from_environment() -> str | None:
    """The commit that the flows pass to a stage; None where there is none."""
    return os.environ.get("RLHF_GIT_COMMIT") or None
