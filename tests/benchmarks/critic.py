"""How much of a response's score can be told before its end: `python -m tests.benchmarks.critic WORKSPACE`.

It draws answers of the SFT model to training prompts and lets the reward model score them. Told is the explained
variance of the score at the response's tokens, by what the reward model's own head says there (a critic that
starts from it says the same) and by ridge regression on its hidden states, fitted to some of the answers.
1: every score is foretold; 0: no better than the mean; below: worse. The last third of the answers is for testing.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf.batches.padding import Ids
from rlhf.batches.tables import read_table
from rlhf.models.heads import ScalarModel, load_scalar_model
from rlhf.models.saving import load_answering_tokenizer, load_causal_lm
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings import load_settings
from rlhf.workspace import Workspace

AT_ONCE = 96
STRENGTHS = (1e2, 1e3, 1e4, 1e5)


@dataclass(frozen=True)
class Answer:
    """states [R, H] and said [R]: the reward model's before each token; score: at the end."""

    states: Tensor
    said: Tensor
    score: float


def draw(workspace: Workspace, count: int) -> list[tuple[Ids, Ids]]:
    """Prompts with an answer of the SFT model each, as PPO's first iteration would draw them."""
    settings = load_settings(workspace.params)
    table = read_table(workspace, "prompts", split="train")
    prompts = [ids.tolist() for ids in table["prompt_ids"].iloc[:count]]
    model = load_causal_lm(workspace.model("sft")).eval()
    tokenizer = load_answering_tokenizer(workspace.model("sft"))
    longest = settings.ppo.max_response_tokens or settings.data.max_response_tokens
    rule = SamplingRule(
        max_new_tokens=longest,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
        temperature=settings.ppo.sampling.temperature,
    )
    answers: list[list[int]] = []
    for start in range(0, len(prompts), AT_ONCE):
        part = prompts[start : start + AT_ONCE]
        uniforms = [row_uniforms(longest, start + row) for row in range(len(part))]
        answers += sample(model, part, torch.stack(uniforms), rule).responses
    return list(zip(prompts, answers, strict=True))


@torch.no_grad()
def read(model: ScalarModel, prompt: Ids, response: Ids) -> Answer:
    """What the reward model makes of one answer."""
    ids = torch.tensor([[*prompt, *response]])
    states = model.lm.base_model(input_ids=ids).last_hidden_state[0]
    said = model.head(states)
    # the state before a token is the one after the token before it
    before = slice(len(prompt) - 1, -1)
    return Answer(states[before].double(), said[before].double(), float(said[-1]))


def explained_variance(values: Tensor, scores: Tensor) -> float:
    """1 - Var(score - value) / Var(score)."""
    return 1 - float((scores - values).var() / scores.var())


def ridge(learnt: Sequence[Answer], tested: Sequence[Answer], strength: float) -> float:
    """Explained variance on `tested` of a linear function of the states, fitted to `learnt`."""
    states, scores = flat(learnt)
    center, mean = states.mean(dim=0), scores.mean()
    centered = states - center
    penalty = strength * torch.eye(states.shape[1], dtype=states.dtype)
    weights = torch.linalg.solve(centered.T @ centered + penalty, centered.T @ (scores - mean))
    others, expected = flat(tested)
    return explained_variance((others - center) @ weights + mean, expected)


def flat(answers: Sequence[Answer]) -> tuple[Tensor, Tensor]:
    """States [N, H] of all tokens, and for each the score of its answer [N]."""
    scores = [torch.full((len(one.said),), one.score, dtype=torch.double) for one in answers]
    return torch.cat([one.states for one in answers]), torch.cat(scores)


def main() -> None:
    """Print a line for the head and one for each number of answers."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.critic", description=__doc__)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--answers", type=int, default=288)
    asked = parser.parse_args()
    workspace = Workspace(asked.workspace.resolve())
    drawn = draw(workspace, asked.answers)
    model = load_scalar_model(workspace.model("reward")).eval()
    answers = [read(model, prompt, response) for prompt, response in drawn]
    cut = len(answers) * 2 // 3
    learnt, tested = answers[:cut], answers[cut:]

    _, scores = flat(tested)
    said = torch.cat([one.said for one in tested])
    together = float(torch.corrcoef(torch.stack([said, scores]))[0, 1]) ** 2
    print(f"the head: {explained_variance(said, scores):.3f}; r2 with the score {together:.3f}")
    print(f"ridge, strengths {STRENGTHS}, by the number of answers that it was fitted to:")
    for count in sorted({cut // 6, cut // 3, cut // 2, cut}):
        found = [f"{ridge(learnt[:count], tested, strength):.3f}" for strength in STRENGTHS]
        print(f"{count:4}: {', '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
