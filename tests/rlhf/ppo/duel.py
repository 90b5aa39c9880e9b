"""Our PPO-max and TRL's trainer on the same models and responses, a whole update each."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from given import alone, step_loss, updates_of
from tiny import EOS, GOOD, PAD, VOCABULARY, prompts_of, tiny_settings, tiny_tokenizer
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification

from rlhf.algorithms.base import Context
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.core.tally import Tally
from rlhf.engine import make_engine
from rlhf.models.heads import ScalarModel, load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.rollout.records import Experience, Rollout, Sampled, Scores, make_rollout
from rlhf.workspace import Workspace

PROMPTS = [
    [2, 9, 30],
    [2, 11],
    [2, 5, 6, 7, 8, 40, 41],
    [2, 50, 51, 52],
    [2, 60],
    [2, 13, 14],
    [2, 15],
    [2, 16, 17],
]
WIDTH, EPOCHS, RATE = 6, 3, 0.3


def responses_of(lengths: list[int]) -> list[list[int]]:
    """Random words; what is shorter than WIDTH ends by an EOS."""
    random = torch.Generator().manual_seed(7)
    rows = torch.randint(GOOD, VOCABULARY, (len(lengths), WIDTH), generator=random).tolist()
    responses = []
    for row, length in zip(rows, lengths, strict=True):
        responses.append([*row[: length - 1], EOS] if length < WIDTH else row)
    return responses


def rollout_of(responses: list[list[int]]) -> Rollout:
    prompts = prompts_of(PROMPTS[: len(responses)])
    sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return make_rollout(prompts, sampled, EOS, PAD, device)


@dataclass(frozen=True)
class Outcome:
    """What came of one update: the change of all weights in one row each, and the metrics."""

    policy: Tensor
    critic: Tensor
    metrics: dict[str, float]


@dataclass(frozen=True)
class Duel:
    """Both trainers on the same models; every update starts from the same weights."""

    trl: ModuleType
    workspace: Workspace
    folder: Path
    gamma: float = 0.99
    lam: float = 0.95
    eta: float = 0.2
    estimator: str = "k1"
    micro_batch: int = len(PROMPTS)

    def algorithm(self) -> PpoMax:
        settings = tiny_settings(
            {
                "ppo.kl": {"coefficient": self.eta, "estimator": self.estimator},
                "ppo.gae": {"gamma": self.gamma, "lambda": self.lam},
                "ppo.micro_batch": self.micro_batch,
                "ppo.mini_batch": len(PROMPTS),
                "ppo.sampling.temperature": 0.7,
                "ppo.reward": {"normalise": None, "scale": None, "clip": None},
                "ppo.advantage": {"normalise": "mini-batch", "clip": None},
                "ppo.surrogate_clip": 0.2,
                "ppo.value_clip": 0.1,
                "ppo.ptx": None,
            }
        )
        engine = make_engine(settings.engine)
        algorithm = PpoMax(Context(settings, self.workspace, engine, tiny_tokenizer()))
        move(algorithm.models.language_model("policy"))
        return algorithm

    def ours(self, lengths: list[int], score_on_padding: bool = False) -> Outcome:
        """`score_on_padding`: as TRL has it, the first padding after an EOS is the last token."""
        algorithm, rollout, tally = self.algorithm(), rollout_of(responses_of(lengths)), Tally()
        policy, critic = updates_of(algorithm, rollout)
        (experience,) = policy.mini_batches
        lessons = [(policy, experience), (critic, experience)]
        if score_on_padding:
            longer = without_penalty_on_padding(algorithm, rollout)
            moved_score = replace(experience, advantages=longer.advantages)
            lessons = [(policy, moved_score), (critic, longer)]

        modules = {"policy": algorithm.models["policy"], "critic": critic_of(algorithm)}
        before = {name: weights(module) for name, module in modules.items()}
        parameters = [value for module in modules.values() for value in module.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=RATE)
        for epoch in range(EPOCHS):
            for update, batch in lessons:
                loss = step_loss(update, batch, number=epoch)
                loss.total.backward()
                tally.absorb(loss.tally)
            optimizer.step()
            optimizer.zero_grad()
        moved = {name: weights(module) - before[name] for name, module in modules.items()}
        return Outcome(**moved, metrics={**policy.metrics, **tally.means(alone)})

    def theirs(self, lengths: list[int]) -> Outcome:
        algorithm, trl = self.algorithm(), self.trl
        policy = copy.deepcopy(algorithm.models.language_model("policy"))
        value = classifier(critic_of(algorithm))
        reward = classifier(load_scalar_model(self.workspace.model("reward")))
        pairs = zip(PROMPTS, responses_of(lengths), strict=True)
        answers = {tuple(prompt): response for prompt, response in pairs}

        def answer(
            model: nn.Module, queries: Tensor, size: int, pad_id: int, rule: Any
        ) -> tuple[Tensor, Tensor]:
            """In place of sampling: the responses that are given, with the policy's logits."""
            rows = []
            for query in queries.tolist():
                response = answers[tuple(token for token in query if token != PAD)]
                rows.append(response + [PAD] * (WIDTH - len(response)))
            padded = torch.tensor(rows, device=queries.device)
            both = torch.cat([queries, padded], dim=1)
            with torch.no_grad():
                logits = trl.forward(model, both, pad_id).logits[:, queries.shape[1] - 1 : -1]
            return both, logits / rule.temperature

        settings = trl.PPOConfig(
            output_dir=str(self.folder),
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            num_sample_generations=0,
            total_episodes=len(PROMPTS),
            per_device_train_batch_size=self.micro_batch,
            gradient_accumulation_steps=len(PROMPTS) // self.micro_batch,
            num_ppo_epochs=EPOCHS,
            response_length=WIDTH,
            stop_token="eos",
            temperature=0.7,
            kl_coef=self.eta,
            kl_estimator=self.estimator,
            gamma=self.gamma,
            lam=self.lam,
            cliprange=0.2,
            cliprange_value=0.1,
            # the two models share no weights
            vf_coef=1.0,
            # would stop all learning, were it heeded
            max_grad_norm=1e-9,
        )
        optimizer = torch.optim.SGD([*policy.parameters(), *value.parameters()], lr=RATE)
        constant_rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        before = weights(policy), weights(value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trl, "batch_generation", answer)
            tokenizer = tiny_tokenizer()
            tokenizer.padding_side = "left"
            trainer = trl.PPOTrainer(
                args=settings,
                processing_class=tokenizer,
                model=policy,
                ref_model=load_causal_lm(self.workspace.model("sft")),
                reward_model=reward,
                train_dataset=[{"input_ids": prompt} for prompt in PROMPTS],
                value_model=value,
                optimizers=(optimizer, constant_rate),
            )
            # a batch that ends the data set would be stepped on at each micro-batch
            trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
            # which shares its rows out to micro-batches
            np.random.seed(0)
            trainer.train()
        return Outcome(
            weights(policy) - before[0], weights(value) - before[1], trainer.state.log_history[0]
        )


