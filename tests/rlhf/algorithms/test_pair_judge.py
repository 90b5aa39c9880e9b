"""Pairs that a judge ranks in place of the rewards: verdicts, ties, what it costs, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from neighbours import online_dpo, xpo
from scripted_server import Script, endpoint, fewer_words, scripted
from slow_pairs import make_of_pairs, pair_update, pairs_of, two_draws
from tiny import numbers, text_of, tiny_settings, tiny_tokenizer

from rlhf.algorithms.base import Context
from rlhf.algorithms.pair_judge import PairJudge, cases_of
from rlhf.algorithms.pair_metrics import judge_metrics
from rlhf.commands.workspace_checks import rewards_check, teacher_check
from rlhf.common.errors import JudgeError
from rlhf.evaluation.judges.rules import points
from rlhf.evaluation.types import Preference
from rlhf.rollout.records import Rollout
from rlhf.stages import STAGES
from rlhf.training import loop
from rlhf.training.lengthening import ANY_VALUE
from rlhf.training.run import begin
from rlhf.workspace import Workspace

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "k")


def asking(url: str, member: dict[str, Any], **changes: object) -> dict[str, Any]:
    """Settings of an algorithm whose pairs the scripted endpoint ranks."""
    content = endpoint(url, **changes).model_dump(mode="json")
    own = "ppo.xpo.judge" if "ppo.xpo" in member else "ppo.online_dpo.judge"
    return {**member, own: "api:scripted", "ppo.endpoints": {"scripted": content}}


def words(rollout: Rollout) -> list[list[str]]:
    return [
        tiny_tokenizer().decode(ids, skip_special_tokens=True).split() for ids in rollout.responses
    ]


# -- what a judge is asked ------------------------------------------------------------------------


def test_a_judge_sees_the_dialogue_and_both_texts_without_special_tokens(
    prepared: Workspace,
) -> None:
    algorithm = make_of_pairs(prepared, xpo())
    first, second = two_draws(algorithm)
    cases = cases_of(first, second, tiny_tokenizer())
    assert len({case.id for case in cases}) == len(first)
    for row, case in enumerate(cases):
        assert case.messages == ({"role": "user", "content": text_of(first.prompts.ids[row])},)
        assert case.response_first.split() == words(first)[row]
        assert case.response_second.split() == words(second)[row]
        assert "<|im_end|>" not in case.response_first + case.response_second
        assert list(case.ids_first) == first.responses[row]
        assert list(case.ids_second) == second.responses[row]
        assert (case.kind, list(case.prompt_ids)) == ("helpful", first.prompts.ids[row])


# -- what it decides ------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [xpo(), online_dpo()], ids=["xpo", "online-dpo"])
def test_its_verdicts_rank_the_pairs_and_the_rewards_do_not(
    workspace: Workspace, member: dict[str, Any]
) -> None:
    script = Script(rule=fewer_words)
    with scripted(script) as url:
        algorithm = make_of_pairs(workspace, asking(url, member))
        draws = two_draws(algorithm)
        update = pair_update(algorithm, draws)
        again = pair_update(make_of_pairs(workspace, asking(url, member)), draws)

    first, second = map(words, draws)
    lead = [len(one) - len(other) for one, other in zip(first, second, strict=True)]
    # the first wins some, the second some, and not as by the rewards
    assert min(lead) < 0 < max(lead)
    scores = [algorithm.score(draw).scores for draw in draws]
    by_reward = (scores[0] > scores[1]).tolist()
    decided = [(gap < 0, wins) for gap, wins in zip(lead, by_reward, strict=True) if gap]
    agreement = sum(one == other for one, other in decided) / len(decided)
    assert 0 < agreement < 1

    (batch,) = update.mini_batches
    found = {
        tuple(row.batch.input_ids[0][row.batch.target_mask[0]].tolist()): float(row.weights[0])
        for row in batch.split(1)
    }
    expected = {
        tuple(other if gap > 0 else one): float(gap != 0)
        for one, other, gap in zip(draws[0].responses, draws[1].responses, lead, strict=True)
    }
    assert found == expected

    metrics = update.metrics
    assert metrics["judge_agreement"] == pytest.approx(agreement)
    assert metrics["ties"] == pytest.approx(lead.count(0) / len(lead))
    assert metrics["unjudged"] == 0.0
    unequal = sum(one != other for one, other in zip(first, second, strict=True))
    assert metrics["judge_answers_asked"] == script.requests == 2 * unequal
    assert metrics["judge_price"] == pytest.approx(2 * unequal * (100 * 2.0 + 10 * 8.0) / 1e6)
    # a run that was killed and begins the iteration again pays for nothing twice
    assert again.metrics["judge_answers_asked"] == 0
    assert again.metrics["judge_answers_kept"] == 2 * unequal
    assert again.metrics["judge_agreement"] == metrics["judge_agreement"]


def test_where_the_order_decided_nothing_is_learnt(workspace: Workspace) -> None:
    with scripted(Script(rule=lambda _: "A")) as url:
        algorithm = make_of_pairs(workspace, asking(url, online_dpo()))
        update = pair_update(algorithm, two_draws(algorithm))
    assert update.roles == () and update.metrics["ties"] == 1.0
    assert update.metrics["judge_agreement"] is None


def test_an_answer_that_cannot_be_read_is_no_vote(workspace: Workspace) -> None:
    script = Script(fault_rate=1.0, faults=("nonsense",), rule=fewer_words)
    with scripted(script) as url:
        changes = asking(url, xpo(), give_up_after=None, asks=1)
        algorithm = make_of_pairs(workspace, changes)
        update = pair_update(algorithm, two_draws(algorithm))
    assert update.roles == ()
    assert update.metrics["unjudged"] == update.metrics["ties"] == 1.0
    assert all(pair.weight == 0.0 for pair in pairs_of(algorithm))


def test_of_several_processes_shares_are_of_all() -> None:
    judged: list[Preference | None] = ["first", "second", "tie", None, "first"]
    by_scores: list[Preference | None] = ["first", "first", "first", "second", "tie"]
    facts = {"answers_asked": 10, "price": None}
    # as if another process had the same
    found = judge_metrics(judged, by_scores, facts, CPU, lambda value: 2 * value)
    # what the judge tells is of all already: one process asks
    facts_as_they_are = {"judge_answers_asked": 10, "judge_price": None}
    assert found == {"unjudged": 0.2, "judge_agreement": 0.5, **facts_as_they_are}


def test_another_process_asks_nobody_and_takes_its_own_part(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two, which has no key: what the first was told comes in the order of ranks."""
    monkeypatch.delenv("SCRIPTED_KEY")
    draws = two_draws(make_of_pairs(prepared, xpo()))
    told = ["first", "second"] * len(draws[0])

    class Second:
        rank = 1

        def all_gather(self, items: list[Any]) -> list[Any]:
            return [*items, *items] if items else [(told, {"price": 1.0})]

    settings = tiny_settings(asking("http://127.0.0.1:9/v1", xpo()))
    engine: Any = Second()
    judge = PairJudge("api:scripted", Context(settings, prepared, engine, tiny_tokenizer()))
    told[-1] = "tie"
    assert judge.preferences(*draws) == told[len(draws[0]) :]
    assert judge.facts == {"price": 1.0}


