"""The report stage: one self-contained page, the same bytes for the same files at the same commit."""

import os

from rlhf.common.files import write_text
from rlhf.report.inputs import read_inputs
from rlhf.report.page import render
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def build(settings: Settings, workspace: Workspace) -> None:
    """Write `reports/index.html`; raises DataError that names a required file which is missing or broken.

    The commit shown is what the environment variable RLHF_GIT_COMMIT holds, if it is set.
    """
    commit = os.environ.get("RLHF_GIT_COMMIT") or None
    write_text(workspace.report, render(settings, read_inputs(workspace), commit))
