from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_run import make_workspace

from rlhf.common.yaml import parse_yaml
from rlhf.report.build import build
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@pytest.fixture(scope="session", autouse=True)
def no_commit() -> Iterator[None]:
    """The commit of the run that the tests themselves are part of is not on their pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RLHF_GIT_COMMIT", raising=False)
        yield


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The preset laptop with one key changed."""
    content = parse_yaml(preset_text("laptop"), "laptop")
    content["seed"] = 977
    return settings_from(content)


@pytest.fixture(scope="session")
def page(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run, built once."""
    workspace = make_workspace(tmp_path_factory.mktemp("whole"))
    build(settings, workspace)
    return workspace.report.read_text(encoding="utf-8")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """The files of a whole run, for a test to change."""
    return make_workspace(tmp_path)


@pytest.fixture
def few_figures(workspace: Workspace) -> Workspace:
    """The files of a run without its step logs: its page has no curves, and is drawn soon."""
    for stage in ("sft", "reward", "gold", "ppo"):
        workspace.steps(stage).unlink()
    return workspace
