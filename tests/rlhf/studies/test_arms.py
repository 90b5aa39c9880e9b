from functools import cache
from typing import Any

import pytest

from rlhf.common.errors import RlhfError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import Settings, preset_names, preset_text, settings_from
from rlhf.settings.edit import changed
from rlhf.settings.variants import VARIANTS
from rlhf.studies.arms import ARMS
from rlhf.studies.claims import START
from rlhf.studies.figures import PAPER_FIGURES, STUDIES, preset_of
from rlhf.studies.search import SEARCHES, TRIALS

# what a study switches on for the arms that read their models (tasks/study.py)
OPTIONAL = {
    "dpo": VARIANTS["dpo"]["dpo"],
    "process": VARIANTS["process"]["process"],
}


@cache
def changeable(preset: str) -> Any:
    """The content of a preset with all that arms read; what has steps names them itself."""
    steps = {} if preset == "verifiable" else {"data.steps": ["path:steps"]}
    return changed(parse_yaml(preset_text(preset), preset), steps | OPTIONAL)


def settings_of(preset: str, arm: str) -> Settings:
    return settings_from(changed(changeable(preset), ARMS[arm]), arm)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("preset", ["tiny", "study", "verifiable"])
def test_every_arm_is_accepted(preset: str, arm: str) -> None:
    settings_of(preset, arm)


# what an arm was chosen from may hold the arm itself
_TRIED = {arm for study in SEARCHES.values() for arm in study.arms}


@pytest.mark.parametrize("arms", [set(ARMS) - _TRIED, _TRIED], ids=["arms", "trials"])
def test_no_two_arms_are_the_same(arms: set[str]) -> None:
    settings = {settings_of("laptop", arm).model_dump_json() for arm in arms}
    assert len(settings) == len(arms)


def test_each_algorithm_of_the_comparison_had_as_many_trials_of_rate_and_strength() -> None:
    compared = set(STUDIES["neighbours"].arms)
    # the control of RTO takes its settings
    assert set(TRIALS) == compared - {"rto-shaping"}
    assert {len(study.arms) for study in SEARCHES.values()} == {4}
    trial = settings_of("study", "apa-rate2.5e-4-lambda0.3")
    assert trial.ppo.apa is not None
    assert (trial.ppo.optimizer.learning_rate, trial.ppo.apa.lam) == (2.5e-4, 0.3)
    # and the variant keeps its own
    assert VARIANTS["apa"]["ppo.apa"]["lambda"] == 0.1


@pytest.mark.parametrize("arm", TRIALS)
def test_an_algorithm_is_compared_with_the_rate_and_strength_of_one_of_its_trials(arm: str) -> None:
    trials = [settings_of("study", trial) for trial in STUDIES[f"search-{arm}"].arms]
    assert settings_of("study", arm) in trials


def test_every_figure_of_the_paper_has_its_arms() -> None:
    figures = [4, 6, 7, 8, 9, 12, *range(14, 20)]
    assert set(PAPER_FIGURES) == {f"fig{number}" for number in figures}
    beyond = {"neighbours", "apa", "rto", "dpo", "xpo", "aihf", "etpo", "process"}
    assert set(STUDIES) - set(PAPER_FIGURES) == beyond | set(SEARCHES)
    used = {arm for study in STUDIES.values() for arm in study.arms}
    assert used <= set(ARMS)
    # eq. 14 has no figure
    assert set(ARMS) - used == {"ppo-penalty"}


def test_a_study_runs_with_the_preset_that_it_is_meant_for() -> None:
    assert preset_of(["fig4", "neighbours"]) == "study"
    assert preset_of(["process"]) == "verifiable"
    with pytest.raises(RlhfError, match="fig4 study, process verifiable"):
        preset_of(["fig4", "process"])
    assert {study.preset for study in STUDIES.values()} <= set(preset_names())


def test_claims_speak_of_arms_that_their_study_runs() -> None:
    for study in STUDIES.values():
        for claim in study.claims:
            assert claim.arm in study.arms
            assert claim.against in (*study.arms, START)
