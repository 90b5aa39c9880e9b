"""What a policy run is judged by, beyond its own metrics: the gold model over the looks, and plain text at the end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlhf.batches.tables import read_rows_of
from rlhf.common.files import read_json
from rlhf.core.steps import read_steps
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.plain_text import plain_text_loss
from rlhf.models.scoring import ResponseScorer
from rlhf.settings import Settings
from rlhf.workspace import Workspace

BATCH = 32
JUDGED = ("gold", "reward_tail")
CURVES = ("reward", "kl", "perplexity", "response_length", "entropy", "finished", "value_loss")

Row = dict[str, Any]


def run_record(settings: Settings, workspace: Workspace) -> dict[str, Any]:
    """A finished policy run as one JSON object: `curves` by iteration, `looks` by look, `summary` by name.

    The summary holds the run's own, and `gold`, `reward_tail` (each with _first and _last) and `plain_text_loss`.
    """
    samples = read_steps(workspace.samples("ppo"))
    looks = looks_of(samples, gold_scores(settings, workspace, samples))
    curves = [
        {"step": row["step"], **{key: row[key] for key in CURVES if key in row}}
        for row in read_steps(workspace.steps("ppo"))
        if "reward" in row
    ]
    ends = {
        f"{key}_{end}": look[key]
        for key in ("gold", "reward_tail")
        for end, look in (("first", looks[0]), ("last", looks[-1]))
    }
    tax = plain_text_loss(workspace.model("policy"), workspace, TorchEngine(settings.engine))
    summary = read_json(workspace.metrics("ppo")) | ends | {"plain_text_loss": tax}
    return {"curves": curves, "looks": looks, "summary": summary}


def looks_of(samples: Sequence[Row], gold: Sequence[float]) -> list[dict[str, float]]:
    """Mean reward and gold score of each look, and the tail of its rewards: 95th percentile less median."""
    found = []
    for step in sorted({int(row["step"]) for row in samples}):
        places = [place for place, row in enumerate(samples) if row["step"] == step]
        rewards = np.array([samples[place]["reward"] for place in places])
        found.append(
            {
                "step": step,
                "reward": float(rewards.mean()),
                "reward_tail": float(np.percentile(rewards, 95) - np.median(rewards)),
                "gold": float(np.mean([gold[place] for place in places])),
            }
        )
    return found


def gold_scores(settings: Settings, workspace: Workspace, samples: Sequence[Row]) -> list[float]:
    """The gold model's score of every sample, in units of the standard deviation of its scores."""
    engine = TorchEngine(settings.engine)
    scorer = ResponseScorer.load(workspace.model("gold"), engine, unit_scale=True)
    table = read_rows_of(workspace, "prompts", "validation")
    scores: list[float] = []
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        prompts = [table["prompt_ids"].iloc[row["row"]] for row in part]
        responses = [[int(token) for token in row["response_ids"].split()] for row in part]
        scores += scorer.scores(prompts, responses)
    return scores