# -- runs -----------------------------------------------------------------------------------------


def test_a_run_by_the_rules_needs_no_endpoint(workspace: Workspace) -> None:
    member = {**online_dpo(judge="rules"), "ppo.optimizer.learning_rate": 1e-3}
    loop.train(tiny_settings(member), workspace)
    *iterations, final = numbers(workspace.steps("ppo"))
    assert len(iterations) == 4
    for row in iterations:
        assert {"unjudged", "ties", "reward_margin"} <= row.keys()
        assert row["unjudged"] == 0.0
    # the best policy is still chosen by the rewards
    assert "validation_objective" in final


def test_the_rules_prefer_what_their_points_say(prepared: Workspace) -> None:
    algorithm = make_of_pairs(prepared, xpo(judge="rules"))
    draws = two_draws(algorithm)
    pair_update(algorithm, draws)
    cases = cases_of(*draws, tiny_tokenizer())
    for case, pair in zip(cases, pairs_of(algorithm), strict=True):
        asked = case.messages[-1]["content"]
        first, second = (
            points(case.kind, asked, text) for text in (case.response_first, case.response_second)
        )
        assert pair.weight == float(abs(first - second) >= 0.25)
        assert pair.second_is_chosen == (second - first >= 0.25)


# -- faults ---------------------------------------------------------------------------------------


def test_a_missing_key_is_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCRIPTED_KEY")
    changes = asking("http://127.0.0.1:9/v1", xpo())
    with pytest.raises(
        JudgeError, match=r"ppo\.endpoints\.scripted\.key_variable: SCRIPTED_KEY is not"
    ):
        make_of_pairs(Workspace(tmp_path), changes)


def test_doctor_looks_for_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings(asking("http://127.0.0.1:9/v1", xpo()))
    found = rewards_check(Workspace(tmp_path), settings)
    assert found.state == "ok" and found.found.endswith("api:scripted ranks the pairs")
    monkeypatch.delenv("SCRIPTED_KEY")
    found = rewards_check(Workspace(tmp_path), settings)
    assert found.state == "fault" and "ppo.endpoints.scripted.key_variable" in found.found


def test_doctor_notes_a_judge_that_teaches_and_evaluates(tmp_path: Path) -> None:
    settings = tiny_settings({**xpo(judge="rules"), "evaluate.judges": ["gold", "rules"]})
    found = teacher_check(Workspace(tmp_path), settings)
    assert found.state == "note" and found.found.startswith("rules ranks the pairs")
    settings = tiny_settings({**xpo(judge="rules"), "evaluate.judges": ["gold"]})
    assert teacher_check(Workspace(tmp_path), settings).state == "ok"


def test_how_an_endpoint_is_asked_may_change_while_a_run_is_resumed(workspace: Workspace) -> None:
    def key(**changes: object) -> str:
        settings = tiny_settings(asking("http://127.0.0.1:9/v1", xpo(), **changes))
        run = begin("ppo", settings, workspace, ["ppo"], {}, any_value=ANY_VALUE)
        return run.checkpoints.directory.name

    before = key()
    assert key(retries=1, concurrency=1, price=None, timeout_seconds=1.0) == before
    assert key(model="another") != before
    assert key(asks=1) != before


def test_the_judge_that_is_chosen_is_code_of_the_stage() -> None:
    modules = STAGES["ppo"].modules
    chosen = set(modules(tiny_settings(xpo(judge="rules")))) - set(modules(tiny_settings(xpo())))
    assert chosen == {"rlhf.evaluation.judges.rules"}


def test_an_endpoint_that_says_no_ends_the_run_by_its_key(workspace: Workspace) -> None:
    with scripted(Script(fault_rate=1.0, faults=("no credit",), rule=fewer_words)) as url:
        algorithm = make_of_pairs(workspace, asking(url, xpo()))
        with pytest.raises(JudgeError, match=r"ppo\.endpoints\.scripted: .* says no: .*no credit"):
            pair_update(algorithm, two_draws(algorithm))
