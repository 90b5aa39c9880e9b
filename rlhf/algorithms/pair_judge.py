"""A judge that ranks the two responses to each prompt while a policy learns.

Judges are those of `evaluate`. One sees both responses at once, and is asked in both orders: where
the order decided, the pair is a tie.
"""

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from rlhf.algorithms.base import Context
from rlhf.common.address import Address
from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.judges import make_judge
from rlhf.evaluation.types import Case, Facts, Judge, Outcome, Preference
from rlhf.registry import JUDGES, find
from rlhf.rollout.records import Rollout

# an outcome is that of the response which came first
_PREFERRED: Mapping[Outcome, Preference] = {"win": "first", "tie": "tie", "lose": "second"}


class PairJudge:
    """The judge `address` of an algorithm that learns from pairs; each process asks about its own."""

    def __init__(self, address: str, context: Context) -> None:
        """Raises SettingsError or JudgeError where the judge cannot be asked."""
        self._judge = _made(address, context)
        self._tokenizer = context.tokenizer

    def preferences(self, first: Rollout, second: Rollout) -> list[Preference | None]:
        """Which response to each prompt is better; None where the judge gave no readable answer."""
        cases = cases_of(first, second, self._tokenizer)
        outcomes = [judgement.outcome for judgement in judge_both_orders(self._judge, cases)]
        return [None if outcome is None else _PREFERRED[outcome] for outcome in outcomes]

    def facts(self) -> Facts:
        """What this process's questions cost since it began; empty where they cost nothing."""
        return self._judge.facts()


def cases_of(first: Rollout, second: Rollout, tokenizer: PreTrainedTokenizerBase) -> Sequence[Case]:
    """Two rollouts of the same prompts as a judge sees them, a case a prompt."""
    prompts = first.prompts
    columns = (prompts.positions, prompts.kinds, prompts.messages, prompts.ids)
    rows = zip(*columns, first.responses, second.responses, strict=True)
    return [
        Case(
            id=f"prompt {position}",
            kind=kind,
            messages=tuple(messages),
            response_first=str(tokenizer.decode(one, skip_special_tokens=True)),
            response_second=str(tokenizer.decode(other, skip_special_tokens=True)),
            prompt_ids=tuple(ids),
            ids_first=tuple(one),
            ids_second=tuple(other),
        )
        for position, kind, messages, ids, one, other in rows
    ]


def _made(address: str, context: Context) -> Judge:
    parsed = Address.parse(address)
    if parsed.kind != "api":
        return make_judge(address, context.settings, context.workspace)
    endpoint = context.settings.ppo.endpoints[parsed.detail]
    cache = context.workspace.answer_cache
    judge: Judge = find(JUDGES, "api")(parsed.detail, endpoint, cache, stage="ppo")
    return judge
