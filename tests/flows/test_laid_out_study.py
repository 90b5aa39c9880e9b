"""What `flows.study` writes before DVC runs: which figures and seeds, and when."""

import logging
from pathlib import Path
from typing import Any

import pytest

from flows import study
from rlhf.common.yaml import read_yaml, write_yaml
from rlhf.settings import preset_text
from rlhf.studies.figures import STUDIES
from tasks.study import arm_stage
from tests.project_copy import link_clone


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return link_clone(tmp_path / "clone")


def seeds_of(directory: Path) -> dict[str, list[int]]:
    """The seeds of every arm that is laid out."""
    return {path.stem: read_yaml(path)["seeds"] for path in (directory / "arms").iterdir()}


def finish(directory: Path, figure: str) -> None:
    lock = directory / "dvc.lock"
    stages = read_yaml(lock)["stages"] if lock.is_file() else {}
    lock.write_text(
        write_yaml({"stages": stages | {arm_stage(arm): {} for arm in STUDIES[figure].arms}})
    )


def test_new_seeds_are_for_the_arms_of_figures_asked_for(clone: Path) -> None:
    settings = preset_text("tiny")
    directory = study.lay_out_figures(clone, "tiny", settings, ["fig4", "fig15"], [1, 2])
    finish(directory, "fig4")
    finish(directory, "fig15")
    study.lay_out_figures(clone, "tiny", settings, ["fig9"], [11, 12])
    new, old = [11, 12], [1, 2]
    assert seeds_of(directory) == {"vanilla": new, "ppo-max": new, "kl-0.1": old, "kl-0.2": old}
    stages = read_yaml(directory / "dvc.yaml")["stages"]
    assert stages["findings"]["cmd"].endswith(" fig4 fig9 fig15")  # all stay on the page

    (directory / "arms" / "kl-0.1.yaml").write_text("seeds: [\n")
    study.lay_out_figures(clone, "tiny", settings, ["fig9"], [11, 12])
    assert seeds_of(directory)["kl-0.1"] == new


def test_nothing_is_written_before_the_workspace_is_this_studys_own(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = clone / "studies" / "tiny" / "dvc.yaml"
    seen = []

    def repro(root: Path, *_: object, prepare: Any) -> None:
        seen.append(laid_out.exists())
        prepare()
        seen.append(laid_out.exists() and root.resolve() == laid_out.parent.resolve())

    monkeypatch.chdir(clone)
    monkeypatch.setattr(study, "repro", repro)
    monkeypatch.setattr(study, "get_run_logger", lambda: logging.getLogger("study"))
    study.run_study.fn(["fig9"], "tiny", [1], {})
    assert seen == [False, True]


def test_all_is_every_figure_of_the_paper_and_what_goes_beyond_is_named() -> None:
    figures = study.named_figures(["all"])
    assert figures[0] == "fig4" and figures[-1] == "fig19" and "apa" not in figures
    assert study.named_figures(["apa", "all", "fig4"]) == ["apa", *figures]
