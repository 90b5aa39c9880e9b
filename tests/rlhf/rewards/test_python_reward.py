"""`python:FILE:FUNCTION`: a function of the user's scores, and its faults are told with the record."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import EOS, PAD, numbers, prompts_of, tiny_settings, tiny_tokenizer

from rlhf.commands.code_links import code_of, link_name
from rlhf.common.errors import RlhfError, SettingsError, TrainingError
from rlhf.core.source import ROOT, closure
from rlhf.core.steps import read_steps
from rlhf.engine import make_engine
from rlhf.models.roles import Models
from rlhf.rewards.base import RewardContext
from rlhf.rewards.python import PythonReward
from rlhf.rewards.records import ResponseRecord, response_records, shortened
from rlhf.rollout.records import Sampled, make_rollout
from rlhf.stages import STAGES
from rlhf.training import loop
from rlhf.watched import refuse_unwatched
from rlhf.workspace import Workspace

FILE = "tests/own_rewards/sums.py"


@pytest.fixture
def records() -> Sequence[ResponseRecord]:
    prompts = prompts_of([[2, 9, 30], [2, 11], [2, 5]], references=["w9", None, "w5"])
    responses = [[12, 13, EOS], [15, EOS], [16]]
    sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
    rollout = make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))
    return response_records(rollout, tiny_tokenizer())


def reward_of(function: str, file: str = FILE) -> PythonReward:
    settings = tiny_settings()
    models = Models(make_engine(settings.engine), None)
    context = RewardContext(settings, Workspace(), models, tiny_tokenizer())
    return PythonReward(context, f"{file}:{function}")


# -- what it is given, and what it gives --------------------------------------------------------


def test_a_record_has_text_reference_and_end(records: Sequence[ResponseRecord]) -> None:
    first, second, third = records
    assert (first.prompt, first.response, first.reference) == ("w9 w30", "w12 w13", "w9")
    assert first.messages == [{"role": "user", "content": "w9 w30"}]
    assert (first.finished, first.length) == (True, 3)
    assert (second.response, second.reference) == ("w15", None)
    assert (third.finished, third.length) == (False, 1)
    assert first.as_dict()["reference"] == "w9"


def test_a_long_prompt_is_shortened_where_a_record_is_named() -> None:
    assert shortened("a\n b  c") == "a b c"
    assert shortened("x" * 90) == "x" * 80 + "..."


def test_the_function_scores_all_at_once(records: Sequence[ResponseRecord]) -> None:
    reward = reward_of("words")
    assert reward.scores_of(records) == [2.5, 1.5, 1.0]
    assert reward.score_std == 4.0


@pytest.mark.parametrize(
    ("function", "expected"),
    [("as_array", [0.0, 1.0, 2.0]), ("as_numbers_of_other_libraries", [1.5, 2.0, 3.0])],
)
def test_numbers_of_other_libraries_are_numbers(
    records: Sequence[ResponseRecord], function: str, expected: list[float]
) -> None:
    reward = reward_of(function)
    assert reward.scores_of(records) == expected
    assert reward.score_std == 1.0


def test_no_records_are_not_asked_about() -> None:
    assert reward_of("nothing").scores_of([]) == []


# -- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "one_fewer",
            "gave 2 scores for 3 records, the first of which is the response to 'w9 w30'",
        ),
        ("nothing", "gave None; expected a list of 3 numbers"),
        ("some_text", "gave '2.0' for the response to 'w11'; expected a number"),
        ("not_a_number", "gave nan for the response to 'w5'; expected a finite number"),
        ("too_large", "gave inf for the response to 'w11'; expected a finite number"),
        ("fails_on_w15", "ZeroDivisionError: division by zero on the response to 'w11', 'w15'"),
        ("gives_up", "SystemExit: 0 on the response to 'w9 w30'"),
        ("fails_on_many", "RuntimeError: too many on a batch, on no record alone"),
    ],
)
def test_a_fault_names_the_function_and_the_record(
    records: Sequence[ResponseRecord], function: str, message: str
) -> None:
    with pytest.raises(TrainingError) as caught:
        reward_of(function).scores_of(records)
    assert str(caught.value).startswith(f"reward python:{FILE}:{function}")
    assert message in str(caught.value)


def test_what_it_does_to_messages_stays_its_own(records: Sequence[ResponseRecord]) -> None:
    before = [list(record.messages) for record in records]
    assert reward_of("appends_to_messages").scores_of(records) == [2.0, 2.0, 2.0]
    with pytest.raises(TrainingError):
        reward_of("appends_and_fails").scores_of(records)
    assert [record.messages for record in records] == before


def test_it_may_say_that_it_cannot_tell(records: Sequence[ResponseRecord]) -> None:
    assert reward_of("cannot_tell_of_two").scores_of(records) == [1.0, None, None]


def test_a_unit_that_nothing_can_be_divided_by_is_refused() -> None:
    with pytest.raises(RlhfError, match="its score_std is 0; expected a number above 0"):
        reward_of("without_unit")


def test_an_exception_names_the_line(records: Sequence[ResponseRecord]) -> None:
    lines = (ROOT / FILE).read_text(encoding="utf-8").splitlines()
    line = next(number for number, text in enumerate(lines, 1) if '"w15" not in' in text)
    with pytest.raises(TrainingError, match=rf"fails_on_w15, line {line}: ZeroDivision"):
        reward_of("fails_on_w15").scores_of(records)


@pytest.mark.parametrize(
    ("function", "file", "message"),
    [
        ("lost", FILE, r"sums\.py has no function lost; it has .*words"),
        ("NO_FUNCTION", FILE, r"sums\.py has no function NO_FUNCTION"),
        ("words", "tests/own_rewards/gone.py", r"no file .*gone\.py; it is named from the project"),
    ],
)
def test_what_is_not_there_is_told_at_once(function: str, file: str, message: str) -> None:
    with pytest.raises(RlhfError, match=message):
        reward_of(function, file)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("python", "expected python:FILE:FUNCTION"),
        ("python:mine.py", "expected python:FILE:FUNCTION"),
        ("python:mine.txt:score", "expected python:FILE:FUNCTION"),
        ("python:mine.py:two words", "expected python:FILE:FUNCTION"),
        ("python:/home/me/mine.py:score", "/home/me/mine.py must lie in the project"),
        ("python:../mine.py:score", "../mine.py must lie in the project"),
        ("python:a/../../mine.py:score", "must lie in the project"),
        ("python:~/mine.py:score", "~/mine.py must lie in the project"),
    ],
)
def test_a_file_that_dvc_could_not_watch_is_refused(address: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.rewards": [address]})
    assert message in str(caught.value)


# -- the file is a dependency -------------------------------------------------------------------


def test_the_file_and_what_it_imports_beside_it_are_run_by_the_stage() -> None:
    settings = tiny_settings({"ppo.rewards": [f"python:{FILE}:words"]})
    found = {path.as_posix() for path in closure(STAGES["ppo"].modules(settings))}
    assert {FILE, "tests/own_rewards/helpers.py", "rlhf/rewards/python.py"} <= found
    # of what is installed nothing
    assert not [path for path in found if "numpy" in path or "torch" in path]
    others = closure(STAGES["gold"].modules(settings))
    assert Path(FILE) not in others
    assert Path(FILE) not in closure(STAGES["ppo"].modules(tiny_settings()))


def test_dvc_sees_a_change_of_it_or_the_run_is_refused() -> None:
    settings = tiny_settings({"ppo.rewards": [f"python:{FILE}:words"]})
    listed = ["rlhf", "tests/own_rewards/helpers.py"]
    with pytest.raises(SettingsError, match=r"ppo runs tests/own_rewards/sums\.py, which none"):
        refuse_unwatched("ppo", settings, listed)
    refuse_unwatched("ppo", settings, ["rlhf", "tests/own_rewards"])


def test_a_file_that_is_gone_is_named() -> None:
    settings = tiny_settings({"ppo.rewards": ["python:gone.py:score"]})
    with pytest.raises(RlhfError, match=r"gone\.py: no such file in the project"):
        closure(STAGES["ppo"].modules(settings))


def test_links_to_it_and_to_our_own_files_have_names_of_their_own() -> None:
    assert link_name(Path("rewards/model.py")) == "own.rewards.model"
    assert link_name(Path("rlhf/rewards/model.py")) == "rewards.model"


def test_make_dvc_yaml_links_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings({"ppo.rewards": [f"python:{FILE}:words"]})
    monkeypatch.setattr("rlhf.commands.code_links.load_settings", lambda _path: settings)
    assert Path(FILE) in code_of(STAGES["ppo"])
    assert Path(FILE) not in code_of(STAGES["evaluate"])


def test_a_run_is_paid_by_it(workspace: Workspace) -> None:
    rewards = [f"python:{FILE}:words", {"reward": "model:reward", "weight": 0.1}]
    loop.train(tiny_settings({"ppo.rewards": rewards, "ppo.iterations": 1}), workspace)
    row, *_, last = numbers(workspace.steps("ppo"))
    assert row["reward"] == pytest.approx(row["reward_python_words"] + 0.1 * row["reward_model"])
    assert row["reward_python_words_failures"] == 0.0
    samples = read_steps(workspace.samples("ppo"))
    said = [one["response"] for one in samples if one["step"] == last["step"]]
    words = sum(len(text.split()) for text in said) / len(said)
    expected = words + 0.5 * last["validation_finished"]
    assert last["validation_reward_python_words"] == pytest.approx(expected)