@torch.no_grad()
def move(module: nn.Module) -> None:
    """Away from the reference, as after some updates."""
    for value in module.parameters():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(4))
        value.add_(0.02 * noise.to(value.device))


def critic_of(algorithm: PpoMax) -> ScalarModel:
    critic = algorithm.models["critic"]
    assert isinstance(critic, ScalarModel)
    return critic


def classifier(model: ScalarModel) -> LlamaForSequenceClassification:
    """The same model in the form that TRL wants."""
    peer = LlamaForSequenceClassification(model.lm.config)
    peer.model = copy.deepcopy(model.lm.base_model)
    peer.score = nn.Linear(model.lm.config.hidden_size, 1)
    peer.score.load_state_dict(model.head.state_dict())
    return peer.to(model.head.weight.device).eval()


def weights(module: nn.Module) -> Tensor:
    """All that the backbone and the head hold, in one row.

    Without a critic's unembedding, which it never uses.
    """
    parts = [module.lm.base_model, module.head] if isinstance(module, ScalarModel) else [module]
    values = [value for part in parts for value in part.parameters()]
    return torch.cat([value.detach().flatten().clone() for value in values])


def one_token_longer(rollout: Rollout) -> Rollout:
    """Count the first padding after an EOS as a response token; nothing attends to it."""
    mask = torch.arange(WIDTH, device=rollout.lengths.device)[None] <= rollout.lengths[:, None]
    target = rollout.batch.target_mask.clone()
    starts = torch.tensor([len(prompt) for prompt in PROMPTS], device=target.device)
    rows = torch.nonzero(rollout.lengths < WIDTH).squeeze(1)
    target[rows, (starts + rollout.lengths)[rows]] = True
    return replace(rollout, batch=replace(rollout.batch, target_mask=target), response_mask=mask)


def without_penalty_on_padding(algorithm: PpoMax, rollout: Rollout) -> Experience:
    """The experience of responses with the padding that bears the score.

    TRL sees no divergence there.
    """
    longer, score = one_token_longer(rollout), algorithm.score
    added = longer.response_mask & ~rollout.response_mask

    def score_without_divergence(scored: Rollout) -> Scores:
        scores = score(scored)
        reference = torch.where(added, scores.logprobs, scores.reference_logprobs)
        return replace(scores, reference_logprobs=reference)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm, "score", score_without_divergence)
        (experience,) = updates_of(algorithm, longer)[0].mini_batches
    return experience
