from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from tiny import copy_workspace, make_workspace

from rlhf.workspace import Workspace

hypothesis_settings.register_profile(
    "rlhf", deadline=None, max_examples=40, derandomize=True, database=None
)
hypothesis_settings.load_profile("rlhf")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace ready for any training stage; only to be read."""
    return make_workspace(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def workspace(prepared: Workspace, tmp_path: Path) -> Workspace:
    """A copy of that workspace, to be written to."""
    return copy_workspace(prepared, tmp_path / "workspace")
