"""What a study measures of a DPO policy's likeliest responses, against greedy decoding by hand."""

import pytest
import torch
from neighbours import DPO_POLICY
from tiny import EOS, tiny_settings

from rlhf.batches.tables import read_table
from rlhf.engine.single import TorchEngine
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.studies import beams
from rlhf.workspace import Workspace

LONGEST = 5


@torch.no_grad()
def greedy(workspace: Workspace, count: int) -> tuple[list[float], list[int]]:
    """Gold scores and lengths of the likeliest next tokens, one after the other."""
    policy = load_causal_lm(workspace.model("policy"))
    gold = load_scalar_model(workspace.model("gold"), unit_scale=True)
    scores, lengths = [], []
    for prompt in read_table(workspace, "prompts", split="validation")["prompt_ids"][:count]:
        ids = prompt.tolist()
        while len(ids) < len(prompt) + LONGEST and ids[-1] != EOS:
            ids.append(int(policy(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        hidden = gold.lm.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        scores.append(float(gold.head(hidden)))
        lengths.append(len(ids) - len(prompt))
    return scores, lengths


def test_gold_scores_and_lengths_by_width(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DPO model is the policy; a reward model of random weights judges."""
    workspace.model("policy").symlink_to(workspace.model("dpo"))
    workspace.model("gold").symlink_to(workspace.model("reward"))
    monkeypatch.setattr(beams, "WIDTHS", (1, 3))
    settings = tiny_settings({**DPO_POLICY, "ppo.max_response_tokens": LONGEST})
    found = beams.searched(settings, workspace, TorchEngine(settings.engine))
    scores, lengths = greedy(workspace, settings.ppo.validation_prompts)
    assert found["gold_beams_1"] == pytest.approx(sum(scores) / len(scores), abs=1e-5)
    assert found["length_beams_1"] == sum(lengths) / len(lengths)
    assert found.keys() == {f"{of}_beams_{n}" for of in ("gold", "length") for n in (1, 3)}
