"""What a policy run is judged by beyond its own metrics.

That is the gold model over the validations, the loss on plain text at the end, and whether its credit
finds planted errors.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf.batches.tables import read_rows_of
from rlhf.common.files import read_json
from rlhf.core.steps import read_steps
from rlhf.data.sources.additions import SEPARATOR, read_addition
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.plain_text import plain_text_loss
from rlhf.models.scoring import ResponseScorer
from rlhf.settings import Settings
from rlhf.studies.beams import searched
from rlhf.studies.credit import credit_auc, differing, plant
from rlhf.workspace import Workspace

CURVES = ("reward", "kl", "perplexity", "response_length", "entropy", "finished", "value_loss")
# measured at each validation; the summary has where they began and ended
JUDGED = ("gold", "reward_tail")
# the same where all prompts are additions (`additions:ROWS`)
CHECKED = ("right", "flawed", "lines")
# of a reward that moves with the policy: the share of held-out pairs that it ranks right, and how the
# step log calls it
RANKED = {"ranked_right": "validation_pair_accuracy"}

_BATCH = 32

SampleRow = dict[str, Any]


def run_record(settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """A finished policy run as one JSON object.

    `curves` are by iteration, `looks` by validation, `summary` by name: the run's own; `gold`,
    `validation_reward`, `reward_tail`, what `checked_additions` says and `ranked_right` of an algorithm
    whose reward moves, each with _first, _last and _mean (over the validations after the first, so that
    who rises earlier has more); `credit_auc`, and `pair_credit_auc` where all pairs are `planted:`
    (_first and _last); `plain_text_loss`; of the model of stage dpo also `chosen_logprob_first` and
    `_last`, held-out, and what `searched` finds.
    """
    samples = read_steps(workspace.samples("ppo"))
    # the prompts are the same at each validation, so that the scores can be compared
    judged = judged_validations(samples, gold_scores(settings, workspace, samples))
    logged = logged_at_validations(workspace)
    validations = [
        row | logged[int(row["step"])] | checked_additions(samples_of(samples, row["step"]))
        for row in judged
    ]
    summary = read_json(workspace.metrics("ppo"))
    for key in (*JUDGED, *(key for key in (*CHECKED, *RANKED) if key in validations[0])):
        summary |= first_mean_last(key, [validation[key] for validation in validations])
    rewards = [validation["reward"] for validation in validations]
    summary |= first_mean_last("validation_reward", rewards)
    engine = TorchEngine(settings.engine)
    policy, reference = workspace.model("policy"), workspace.model("sft")
    summary["plain_text_loss"] = plain_text_loss(policy, workspace, engine)
    # one set of errors for all seeds of the policy
    pairs = read_rows_of(workspace, "preferences", "test")
    errors = {"credit_auc": plant(pairs, reference, engine, seed=0)}
    if all(address.startswith("planted:") for address in settings.data.preferences):
        errors["pair_credit_auc"] = differing(pairs)
    start = workspace.model(settings.ppo.initial)
    for key, planted in errors.items():
        summary[f"{key}_first"] = credit_auc(start, reference, planted, engine)
        summary[f"{key}_last"] = credit_auc(policy, reference, planted, engine)
    if settings.ppo.algorithm == "dpo":
        summary |= _chosen_logprobs(workspace) | searched(settings, workspace, engine)
    return {"curves": _curves(workspace), "looks": validations, "summary": summary}


def first_mean_last(key: str, values: Sequence[float]) -> dict[str, float]:
    """What the validations of a run say under one name; the mean is without the first."""
    later = values[1:] or values
    return {
        f"{key}_first": values[0],
        f"{key}_mean": sum(later) / len(later),
        f"{key}_last": values[-1],
    }


def _chosen_logprobs(workspace: Workspace) -> dict[str, float]:
    """Of the reference and of the DPO model; empty for a model that the run did not train itself."""
    path = workspace.metrics("dpo")
    if not path.is_file():
        return {}
    metrics = read_json(path)
    return {
        "chosen_logprob_first": metrics["test_reference_chosen_logprob"],
        "chosen_logprob_last": metrics["test_chosen_logprob"],
    }


def logged_at_validations(workspace: Workspace) -> dict[int, dict[str, float]]:
    """What the step log says of each validated policy.

    What it had cost: KL from SFT in nats a token, and tokens sampled so far; and what RANKED names.
    """
    logged: dict[int, dict[str, float]] = {}
    tokens = 0.0
    for row in read_steps(workspace.steps("ppo")):
        if "validation_kl" in row:
            at = {"kl": row["validation_kl"], "tokens": tokens}
            at |= {key: row[name] for key, name in RANKED.items() if name in row}
            logged[int(row["step"])] = at
        # an iteration validates before it learns
        tokens += row.get("tokens", 0.0)
    return logged


def _curves(workspace: Workspace) -> list[dict[str, Any]]:
    """The metrics of each iteration; steps without a rollout have no reward and are left out."""
    rows = [row for row in read_steps(workspace.steps("ppo")) if "reward" in row]
    columns = ("step", *CURVES)
    return [_select(row, columns) for row in rows]


def _select(row: dict[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    return {key: row[key] for key in columns if key in row}


def samples_of(samples: Sequence[SampleRow], step: float) -> list[SampleRow]:
    """Those of one validation."""
    return [row for row in samples if row["step"] == step]


def judged_validations(
    samples: Sequence[SampleRow], gold: Sequence[float]
) -> list[dict[str, float]]:
    """Mean reward and gold score of each validation, and the tail of its rewards.

    The tail is the 95th percentile less the median. `gold` has a score for each of `samples`.
    """
    validations = []
    for step in sorted({int(row["step"]) for row in samples}):
        indices = [index for index, row in enumerate(samples) if row["step"] == step]
        rewards = np.array([samples[index]["reward"] for index in indices])
        validations.append(
            {
                "step": step,
                "reward": float(rewards.mean()),
                "reward_tail": float(np.percentile(rewards, 95) - np.median(rewards)),
                "gold": float(np.mean([gold[index] for index in indices])),
            }
        )
    return validations


def checked_additions(samples: Sequence[SampleRow]) -> dict[str, float]:
    """Of answers to additions, in lines; nothing where a prompt is none.

    right: the share whose last line is the sum; flawed: of these, the share with a wrong line before
    it (0 where none is right); lines: how many there are
    """
    additions = [read_addition(row["prompt"].removeprefix("user: ")) for row in samples]
    right = flawed = lines = 0
    for row, addition in zip(samples, additions, strict=True):
        if addition is None:
            return {}
        written = row["response"].split(SEPARATOR)
        lines += len(written)
        if written[-1] == addition.lines[-1]:
            right += 1
            flawed += not all(addition.verdicts(written))
    return {
        "right": right / len(samples),
        "flawed": flawed / max(right, 1),
        "lines": lines / len(samples),
    }


def gold_scores(
    settings: Settings, workspace: Workspace, samples: Sequence[SampleRow]
) -> list[float]:
    """The gold model's score of every sample, in units of the standard deviation of its scores."""
    engine = TorchEngine(settings.engine)
    scorer = ResponseScorer.load(workspace.model("gold"), engine, unit_scale=True)
    # a sample's `row` is an index into the prompts of the validation split (PromptBatch.table_rows)
    prompt_ids = read_rows_of(workspace, "prompts", "validation")["prompt_ids"]
    scores: list[float] = []
    for start in range(0, len(samples), _BATCH):
        part = samples[start : start + _BATCH]
        prompts = [prompt_ids.iloc[row["row"]] for row in part]
        responses = [_token_ids(row["response_ids"]) for row in part]
        scores += scorer.scores(prompts, responses)
    return scores


def _token_ids(text: str) -> list[int]:
    return [int(token) for token in text.split()]
