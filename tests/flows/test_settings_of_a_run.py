"""The pipeline's own settings, and what becomes of them where it is refused."""

import logging
from pathlib import Path

import pytest

from flows import pipeline
from rlhf.common.errors import RlhfError
from rlhf.common.yaml import read_yaml
from tests.project_copy import Project


@pytest.mark.parametrize("preset", [None, "laptop"])
def test_a_refused_run_puts_its_settings_back(
    preset: str | None, repository: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []

    def refuse(root: Path, *_: object, **__: object) -> None:
        written.append(read_yaml(root / "params.yaml")["seed"])
        raise RlhfError("work pool gpu: no worker was ever started for it")

    monkeypatch.chdir(repository.root)
    monkeypatch.setattr(pipeline, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(pipeline, "send_stages", refuse)
    before = Path("params.yaml").read_text()
    for _ in range(2):
        with pytest.raises(RlhfError, match="work pool gpu"):
            pipeline.run_dvc.fn([], preset, {"seed": 7}, True, {"ppo": "gpu"}, 1)
        assert Path("params.yaml").read_text() == before
    # the second try has them again
    assert written == [7, 7]
