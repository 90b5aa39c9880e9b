import math

import pytest
import torch
from tiny import PAD, tiny_settings

from rlhf.batches.tables import read_table
from rlhf.core.steps import read_steps
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.plain_text import plain_text_loss
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.studies.measure import gold_scores, judged_validations, run_record
from rlhf.training import loop, reward
from rlhf.workspace import Workspace


@torch.no_grad()
def test_a_run_is_measured_by_gold_model_and_plain_text(workspace: Workspace) -> None:
    settings = tiny_settings({"ppo.iterations": 3})
    reward.train(tiny_settings({"gold.max_steps": 2}), workspace, "gold")
    loop.train(settings, workspace)
    samples = read_steps(workspace.samples("ppo"))
    gold = load_scalar_model(workspace.model("gold"), unit_scale=True)
    prompts = read_table(workspace, "prompts", split="validation")["prompt_ids"]
    slow = []
    for place, row in enumerate(samples):
        ids = [*prompts[place % 4].tolist(), *map(int, row["response_ids"].split())]
        slow.append(
            float(
                gold.head(
                    gold.lm.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
                )
            )
        )
    assert gold_scores(settings, workspace, samples) == pytest.approx(slow, abs=1e-5)

    model, total, count = load_causal_lm(workspace.model("policy")), 0.0, 0
    for window in read_table(workspace, "pretrain", split="validation")["input_ids"]:
        ids = torch.tensor([window.tolist()])
        logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        total -= float(logprobs.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    engine = TorchEngine(settings.engine)
    assert plain_text_loss(workspace.model("policy"), workspace, engine) == pytest.approx(
        total / count, abs=1e-5
    )

    record = run_record(settings, workspace)
    assert [row["step"] for row in record["looks"]] == [0, 2, 3]
    assert record["looks"][0]["gold"] == pytest.approx(sum(slow[:4]) / 4, abs=1e-5)
    assert record["summary"]["gold_first"] == record["looks"][0]["gold"]
    assert record["summary"]["gold_last"] == record["looks"][-1]["gold"]
    assert [row["step"] for row in record["curves"]] == [-1, 0, 1, 2]
    assert (
        all(math.isfinite(value) for row in record["curves"] for value in row.values()) and PAD == 0
    )


def test_the_tail_of_the_rewards() -> None:
    samples = [{"step": 0, "reward": float(n)} for n in range(21)] + [
        {"step": 5, "reward": 1.0}
    ] * 3
    first, second = judged_validations(samples, [0.5] * 24)
    assert (first["reward_tail"], second["reward_tail"]) == (9.0, 0.0)  # 19 - 10
    assert (first["gold"], first["reward"]) == (0.5, 10.0)
