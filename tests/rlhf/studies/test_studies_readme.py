"""The arm and the study that rlhf/studies/README.md adds are accepted by the settings and laid out."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.study import lay_out_figures, named_figures
from rlhf.common.yaml import parse_yaml, read_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import edited
from rlhf.studies.arms import ARMS
from rlhf.studies.figures import STUDIES
from tests.project_copy import link_clone
from tests.readme_examples import python_blocks

(EXAMPLE,) = python_blocks("rlhf/studies/README.md")


@pytest.fixture(autouse=True)
def _added() -> Iterator[None]:
    """Run the example; afterwards the tables are as they were."""
    arms, studies = dict(ARMS), dict(STUDIES)
    exec(compile(EXAMPLE, "rlhf/studies/README.md", "exec"), {})
    yield
    for table, before in ((ARMS, arms), (STUDIES, studies)):
        table.clear()
        table.update(before)


def test_the_settings_accept_the_arm() -> None:
    text = edited(preset_text("tiny"), ARMS["epochs-4"], "arm epochs-4")
    settings = settings_from(parse_yaml(text, "arm epochs-4"))
    assert (settings.ppo.epochs, settings.ppo.ptx) == (4, None)


def test_the_study_is_laid_out_by_its_name_and_left_out_of_all(tmp_path: Path) -> None:
    assert named_figures(["epochs"]) == ["epochs"]
    assert "epochs" not in named_figures(["all"])
    root = link_clone(tmp_path / "clone")
    directory = lay_out_figures(root, "tiny", preset_text("tiny"), ["epochs"], [1, 2])
    plan = read_yaml(directory / "arms" / "epochs-4.yaml")
    assert plan == {"seeds": [1, 2], "changes": ARMS["epochs-4"]}
    stages = read_yaml(directory / "dvc.yaml")["stages"]
    assert {"arm-ppo-max", "arm-epochs-4"} <= set(stages)
    assert stages["findings"]["cmd"] == "python -m flows.findings epochs"
