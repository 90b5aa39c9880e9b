"""The report stage: one self-contained page."""

import os

from rlhf.common.files import write_text
from rlhf.report.inputs import read_inputs
from rlhf.report.page import render
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def build(settings: Settings, workspace: Workspace) -> None:
    """Write `reports/index.html`; the same files at the same commit give the same bytes.

    The commit shown is that of the environment variable RLHF_GIT_COMMIT, if it is set. Raises
    DataError that names a required file which is missing or broken.
    """
    inputs = read_inputs(workspace)
    page = render(settings, inputs, commit_from_environment(), workspace.root)
    write_text(workspace.report, page)


def commit_from_environment() -> str | None:
    """The commit that the flows pass to a stage; None where there is none."""
    return os.environ.get("RLHF_GIT_COMMIT") or None
