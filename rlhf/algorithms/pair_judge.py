"""A judge that ranks the two responses to each prompt while a policy learns.

Judges are those of `evaluate`. One sees both responses at once, and is asked in both orders: where
the order decided, the pair is a tie. The main process asks for all: one cache, one limit, one price.
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
    """The judge `address` of an algorithm that learns from pairs.

    facts: what the judge reports of itself since the process began, such as its price
    """

    def __init__(self, address: str, context: Context) -> None:
        """Raises SettingsError or JudgeError where the judge cannot be asked."""
        self.facts: Facts = {}
        self._engine = context.engine
        self._tokenizer = context.tokenizer
        # None where another process asks
        self._judge = _made(address, context) if context.engine.rank == 0 else None

    def preferences(self, first: Rollout, second: Rollout) -> list[Preference | None]:
        """Which response to each prompt of this process is better; None without a verdict."""
        own = cases_of(first, second, self._tokenizer)
        cases = self._engine.all_gather(own)
        told = [self._ask(self._judge, cases)] if self._judge else []
        ((preferences, self.facts),) = self._engine.all_gather(told)
        # processes have as many pairs each, in the order of ranks
        start = self._engine.rank * len(own)
        return preferences[start : start + len(own)]

    @staticmethod
    def _ask(judge: Judge, cases: Sequence[Case]) -> tuple[list[Preference | None], Facts]:
        outcomes = [judgement.outcome for judgement in judge_both_orders(judge, cases)]
        preferences = [None if outcome is None else _PREFERRED[outcome] for outcome in outcomes]
        return preferences, judge.facts()


def cases_of(first: Rollout, second: Rollout, tokenizer: PreTrainedTokenizerBase) -> list[Case]:
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
    # by its name in the registry: an import here would make its code part of every run of pairs
    api_judge = find(JUDGES, "api")
    endpoint = context.settings.ppo.endpoints[parsed.detail]
    cache = context.workspace.answer_cache
    # the loop has a bar of its own
    judge: Judge = api_judge(parsed.detail, endpoint, cache, stage="ppo", show_progress=False)
    return judge
