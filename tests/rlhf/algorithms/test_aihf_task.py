"""AIHF on a task with a known optimum: all that is shown or chosen says GOOD, six times.

So should the policy. The pairs are the task's own too: chosen answers that end sooner would pull
the policy away from the demonstrations.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from counted_tokens import BEST, TASK
from neighbours import AIHF, AIHF_DIRECT
from tiny import GOOD, numbers, text_of, tiny_settings

from rlhf.batches.tables import read_table, write_table
from rlhf.training import loop
from rlhf.workspace import Workspace


def demonstrate(workspace: Workspace) -> None:
    """Put the answer of six times GOOD in the place of all that are demonstrated or chosen."""
    rows = read_table(workspace, "sft").to_dict("records")
    for row in rows:
        prompt = [
            token
            for token, answer in zip(row["input_ids"], row["loss_mask"], strict=True)
            if not answer
        ]
        row["input_ids"] = [*prompt, *[GOOD] * BEST]
        row["loss_mask"] = [*[False] * len(prompt), *[True] * BEST]
    write_table(workspace.prepared, "sft", rows)

    pairs = read_table(workspace, "preferences").to_dict("records")
    for pair in pairs:
        pair["chosen_ids"] = [GOOD] * BEST
        pair["chosen"] = text_of(pair["chosen_ids"])
    write_table(workspace.prepared, "preferences", pairs)


def counts(workspace: Workspace) -> tuple[float, float]:
    """How often a response to the validation prompts says GOOD: at the first validation, and at the last."""
    samples = numbers(workspace.samples("ppo"))
    found = []
    for step in (samples[0]["step"], samples[-1]["step"]):
        texts = [row["response_ids"].split() for row in samples if row["step"] == step]
        found.append(sum(ids.count(str(GOOD)) for ids in texts) / len(texts))
    return found[0], found[1]


@pytest.mark.long
@pytest.mark.parametrize(
    "algorithm",
    [
        {**AIHF, "ppo.aihf.demonstrations": 16},
        {**AIHF_DIRECT, "ppo.aihf_direct.demonstrations": 16},
    ],
    ids=["aihf", "aihf-direct"],
)
def test_the_policy_comes_to_do_as_is_demonstrated(
    workspace: Workspace, algorithm: Mapping[str, Any]
) -> None:
    """The judge, models/reward, has random weights: it has no part in that."""
    demonstrate(workspace)
    task = {key: value for key, value in TASK.items() if key != "ppo.rewards"}
    loop.train(tiny_settings({**task, **algorithm}), workspace)
    first, last = counts(workspace)
    assert first < 1.0
    assert last > 5.0
