"""Do the tests notice? `python -m tests.mutations` breaks one detail of the method after another.

It works in a copy of the project, and prints which test failed first for each. It ends with 1 when a
broken detail passes all of its tests, or when they cannot tell: they fail on the code as it is, or
pytest ends otherwise than by a failed test. Words given choose the details that begin with one.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import ROOT

COPIED = ("rlhf", "tests", "tasks", "flows", "pyproject.toml")


@dataclass(frozen=True)
class Mutation:
    """`old`, which `file` holds exactly once, becomes `new`; `tests` must notice."""

    detail: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """A file below rlhf/, and the tests below tests/rlhf/ that watch over it."""

    file: str
    tests: tuple[str, ...]

    def __call__(self, detail: str, what: str, old: str, new: str) -> Mutation:
        tests = tuple(f"tests/rlhf/{test}" for test in self.tests)
        return Mutation(detail, what, f"rlhf/{self.file}", old, new, tests)


ALGORITHMS = (
    "algorithms/test_ppo_details.py",
    "algorithms/test_ppo_max.py",
    "algorithms/test_on_policy.py",
    "algorithms/test_on_policy_batches.py",
)
ON_TWO_PROCESSES = ("training/test_loop_processes.py",)

# the formulas
ADVANTAGES = Place("ppo/advantages.py", ("ppo/test_advantages.py",))
APA_LOSS = Place("ppo/apa.py", ("ppo/test_apa_loss.py",))
ETPO_LOSS = Place("ppo/etpo.py", ("ppo/test_etpo_losses.py",))
KL = Place("ppo/kl.py", ("ppo/test_kl.py",))
LOSSES = Place("ppo/losses.py", ("ppo/test_losses.py",))
DPO_LOSS = Place("ppo/dpo.py", ("ppo/test_dpo_loss.py",))
MOMENTS = Place("ppo/moments.py", ("ppo/test_moments.py",))
REWARDS = Place("ppo/rewards.py", ("ppo/test_rewards.py",))
PAIR_LOSS = Place("ppo/dpo.py", ("ppo/test_dpo_loss.py",))
XPO_LOSS = Place("ppo/xpo.py", ("ppo/test_xpo_loss.py",))
STEPS = Place("ppo/steps.py", ("ppo/test_step_rewards.py",))
REACH = Place("core/reach.py", ("core/test_reach.py",))
TEMPLATES = Place("data/templates.py", ("data/test_templates.py",))
SEPARATORS = Place("core/separators.py", ("core/test_separators.py",))
TOKEN_REWARDS = Place("ppo/rewards.py", ("ppo/test_rto_rewards.py",))

# the algorithms, and what they are made of
PPO_MAX = Place("algorithms/ppo_max.py", ALGORITHMS)
APA = Place("algorithms/apa.py", ("algorithms/test_apa.py",))
AIHF_LOSSES = Place("ppo/aihf.py", ("ppo/test_aihf_losses.py",))
AIHF = Place(
    "algorithms/aihf.py", ("algorithms/test_aihf.py", "algorithms/test_aihf_invariance.py")
)
AIHF_DIRECT = Place("algorithms/aihf_direct.py", ("algorithms/test_aihf_direct.py",))
FEEDBACK = Place("algorithms/feedback.py", ("algorithms/test_feedback.py",))
COMPARISONS = Place("batches/comparisons.py", ("batches/test_answer_comparisons.py",))
DEMONSTRATIONS = Place("batches/demonstrations.py", ("batches/test_answer_comparisons.py",))
AIHF_SETTINGS = Place("settings/neighbours.py", ("settings/test_aihf_section.py",))
AIHF_REWARDS = Place("settings/policy.py", ("settings/test_aihf_section.py",))
AIHF_ROWS = Place("settings/schema.py", ("settings/test_aihf_section.py",))
ETPO = Place("algorithms/etpo.py", ("algorithms/test_etpo.py",))
PROCESS = Place("algorithms/process.py", ("algorithms/test_process_supervision.py",))
STEP_SCORES = Place("rewards/step_scores.py", ("rewards/test_step_scores.py",))
PROCESS_TRAINING = Place("training/process.py", ("training/test_process.py",))
STEP_RANKING = Place("training/step_ranking.py", ("training/test_step_ranking.py",))
PARSED_STEPS = Place("data/shapes/steps.py", ("data/test_parse.py",))
PARSED_MESSAGES = Place("data/shapes/messages.py", ("data/test_shapes.py",))
PARSED_PAIRS = Place("data/shapes/pairs.py", ("data/test_parting_pairs.py",))
PARSED_QUESTIONS = Place("data/shapes/questions.py", ("data/test_shapes.py",))
CLEANED = Place("data/clean.py", ("data/test_clean.py",))
READ_ROWS = Place("data/read.py", ("data/test_read_rows.py",))
READ_TEXT = Place("data/text.py", ("data/test_read_rows.py",))
SHOWN_ROWS = Place("commands/data_rows.py", ("commands/test_data_check.py",))
SHOWN_REPORT = Place("commands/data_view.py", ("commands/test_data_check.py",))
DATA_CHECK = Place("commands/data_check.py", ("commands/test_data_check.py",))
BESIDE_PAIRS = Place("data/shapes/pairs.py", ("data/test_nothing_lost.py",))
LABELLED = Place("data/shapes/dialogues.py", ("data/test_nothing_lost.py",))
BASE_MODEL = Place("data/base_model.py", ("data/test_base_model.py",))
MODEL_CHECK = Place("commands/workspace_checks.py", ("commands/test_doctor.py",))
REPLY = Place("evaluation/judges/reply.py", ("evaluation/judges/test_reply.py",))
HELD_OUT = Place("data/assign.py", ("data/test_held_out.py",))
SOLUTION_ROWS = Place("data/solutions.py", ("data/test_solutions.py",))
RTO = Place("algorithms/rto.py", ("algorithms/test_rto.py",))
DPO_POLICY = Place("algorithms/dpo.py", ("algorithms/test_dpo_policy.py",))
ON_POLICY = Place("algorithms/on_policy.py", ALGORITHMS)
SCORED_POLICY = Place("algorithms/scored_policy.py", ALGORITHMS)
ACTOR_CRITIC = Place("algorithms/actor_critic.py", ALGORITHMS)
ONLINE_PREFERENCE = (
    "algorithms/test_online_preference.py",
    "algorithms/test_online_preference_batches.py",
)
XPO = Place("algorithms/xpo.py", ONLINE_PREFERENCE)
OF_PAIRS = Place("algorithms/online_preference.py", ONLINE_PREFERENCE)
PAIR_METRICS = Place("algorithms/pair_metrics.py", ONLINE_PREFERENCE)
PAIRS = Place("rollout/sampled_pairs.py", ("rollout/test_sampled_pairs.py",))
PAIR_ADVICE = Place("settings/advice.py", ("settings/test_advice.py",))
PAIR_SETTINGS = Place("settings/neighbours.py", ("settings/test_pair_sections.py",))
PARTS = Place("algorithms/on_policy.py", ON_TWO_PROCESSES)
TEXT_PARTS = Place("algorithms/ppo_max.py", ON_TWO_PROCESSES)
SCORED = Place("rewards/base.py", ("rewards/test_make_rewards.py",))
REWARD_SETTINGS = Place("settings/rewards.py", ("rewards/test_make_rewards.py",))
REWARD_SOURCES = Place("rewards/base.py", ("rewards/test_reward_sources.py",))
SOURCE_METRICS = Place("algorithms/metrics.py", ("rewards/test_reward_sources.py",))
RULES = Place("rewards/rules.py", ("rewards/test_rule_rewards.py",))
GIVEN_SCORES = Place("rewards/answers.py", ("rewards/test_python_reward.py",))
SERVICE = Place("rewards/http.py", ("rewards/test_http_reward.py",))
CLASSIFIER = Place("models/classifier.py", ("rewards/test_hf_reward.py",))
NAMES = Place("rewards/base.py", ("rewards/test_reward_sources.py",))
NUMBERS = Place("rewards/rules.py", ("rewards/test_rule_rewards.py",))
OWN_FUNCTION = Place("rewards/python.py", ("rewards/test_python_reward.py",))
REFERENCES = Place("data/load.py", ("data/test_references.py",))
SETTINGS = Place("settings/policy.py", ("settings/test_apa_section.py",))
READS = Place("settings/reads.py", ("settings/test_apa_section.py",))
GROUPS = Place("ppo/groups.py", ("ppo/test_groups.py",))
CRITIC_FREE = Place("algorithms/critic_free.py", ("algorithms/test_critic_free.py",))
RLOO = Place("algorithms/rloo.py", ("algorithms/test_critic_free.py",))
GRPO = Place("algorithms/grpo.py", ("algorithms/test_critic_free.py",))
REINFORCE_PP = Place("algorithms/reinforce_plus_plus.py", ("algorithms/test_critic_free.py",))
GROUP_SETTINGS = Place("settings/policy.py", ("settings/test_critic_free_sections.py",))
GROUP_READS = Place("settings/reads.py", ("settings/test_critic_free_sections.py",))
ETPO_READS = Place("settings/reads.py", ("settings/test_etpo_section.py",))
ETPO_ENGINE = Place("settings/schema.py", ("settings/test_etpo_section.py",))

# models, sampling, the loop
BACKBONE = Place("models/backbone.py", ("models/test_backbone.py", "models/test_roles.py"))
ACTION_VALUES = Place("models/action_values.py", ("models/test_action_values.py",))
HEADS = Place("models/heads.py", ("models/test_heads.py",))
PAIR_ANSWERS = Place("models/pair_answers.py", ("models/test_pair_answers.py",))
DPO_MODEL = Place("models/dpo.py", ("training/test_dpo_training.py", "algorithms/test_rto.py"))
ROLES = Place("models/roles.py", ("models/test_roles.py",))
LORA = Place("models/lora.py", ("models/test_lora.py",))
SHARING = Place("models/sharing.py", ("models/test_sharing.py",))
TRAINABLE = Place("models/trainable.py", ("models/test_trainable.py",))
EMBEDDINGS = Place("data/base_model.py", ("data/test_templates.py",))
SHARING_ROLES = Place("models/roles.py", ("models/test_sharing.py",))
ADAPTERS = Place("engine/adapters.py", ("models/test_sharing.py", "models/test_lora.py"))
SAVING = Place("models/saving.py", ("models/test_lora.py",))
LORA_SETTINGS = Place("settings/training.py", ("settings/test_lora_section.py",))
LORA_ALGORITHMS = Place("settings/policy.py", ("settings/test_lora_section.py",))
LORA_VARIANT = Place("settings/variants.py", ("settings/test_lora_section.py",))
LORA_SAMPLER = Place("rollout/local.py", ("rollout/test_local_sampler.py",))
SAMPLER = Place("rollout/sampler.py", ("rollout/test_sampler.py",))
BEAM = Place("rollout/beam.py", ("rollout/test_beam.py",))
LOCAL = Place("rollout/local.py", ("rollout/test_local_sampler.py",))
PROMPTS = Place("rollout/prompts.py", ("rollout/test_prompts.py",))
SOURCES = Place("training/sources.py", ("training/test_run_sources.py",))
DPO = Place("training/dpo.py", ("training/test_dpo_training.py",))
LOOP = Place("training/loop.py", ("training/test_loop.py",))
SEAM = Place("training/loop.py", ("training/test_seam.py",))
ONE_PROCESS = Place("engine/single.py", ("engine/test_single.py",))
ZERO = Place("engine/zero.py", ("engine/test_zero.py",))

MUTATIONS = (
    # -- the twelve details of the paper ------------------------------------------------------------
    REWARDS("1 KL penalty", "sign of the penalty", "-coefficient * kl", "coefficient * kl"),
    REWARDS("1 KL penalty", "padding is penalised",
            "torch.where(response_mask, -coefficient * kl, torch.zeros_like(kl))", "-coefficient * kl"),
    KL("1 KL penalty", "reference and policy change places", "logprobs - reference_logprobs\n", "reference_logprobs - logprobs\n"),
    KL("1 KL penalty", "k3 without its 1", "exp() - 1 + difference", "exp() + difference"),
    ON_POLICY("1 KL penalty", "never paid", 'sources["kl_penalty"] = kl_penalty(divergence, mask, kl.coefficient)', "pass"),
    ON_POLICY("1 KL penalty", "always by k1", 'kl.estimator if kl else "k1"', '"k1"'),
    REWARDS("1 final score", "one token early", "response_mask.sum(dim=1) - 1", "(response_mask.sum(dim=1) - 2).clamp(min=0)"),
    ON_POLICY("1 final score", "never paid", "final_score(final, mask)", "0 * final_score(final, mask)"),
    ON_POLICY("1 final score", "as it is", "final_score(final, mask)", "final_score(scores.scores, mask)"),
    LOSSES("2 importance ratio", "the ratio upside down", "(logprobs - old_logprobs).exp()", "(old_logprobs - logprobs).exp()"),
    PPO_MAX("2 importance ratio", "always against the policy",
            "part.old_logprobs if from_policy else part.reference_logprobs", "part.old_logprobs"),
    SCORED_POLICY("2 importance ratio", "the reference is the policy",
              "token_logprobs(self.logits(REFERENCE, part), tokens)", "token_logprobs(self.logits(POLICY, part), tokens)"),
    LOSSES("3 entropy bonus", "entropy is punished", "return -entropies", "return entropies"),
    LOSSES("3 entropy bonus", "drawn from one side only", "(entropies - target).abs()", "(entropies - target).clamp(min=0)"),
    PPO_MAX("3 entropy bonus", "computed, never added", "losses = losses + settings.entropy.coefficient * bonus", "pass"),
    REWARDS("4 reward scaling", "the mean is taken off", "return scores / history.std", "return (scores - history.mean) / history.std"),
    ON_POLICY("4 reward scaling", "never called", "scores = scale(scores, self._history)", "pass"),
    REWARDS("5 reward normalisation", "the mean stays", "(scores - history.mean) / history.std", "scores / history.std"),
    MOMENTS("5 reward normalisation", "biased std", "self.squares / (self.count - 1)", "self.squares / self.count"),
    MOMENTS("5 reward normalisation", "shift between batches forgotten", " + shift * shift * history.count * count / merged", ""),
    MOMENTS("5 reward normalisation", "each process its own",
            "float(all_sum((values - mean).square().sum()))", "float((values - mean).square().sum())"),
    ON_POLICY("5 reward normalisation", "the history stands still",
              "self._history = merge(self._history, scores, self.engine.all_sum)", "pass"),
    ON_POLICY("5 reward normalisation", "the history does not survive", 'self._history = Moments(**state["history"])', "pass"),
    REWARDS("5 reward clipping", "one side only", "values.clamp(-delta, delta)", "values.clamp(max=delta)"),
    ON_POLICY("5 reward clipping", "never called", "return clip(scores, transform.clip)", "return scores"),
    ON_POLICY("5 reward clipping", "before normalisation", '        if transform.normalise == "running":',
              '        scores = clip(scores, transform.clip)\n        if transform.normalise == "running":'),
    ADVANTAGES("6 advantage normalisation", "padding takes part", "advantages[response_mask], all_sum", "advantages.flatten(), all_sum"),
    ADVANTAGES("6 advantage normalisation", "padding is filled", "normalise(advantages, moments) * response_mask", "normalise(advantages, moments)"),
    ON_POLICY("6 advantage normalisation", "never called", "advantages = whiten(advantages, batch.response_mask, self.engine.all_sum)", "pass"),
    ON_POLICY("6 advantage normalisation", "over each micro-batch",
              "self.with_transformed_advantages(step.batch).split(self.settings.micro_batch)",
              "[self.with_transformed_advantages(part) for part in step.batch.split(self.settings.micro_batch)]"),
    PARTS("6 advantage normalisation", "over each process", "whiten(advantages, batch.response_mask, self.engine.all_sum)",
          "whiten(advantages, batch.response_mask, lambda value: value)"),
    ON_POLICY("6 advantage clipping", "never called", "advantages=clip(advantages, transform.clip)", "advantages=advantages"),
    LOSSES("7 value clipping", "the kinder of both", "torch.maximum(plain, clipped)", "torch.minimum(plain, clipped)"),
    LOSSES("7 value clipping", "no lower bound",
           "torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)", "torch.minimum(values, old_values + clip)"),
    ACTOR_CRITIC("7 value clipping", "never", "partial(self._critic_losses, self.settings.value_clip)", "partial(self._critic_losses, None)"),
    ACTOR_CRITIC("7 value clipping", "during pre-training too",
              "partial(self._critic_losses, None)", "partial(self._critic_losses, self.settings.value_clip)"),
    ACTOR_CRITIC("8 the critic's start", "the reward model whatever is asked",
              'if self.critic.initial == "sft":', "if False:"),
    ACTOR_CRITIC("8 the critic's start", "at the reward model's scale", "unit_scale = transform.normalise is not None or transform.scale is not None", "unit_scale = False"),
    ACTOR_CRITIC("8 critic pre-training", "skipped", "self.warmup_iterations = self.critic.pretraining_iterations", "self.warmup_iterations = 0"),
    ACTOR_CRITIC("8 critic pre-training", "as many epochs as later", "epochs = self.critic.pretraining_epochs", "epochs = self.settings.epochs"),
    ACTOR_CRITIC("8 critic pre-training", "the policy learns too",
              "losses, epochs, data.metrics, data.signals)\n            return\n", "losses, epochs, data.metrics, data.signals)\n"),
    SCORED_POLICY("9 the policy's start", "SFT whatever is asked",
              "load_causal_lm(workspace.model(ppo.initial))", 'load_causal_lm(workspace.model("sft"))'),
    ADVANTAGES("10 GAE", "the value of the next state without gamma", "gamma * following", "following"),
    ADVANTAGES("10 GAE", "no lambda", "gamma * lam * running", "gamma * running"),
    ADVANTAGES("10 GAE", "the last token is left out", "values.shape[1] - 1, -1, -1", "values.shape[1] - 2, -1, -1"),
    ADVANTAGES("10 GAE", "values of padding leak in", "values, rewards = values * keep, rewards * keep", "rewards = rewards * keep"),
    HEADS("10 values", "of the state after the token", "model(batch)[:, :-1][batch", "model(batch)[:, 1:][batch"),
    LOSSES("11 clipped surrogate", "the larger of both", "-torch.minimum(plain, clipped)", "-torch.maximum(plain, clipped)"),
    LOSSES("11 clipped surrogate", "no upper bound", "ratio.clamp(1 - epsilon, 1 + epsilon)", "ratio.clamp(min=1 - epsilon)"),
    LOSSES("11 clipped surrogate", "sign", "return -plain, ratio", "return plain, ratio"),
    ONE_PROCESS("12 gradient clipping", "never", 'self.settings.max_gradient_norm or float("inf")', 'float("inf")'),
    ZERO("12 gradient clipping", "never, with ZeRO", "settings.max_gradient_norm or 0.0", "0.0"),

    # -- variants of the loss -----------------------------------------------------------------------
    LOSSES("penalty (eq. 14)", "backwards", "return ratio - 1 - ratio.log()", "return ratio - 1 + ratio.log()"),
    LOSSES("penalty (eq. 14)", "grows where it should shrink", "return coefficient / 2", "return coefficient * 2"),
    PPO_MAX("penalty (eq. 14)", "computed, never added", "losses = losses + self._penalty * divergence", "pass"),
    PPO_MAX("penalty (eq. 14)", "never adapted", 'self._penalty = adapted(self._penalty, shown["policy_kl"], penalty.target)', "pass"),
    PPO_MAX("penalty (eq. 14)", "its weight does not survive", 'self._penalty = state["penalty"]', "pass"),
    PPO_MAX("ptx (eq. 17)", "without its weight", "self.settings.ptx.coefficient * losses.sum()", "losses.sum()"),
    PPO_MAX("ptx (eq. 17)", "never added", "[] if text is None else [partial(self._ptx_loss, text, step)]", "[]"),
    PPO_MAX("ptx (eq. 17)", "at the sampling temperature", "self.models.target_logits(POLICY, text)", "self.logits(POLICY, text)"),
    TEXT_PARTS("ptx (eq. 17)", "a mean over one process", "float(self.engine.all_sum(own))", "float(own)"),
    ON_POLICY("means over tokens", "of the policy's micro-batch",
              "self.policy_loss(part, logits, logprobs, step).sum() / count", "self.policy_loss(part, logits, logprobs, step).mean()"),
    ACTOR_CRITIC("means over tokens", "of the critic's micro-batch", "return losses.sum() / count", "return losses.mean()"),
    PARTS("means over tokens", "of one process", "float(self.engine.all_sum(batch.response_mask.sum().double()))", "float(batch.response_mask.sum())"),

    # -- APA ----------------------------------------------------------------------------------------
    APA_LOSS("APA", "the sign of A / lambda", "reference_logprobs + advantages / lam", "reference_logprobs - advantages / lam"),
    APA_LOSS("APA", "multiplied by lambda", "reference_logprobs + advantages / lam", "reference_logprobs + advantages * lam"),
    APA_LOSS("APA", "without the reference", "reference_logprobs + advantages / lam", "advantages / lam"),
    APA_LOSS("APA", "not squared", "(logprobs - target).square()", "(logprobs - target).abs()"),
    APA_LOSS("APA", "halved", "(logprobs - target).square()", "(logprobs - target).square() / 2"),
    APA("APA", "the sampling policy in place of the reference", "part.reference_logprobs[mask]", "part.old_logprobs[mask]"),
    APA("APA", "lambda of 1 whatever is asked", "apa_loss(logprobs, reference, advantages, apa.lam)",
        "apa_loss(logprobs, reference, advantages, 1.0)"),
    SETTINGS("APA", "what it does not read beside it", "if getattr(self, key) != off", "if False"),
    READS("APA", "plain text beside it", '"penalty", "ptx"}', '"penalty"}'),
    READS("APA", "its section with another algorithm", '_CRITIC | _TARGETS | {"apa"}', "_CRITIC | _TARGETS"),
    SETTINGS("APA", "without its section", "if name in OWN_SECTION and getattr(self, own) is None:", "if False:"),

    # -- AIHF ---------------------------------------------------------------------------------------
    AIHF_LOSSES("AIHF", "away from the demonstration", "return -margins / beta", "return margins / beta"),
    AIHF_LOSSES("AIHF", "multiplied by beta", "return -margins / beta", "return -margins * beta"),
    AIHF_LOSSES("AIHF", "the rejected answer is preferred", "-logsigmoid(margins)", "-logsigmoid(-margins)"),
    AIHF("AIHF", "logistic whatever is asked", 'if self.aihf.form == "linear":', "if False:"),
    AIHF("AIHF", "demonstrations without their weight", "self.aihf.demonstration_weight * losses.sum()", "losses.sum()"),
    AIHF("AIHF", "pairs without their weight", "self.aihf.pair_weight * losses.sum()", "losses.sum()"),
    AIHF("AIHF", "a mean over the micro-batch of demonstrations", "losses.sum() / self.aihf.demonstrations", "losses.mean()"),
    AIHF("AIHF", "a mean over the micro-batch of pairs", "losses.sum() / self.aihf.pairs", "losses.mean()"),
    AIHF("AIHF", "an identical sample counts", "losses = part.weights * bradley_terry_loss(above)\n        step.tally.add(\n            demonstration_loss", "losses = bradley_terry_loss(above)\n        step.tally.add(\n            demonstration_loss"),
    AIHF("AIHF", "paid by the reward that judges", "replace(scores, scores=moving)", "scores"),
    AIHF("AIHF", "judged by the reward that moves", "moving = self._moving_scores(rollout)", "moving = self.rewards.scores(rollout)"),
    AIHF("AIHF", "the history goes on", "self._history = Moments()", "pass"),
    AIHF("AIHF", "the reward moves before the policy learns", "if iteration >= 0:", "if True:"),
    AIHF("AIHF", "one epoch whatever is asked", "epochs=self.aihf.reward_epochs", "epochs=1"),
    AIHF("AIHF", "its rate falls too early", "self.settings.iterations * self.aihf.reward_epochs", "self.settings.iterations"),
    AIHF_DIRECT("AIHF direct", "demonstrations without their weight", "self.direct.demonstration_weight * losses.sum()", "losses.sum()"),
    AIHF_DIRECT("AIHF direct", "pairs without their weight", "self.direct.pair_weight * losses.sum()", "losses.sum()"),
    AIHF_DIRECT("AIHF direct", "a mean over the micro-batch of demonstrations", "losses.sum() / self.direct.demonstrations", "losses.mean()"),
    AIHF_DIRECT("AIHF direct", "the policy is its own reference", "self._response_logprobs(REFERENCE, part.batch)", "self._response_logprobs(POLICY, part.batch)"),
    AIHF_DIRECT("AIHF direct", "at the sampling temperature", "self.models.target_logits(role, batch)", "self.logits(role, batch)"),
    AIHF_DIRECT("AIHF direct", "a mean over tokens", "batch.target_mask).sum(dim=1)", "batch.target_mask).mean(dim=1)"),
    AIHF_DIRECT("AIHF direct", "the rate falls as with rollouts", "return iterations * epochs", "return 2 * iterations * epochs"),
    FEEDBACK("AIHF rows", "demonstrations are never cut", "answer[: self._limit]", "answer"),
    FEEDBACK("AIHF rows", "a cut is not told", "len(answer) > self._limit", "False"),
    FEEDBACK("AIHF rows", "one order for all tables", 'derive_seed(self._seed, "feedback", table)', "self._seed"),
    FEEDBACK("AIHF rows", "the same for every process", "count, share=self._share)", "count)"),
    COMPARISONS("AIHF rows", "all alike weigh 1", "weights.append(float(list(one) != list(other)))", "weights.append(1.0)"),
    COMPARISONS("AIHF rows", "the other is preferred", "return preferred - others", "return others - preferred"),
    COMPARISONS("AIHF rows", "parted from its other", "self.batch.micro_batches(2 * size)", "self.batch.micro_batches(size)"),
    DEMONSTRATIONS("AIHF rows", "of several answers the first", "start = int(outside[-1]) + 1", "start = int(inside[0])"),
    DEMONSTRATIONS("AIHF rows", "what stands behind the answer too", "ids[start:end]", "ids[start:]"),
    AIHF_SETTINGS("AIHF settings", "linear without beta", 'if self.form == "linear" and self.beta is None:', "if False:"),
    AIHF_SETTINGS("AIHF settings", "logistic with beta", 'if self.form == "logistic" and self.beta is not None:', "if False:"),
    AIHF_SETTINGS("AIHF settings", "nothing is learnt", "if self.demonstration_weight == self.pair_weight == 0:", "if False:"),
    AIHF_REWARDS("AIHF settings", "another reward pays", 'if self.algorithm == "aihf" and self.rewards', 'if False and self.rewards'),
    AIHF_ROWS("AIHF settings", "rows that do not divide", "if count % processes:", "if False:"),
    SEAM("inputs", "tables of no listed model may be read", "name not in tables)", "False)"),
    SEAM("inputs", "those of listed models may not", "table for maker in makers for table", "table for maker in () for table"),

    APA_LOSS("AWR", "the sign of A / lambda", "(advantages / lam).exp()", "(-advantages / lam).exp()"),
    APA_LOSS("AWR", "multiplied by lambda", "(advantages / lam).exp()", "(advantages * lam).exp()"),
    APA_LOSS("AWR", "sign", "return -weights * logprobs", "return weights * logprobs"),
    APA("AWR", "never", 'if apa.loss == "awr":', "if False:"),
    APA("AWR", "lambda of 1 whatever is asked", "awr_loss(logprobs, advantages, apa.lam)", "awr_loss(logprobs, advantages, 1.0)"),

    # -- without a critic ---------------------------------------------------------------------------
    GROUPS("groups", "the mean with rounding", "first + (groups - first).mean(dim=1, keepdim=True)", "groups.mean(dim=1, keepdim=True)"),
    GROUPS("groups", "rows of one prompt lie apart", "return rewards.reshape(-1, responses)", "return rewards.reshape(responses, -1).T"),
    GROUPS("groups", "a part of a group", "if len(rewards) % responses:", "if False:"),
    GROUPS("rloo", "the own reward is left in", "centred * (responses / (responses - 1))", "centred"),
    GROUPS("rloo", "a ratio of means over tokens", "* response_mask).sum(dim=1)", "* response_mask).mean(dim=1)"),
    GROUPS("rloo", "padding has a ratio", "((logprobs - old_logprobs) * response_mask).sum(dim=1)", "(logprobs - old_logprobs).sum(dim=1)"),
    GROUPS("grpo", "the std of the batch is the process's", "merge(Moments(), rewards, all_sum)", "merge(Moments(), rewards, lambda value: value)"),
    GROUPS("grpo", "the batch in place of the group", 'if scale == "batch":', "if True:"),
    GROUPS("grpo", "a biased std", "groups.std(dim=1, keepdim=True)", "groups.std(dim=1, keepdim=True, correction=0)"),
    GROUPS("grpo", "nothing added to the std", "_STD_FLOOR = 1e-4", "_STD_FLOOR = 0.0"),
    GROUPS("grpo", "lengths of the rows alone", "(mean_length / lengths)", "(1 / lengths)"),
    GROUPS("reinforce-pp", "what was earned before", ".flip(1).cumsum(1).flip(1) * response_mask", ".cumsum(1) * response_mask"),
    GROUPS("reinforce-pp", "padding earns", "(rewards * response_mask).flip(1)", "rewards.flip(1)"),
    CRITIC_FREE("rloo", "the length of one row", "self.tokens_of(step.batch) / self.settings.mini_batch", "float(step.batch.response_mask[0].sum())"),
    CRITIC_FREE("ratios", "the clip fraction of all", "(deviation > clip).float()", "(deviation > 0).float()"),
    CRITIC_FREE("ratios", "the first is any", "if step.number == 0:", "if True:"),
    RLOO("rloo", "the KL penalty is left out of R", "returns = rewards.total.sum(dim=1)", "returns = rewards.final"),
    RLOO("rloo", "a mean over tokens", "return of_tokens * response_weights(mask, self.mean_length(step))", "return of_tokens"),
    RLOO("rloo", "no clip", "            self.settings.surrogate_clip,\n", "            None,\n"),
    GRPO("grpo", "always by the group", "self.grpo.scale, self.engine.all_sum", '"group", self.engine.all_sum'),
    GRPO("grpo", "by k1", 'part.reference_logprobs[mask], "k3"', 'part.reference_logprobs[mask], "k1"'),
    GRPO("grpo", "from the sampling policy", "kl_estimate(logprobs, part.reference_logprobs[mask]", "kl_estimate(logprobs, part.old_logprobs[mask]"),
    GRPO("grpo", "the KL is computed, never added", "losses + self.grpo.kl_coefficient * divergence", "losses"),
    GRPO("grpo", "always over tokens", 'if self.grpo.loss == "sequence":', "if False:"),
    GRPO("grpo", "the KL over tokens beside a loss over responses", "weights * losses, weights * divergence", "weights * losses, divergence"),
    GRPO("grpo", "no clip", "            self.settings.surrogate_clip,\n", "            None,\n"),
    REINFORCE_PP("reinforce-pp", "not whitened", "return whiten(returns, mask, self.engine.all_sum), returns", "return returns, returns"),
    REINFORCE_PP("reinforce-pp", "no baseline", "if not self._has_baseline:", "if True:"),
    REINFORCE_PP("reinforce-pp", "the baseline is added", "final_score(-baseline, rollout.response_mask)", "final_score(baseline, rollout.response_mask)"),
    REINFORCE_PP("reinforce-pp", "no clip", "            self.settings.surrogate_clip,\n", "            None,\n"),
    GROUP_SETTINGS("groups", "one response is enough", "if name in COMPARES_RESPONSES and self.responses < 2:", "if False:"),
    GROUP_SETTINGS("grpo", "scores are rescaled twice", "self.grpo.scale is not None and self.reward.rescales", "False"),
    GROUP_SETTINGS("reinforce-pp", "advantages are whitened twice", 'if self.algorithm == "reinforce-pp" and whitened:', "if False:"),
    GROUP_SETTINGS("reinforce-pp", "the mean of one", 'section.baseline == "group" and self.responses < 2', "False"),
    GROUP_READS("grpo", "a KL penalty beside it", '_CRITIC_FREE - {"kl"} | {"grpo"}', '_CRITIC_FREE | {"grpo"}'),

    # -- pairs: xpo and online-dpo ------------------------------------------------------------------
    PAIR_LOSS("pairs", "the sides change places", "margin = chosen - rejected", "margin = rejected - chosen"),
    PAIR_LOSS("pairs", "without the reference", "return beta * (logprobs - reference_logprobs)", "return beta * logprobs"),
    PAIR_LOSS("pairs", "smoothed the wrong way round", "-(1 - label_smoothing) * logsigmoid(margin)", "-label_smoothing * logsigmoid(margin)"),
    PAIR_LOSS("pairs", "ipo's margin is 1 / beta", "1 / (2 * beta)).square()", "1 / beta).square()"),
    XPO_LOSS("pairs", "exploration makes the second response likelier", "return alpha * logprobs\n", "return -alpha * logprobs\n"),
    XPO_LOSS("pairs", "the bounded term has no lower bound", ".clamp(-bound, bound)", ".clamp(max=bound)"),
    XPO_LOSS("pairs", "alpha ends with its list", "min(iteration, len(alphas) - 1)", "iteration % len(alphas)"),
    XPO("pairs", "alpha stands still", "alpha = self.alpha(iteration)", "alpha = self.alpha(0)"),
    XPO("pairs", "the policy always gives the second response", 'return REFERENCE if self.xpo.second == "reference" else POLICY', "return POLICY"),
    XPO("pairs", "always the unbounded term", 'if self.xpo.second == "reference":\n            return', "if True:\n            return"),
    OF_PAIRS("pairs", "exploration of the chosen response", "second = torch.where(part.second_is_chosen, chosen, rejected)", "second = chosen"),
    OF_PAIRS("pairs", "the other response's reference", "torch.where(part.second_is_chosen, reference_chosen, reference_rejected)",
             "torch.where(part.second_is_chosen, reference_rejected, reference_chosen)"),
    OF_PAIRS("pairs", "exploration is logged, never added", "losses = losses + exploration", "pass"),
    OF_PAIRS("pairs", "ties count", "(part.weights * losses).sum() / count", "losses.sum() / count"),
    OF_PAIRS("pairs", "a mean over those that do not count too", "float(self.engine.all_sum(step.batch.weights.sum().double()))", "float(len(step.batch))"),
    OF_PAIRS("pairs", "always DPO's loss", "loss = _LOSSES[self.pairing.loss]", "loss = dpo_loss"),
    OF_PAIRS("pairs", "old pairs are forgotten", "self._past = pairs\n", "self._past = fresh\n"),
    OF_PAIRS("pairs", "old pairs are kept whatever is asked", "if self.pairing.accumulate:\n", "if True:\n"),
    OF_PAIRS("pairs", "in the order they came", "torch.randperm(len(pairs), generator=random).tolist()", "list(range(len(pairs)))"),
    OF_PAIRS("pairs", "every process learns from the same part", "order[start + first : start + first + part]", "order[start : start + part]"),
    OF_PAIRS("pairs", "in the order of processes", "sorted(placed, key=lambda item: item[0])", "placed"),
    OF_PAIRS("pairs", "the schedule ends after the fresh ones", "iterations * (iterations + 1) // 2 if self.pairing.accumulate else iterations", "iterations"),
    OF_PAIRS("pairs", "the pairs do not survive", 'self._past = pairs_from_state(state["pairs"])', "pass"),
    OF_PAIRS("pairs", "the objective at PPO's price", "return self.pairing.beta\n", "return 0.05\n"),
    OF_PAIRS("pairs", "a mean over tokens", ".sum(dim=1).view(-1, 2)", ".mean(dim=1).view(-1, 2)"),
    PAIR_METRICS("pairs", "accuracy for the first response alone", "torch.where(second_wins, -lead, lead)", "lead"),
    PAIRS("pairs", "the worse response is chosen", "second_wins = other_score > score", "second_wins = other_score < score"),
    PAIRS("pairs", "equal scores count", "score == other_score or one == other", "one == other"),
    PAIRS("pairs", "equal responses count", "score == other_score or one == other", "score == other_score"),
    PAIRS("pairs", "a selection mixes rows", "[2 * pairs, 2 * pairs + 1]", "[pairs, pairs + 1]"),
    PAIR_ADVICE("pairs", "no word on a large alpha", "max(xpo.alpha) > xpo.beta / 2", "False"),
    READS("pairs", "advantages beside them", 'frozenset({"advantage", "responses"})', 'frozenset({"responses"})'),
    # -- ETPO ---------------------------------------------------------------------------------------
    ETPO_LOSS("ETPO", "KL the other way round", "logprobs.exp() * (logprobs - reference", "reference_logits.softmax(1) * (logprobs - reference"),
    ETPO_LOSS("ETPO", "without beta", "expected_q - beta * exact_kl", "expected_q - exact_kl"),
    ETPO_LOSS("ETPO", "the best token in place of the expectation", "(logits.softmax(dim=1) * q).sum(dim=1)", "q.amax(dim=1)"),
    ETPO_LOSS("ETPO", "the value of the state before", "following[:, :-1] = torch.where(response_mask[:, 1:], values[:, 1:], 0.0)",
              "following[:, :-1] = torch.where(response_mask[:, 1:], values[:, :-1], 0.0)"),
    ETPO_LOSS("ETPO", "what stands in the padding", "torch.where(response_mask[:, 1:], values[:, 1:], 0.0)", "values[:, 1:]"),
    ETPO_LOSS("ETPO", "never paid", "following + final_score(scores, response_mask)", "following"),
    ETPO_LOSS("ETPO", "0 below -delta", "error.abs() <= delta, squared, delta * (error.abs()", "error.abs() <= delta, squared, delta * (error.clamp(min=delta / 2)"),
    ETPO_LOSS("ETPO", "a Huber loss that jumps", "(error.abs() - delta / 2)", "error.abs()"),
    ETPO_LOSS("ETPO", "upside down", "return -soft_values(", "return soft_values("),
    ETPO_LOSS("ETPO", "the published form as a sum", "q.detach()).mean(dim=1)", "q.detach()).sum(dim=1)"),
    ETPO_LOSS("ETPO", "the published form teaches the critic", "- q.detach()", "- q"),
    ETPO_LOSS("ETPO", "a variance in place of a spread", ".sum(dim=1).sqrt()", ".sum(dim=1)"),
    ETPO("ETPO", "targets by the critic itself", "q = self.models.unembed(TARGET, target)", "q = self.models.unembed(CRITIC, target)"),
    ETPO("ETPO", "the policy learns from the target network", "chunks = self._chunks((REFERENCE, CRITIC), part.batch)",
         "chunks = self._chunks((REFERENCE, TARGET), part.batch)"),
    ETPO("ETPO", "without the temperature", "unembed(role, states, self.settings.sampling.temperature)", "unembed(role, states)"),
    ETPO("ETPO", "the score as it is", "rewards.final, rollout.response_mask", "scores.scores, rollout.response_mask"),
    ETPO("ETPO", "always exact", 'if self.etpo.form == "published":', "if False:"),
    ETPO("ETPO", "never a Huber loss", "etpo_critic_loss(q, targets, self.etpo.huber)", "etpo_critic_loss(q, targets, None)"),
    ETPO("ETPO", "the policy learns at first, too", "roles=(CRITIC,) if alone else (POLICY, CRITIC)", "roles=(POLICY, CRITIC)"),
    ETPO("ETPO", "the critic before the policy", "else (POLICY, CRITIC),", "else (CRITIC, POLICY),"),
    ETPO("ETPO", "the target stands still", "if role == CRITIC:", "if False:"),
    ETPO("ETPO", "the target follows after every step", "if role == CRITIC:", "if True:"),
    ETPO("ETPO", "a target in bf16", "        self.models[TARGET].float()\n", ""),
    ETPO("ETPO", "the target does not survive", 'kept.copy_(state["target"][name])', "pass"),
    ACTION_VALUES("ETPO", "Q starts as it happens", "nn.init.zeros_(self.weight)", "pass"),
    ACTION_VALUES("ETPO", "Q in bf16", "with torch.autocast(hidden.device.type, enabled=False):", "if True:"),
    ACTION_VALUES("ETPO", "tied again", "model.config.tie_word_embeddings = False", "pass"),
    ACTION_VALUES("ETPO", "polyak upside down", "1 - polyak)\n", "polyak)\n"),
    ACTION_VALUES("ETPO", "what does not learn moves, too", "if learnt.requires_grad:", "if True:"),
    ETPO_READS("ETPO", "advantages beside it", '"etpo": frozenset({"critic", "etpo", "responses"})', '"etpo": frozenset({"advantage", "critic", "etpo", "responses"})'),
    ETPO_READS("ETPO", "without its section", '"etpo": "{beta: 0.01, polyak: 0.995, huber: 10.0, form: exact}",', ""),
    ETPO_ENGINE("ETPO", "in parts", "if parted and self.ppo.algorithm in NEEDS_WHOLE_WEIGHTS:", "if False:"),

    # -- how long a text may be -------------------------------------------------------------------
    REACH("reach", "LongRope switches", 'rope.get("rope_type") == "longrope" and switch', "False"),
    REACH("reach", "every rope that names it switches", 'rope.get("rope_type") == "longrope" and switch', "switch"),
    REACH("reach", "Doge drops", 'if kept := getattr(text, "keep_window_size", None):', "if kept := None:"),
    REACH("reach", "one rope for all layers", "return parts or [rope]", "return [rope]"),

    CLASSIFIER("hf rewards", "a refused system message", "(messages, folded(messages))", "(messages,)"),
    CLASSIFIER("hf rewards", "thoughts end it", "contents.append(kept)", "pass"),
    CLASSIFIER("hf rewards", "both texts of a pair are one", 'pair["token_type_ids"]', '[0] * len(pair["input_ids"])'),
    CLASSIFIER("hf rewards", "a head in bf16", "self.linear.weight.float()", "self.linear.weight"),
    CLASSIFIER("hf rewards", "all positions are for text", "part.num_embeddings - part.padding_idx - 1", "part.num_embeddings"),
    CLASSIFIER("hf rewards", "one refusal ends the run", "except TemplateError:\n            return _Tokens", "except KeyError:\n            return _Tokens"),

    # -- chat templates ---------------------------------------------------------------------------
    TEMPLATES("chat templates", "answers elsewhere", "if not told[:begin].startswith(asked):", "if False:"),
    TEMPLATES("chat templates", "the heading is learnt", "if heading and asked", "if False and asked"),
    TEMPLATES("chat templates", "no answer", "if begin < 0:", "if False:"),

    # -- process supervision ------------------------------------------------------------------------
    STEPS("process supervision", "the loss of the other label", "binary_cross_entropy_with_logits(logits, labels", "binary_cross_entropy_with_logits(-logits, labels"),
    STEPS("process supervision", "steps outside the response are paid", "paid = torch.where(counted, probabilities", "paid = torch.where(ends, probabilities"),
    STEPS("process supervision", "differences are sums", "paid = paid - _probability_before(paid, counted)", "pass"),
    STEPS("process supervision", "the first difference is none", "value=-1)\n    found", "value=0)\n    found"),
    STEPS("process supervision", "differences to the step itself", "latest[:, :-1], (1, 0)", "latest[:, 1:], (0, 1)"),
    STEPS("process supervision", "no coefficient", "return coefficient * paid", "return paid"),
    STEPS("process supervision", "the least is the most", "padded.min(dim=1)", "padded.max(dim=1)"),
    STEPS("process supervision", "a product of all places", "scores = padded.prod(dim=1)", "scores = probabilities.prod(dim=1)"),
    STEPS("process supervision", "the first for the last", ".max(dim=1).values\n        scores", ".min(dim=1).values\n        scores"),
    STEPS("process supervision", "a cut response is the best", "return torch.where(some, scores, torch.zeros_like(scores))", "return scores"),
    STEPS("process supervision", "the best of the first group for all", "best + n * torch.arange", "best + 0 * torch.arange"),
    STEPS("process supervision", "the last of equals", "groups == groups.max(dim=1, keepdim=True).values).int()", "groups == groups.max(dim=1, keepdim=True).values).int().cumsum(1)"),
    SEPARATORS("process supervision", "empty steps count", "if text[start:found].strip():", "if True:"),
    SEPARATORS("process supervision", "the token before the separator", "token_of[behind - 1]", "token_of[found - 1]"),
    SEPARATORS("process supervision", "no end token", "if ended and text[start:].strip():", "if False:"),
    SEPARATORS("process supervision", "only eos ends", "{tokenizer.eos_token_id, *other_ends}", "{tokenizer.eos_token_id}"),
    SEPARATORS("process supervision", "the cut is an end", "if ended and text[start:].strip():", "if text[start:].strip():"),
    SEPARATORS("process supervision", "any separator will do", "if not self._can_be_found():", "if False:"),
    PROCESS("process supervision", "the final score beside it whatever is asked", "if self.process.score_coefficient > 0:", "if True:"),
    PROCESS("process supervision", "the final score without its weight", "self.process.score_coefficient * final", "final"),
    PROCESS("process supervision", "computed, never paid", 'sources["step_scores"] = self._paid(steps, rollout)', "pass"),
    PROCESS("process supervision", "always the sum", "steps.probabilities, steps.ends, mask, process.rule, process.coefficient", 'steps.probabilities, steps.ends, mask, "sum", process.coefficient'),
    PROCESS("process supervision", "the objective has the score once", "rest * validation.scores / self.rewards.score_std + paid", "paid"),
    PROCESS("process supervision", "the objective without step scores", "self.rewards.score_std + paid", "self.rewards.score_std"),
    STEP_SCORES("process supervision", "logits for probabilities", "torch.cat(logits).sigmoid()", "torch.cat(logits)"),
    STEP_SCORES("process supervision", "the first rows' places for all", "rows = slice(start * self._micro_batch, (start + 1) * self._micro_batch)", "rows = slice(0, len(part))"),
    STEP_SCORES("process supervision", "a second end is a cut", "StepFinder(tokenizer, separator, ends)", "StepFinder(tokenizer, separator)"),
    STEP_SCORES("process supervision", "any tokenizer", "if own.get_vocab() != tokenizer.get_vocab():", "if False:"),
    PROCESS_TRAINING("process supervision", "a mean over answers", "self.answers.labelled[row] for row in rows", "1 for row in rows"),
    PROCESS_TRAINING("process supervision", "no label is a wrong step", "known = ~labels.isnan()", "labels = labels.nan_to_num()\n        known = ~labels.isnan()"),
    STEP_RANKING("process supervision", "equal values count nothing", "rankdata(values)", 'rankdata(values, method="min")'),
    STEP_RANKING("process supervision", "an answer is right if one step is", "is_wrong = any(", "is_wrong = all("),
    PARSED_STEPS("process supervision", "-100 is right", "or not 0 <= value <= 1:", "or False:"),
    SOLUTION_ROWS("process supervision", "all steps have the end behind them", "(step + separator for step in solution.steps[:-1])", "(step + behind for step in solution.steps[:-1])"),
    SOLUTION_ROWS("process supervision", "the template's blanks are lost", "return [before + texts[0], *texts[1:]]", "return texts"),
    SOLUTION_ROWS("process supervision", "a cut step keeps its end", "[place for place in ends if place < limit]", "ends"),
    SOLUTION_ROWS("process supervision", "a step may hold a separator", "if self._finder.ends(encoded.ids) != ends:", "if False:"),

    # -- rows of data ---------------------------------------------------------------------------------
    CLEANED("rows", "all cleaning is always on", "if name in _ALWAYS or name in cleaning)", "if name)"),
    PARSED_MESSAGES("rows", "a transcript has line feeds alone", r'_LINE_END = r"(?:\r\n|\r(?!\n)|\n)"', r'_LINE_END = r"\n"'),
    PARSED_MESSAGES("rows", "calls of tools are left out", "if name in TOOL_ROLES or any(", "if name in TOOL_ROLES and any("),
    PARSED_QUESTIONS("rows", "history is lost", "return system + _history(row)", "return system"),
    READ_TEXT("rows", "a byte order mark is text", r'b"\xef\xbb\xbf": "utf-8-sig"', r'b"\xef\xbb\xbf": "utf-8"'),
    SHOWN_ROWS("data shown", "the prompt is marked as learnt", "[False] * len(prompt) + [True]", "[True] * len(prompt) + [True]"),
    SHOWN_ROWS("data shown", "a part is decoded by itself", "text[len(before) :], is_trained", "text, is_trained"),
    SHOWN_REPORT("data shown", "invisible characters are printed", "or character.isprintable()", "or ord(character) >= 128"),
    DATA_CHECK("data shown", "a duplicate is usable", "if self._is_known(record):", "if False:"),
    READ_ROWS("long rows", "a long line is cut off and read", "if size == len(part):", "if True:"),
    PARSED_PAIRS("parting pairs", "sides of any length are a pair", "if len(chosen) != len(rejected):", "if False:"),
    PARSED_PAIRS("parting pairs", "a question where they part", 'if chosen[first].role != "assistant":', "if False:"),
    PARSED_PAIRS("parting pairs", "the last answers of other questions", "first = parted[0] if parted", "first = parted[-1] if parted"),
    HELD_OUT("rows", "a small table has no validation", "if not openings or openings & held or not fraction:", "if True:"),
    HELD_OUT("rows", "one file for everything is all tested on", "if not emptied:", "if True:"),
    BESIDE_PAIRS("nothing lost", "earlier turns beside whole dialogues are gone", "missing = history if rest is None else rest", "missing = ()"),
    BESIDE_PAIRS("nothing lost", "what is said twice is there twice", "if any(_alike(turns, dialogue[place : place + len(turns)]) for place in places):", "if False:"),
    LABELLED("nothing lost", "an answer that nobody wanted is learnt", '("false", "0", "0.0")', '("false",)'),
    READ_TEXT("nothing lost", "a picture is lines of foreign bytes", 'if other is None and b"\\0" in start:', "if False:"),
    DATA_CHECK("data shown", "files are named as the source has them", 'if parsed.kind != "path":', "if True:"),
    BASE_MODEL("base model", "a reward model with tied embeddings is taken", "if kind:", "if False:"),
    BASE_MODEL("base model", "an encoder with a decoder is taken", "if config.is_encoder_decoder:", "if False:"),
    MODEL_CHECK("base model", "the doctor does not see its window", "check_lengths(settings, directory)", "pass"),
    MODEL_CHECK("base model", "the doctor looks at another one, fetched before",
                'read_json(fetched).get("model_source") == settings.model.source', "True"),

    # -- judges -----------------------------------------------------------------------------------------
    REPLY("judges", "thoughts are verdicts", "begin = ends[-1].end() if ends else 0", "begin = 0"),
    REPLY("judges", "of two verdicts either counts", "found.pop() if len(found) == 1 else None", "found.pop() if found else None"),
    REPLY("judges", "a quotation is a verdict", "if text[one.start : one.end] not in shown}", "}"),
    REPLY("judges", "a mark within a reason ends thoughts", "if not _stands_in(mark.start(), objects)]", "]"),
    REPLY("judges", "the later of two keys counts", "if len(content) < len(pairs):", "if False:"),

    # -- DPO, and what reads its model ----------------------------------------------------------------
    DPO_LOSS("DPO", "the reference is left out", "beta * (logprobs - reference_logprobs)", "beta * logprobs"),
    DPO_LOSS("DPO", "the answers change places", "margin = chosen - rejected", "margin = rejected - chosen"),
    DPO_LOSS("DPO", "no label smoothing", "return as_labelled + the_other_way", "return as_labelled"),
    DPO_LOSS("DPO", "ipo aims at 1 / beta", "1 / (2 * beta)", "1 / beta"),
    PAIR_ANSWERS("DPO", "the first rejected token from the chosen answer's end",
                 "torch.where(first_of_rejected, prompt_end, places - 1)", "places - 1"),
    PAIR_ANSWERS("DPO", "the end token is left out", "(places <= rejected_end)", "(places < rejected_end)"),
    PAIR_ANSWERS("DPO", "means in place of sums", "(by_place * answer).sum(dim=1) for", "(by_place * answer).mean(dim=1) for"),
    DPO("DPO", "a mean over the micro-batch", "weight * losses.sum() / count", "weight * losses.mean()"),
    DPO("DPO", "always the logistic loss", 'if section.loss == "ipo":', "if False:"),
    DPO("DPO", "label smoothing of 0 whatever is asked", "section.beta, section.label_smoothing)", "section.beta, 0.0)"),
    DPO("DPO", "rows in the order of their lengths", "for _, sums in sorted(self.engine.all_gather(found))", "for _, sums in self.engine.all_gather(found)"),
    DPO("DPO", "the reference is asked each time", "return load_state(directory, _REFERENCE)", "pass"),
    DPO_MODEL("DPO", "any reference will do", "if note.reference != weights_sha256(reference):", "if False:"),
    TOKEN_REWARDS("RTO", "no clamp", "clip(coefficient * (dpo_logprobs - reference_logprobs), clamp)", "coefficient * (dpo_logprobs - reference_logprobs)"),
    TOKEN_REWARDS("RTO", "clamped before it is scaled", "clip(coefficient * (dpo_logprobs - reference_logprobs), clamp)", "coefficient * clip(dpo_logprobs - reference_logprobs, clamp)"),
    TOKEN_REWARDS("RTO", "padding is paid", "torch.where(response_mask, scaled, torch.zeros_like(scaled))", "scaled"),
    TOKEN_REWARDS("RTO", "the sum is paid twice", "final_score(-source.sum(dim=1), response_mask)", "final_score(source.sum(dim=1), response_mask)"),
    RTO("RTO", "the DPO reward is never paid", 'sources["dpo_reward"] = dpo_reward(', "_ = dpo_reward("),
    RTO("RTO", "the score at its full weight", "section.score_coefficient * sources", "sources"),
    RTO("RTO", "never shaping alone", "if section.shaping_only:", "if False:"),
    RTO("RTO", "the policy in place of the DPO model", "self.logits(DPO, part)", 'self.logits("policy", part)'),
    BEAM("beam search", "by the mean over tokens", "key=lambda beam: -beam.logprob)", "key=lambda beam: -beam.logprob / len(beam.response))"),
    BEAM("beam search", "ended beams are forgotten", "_likeliest([*ended, *longer], beams)", "_likeliest(longer, beams)"),
    BEAM("beam search", "keys and values of another beam", "[beam.parent for beam in live]", "[0 for beam in live]"),
    BEAM("beam search", "the end token goes on", "token in ends, parent", "False, parent"),

    # -- rewards ------------------------------------------------------------------------------------
    SCORED("rewards", "the last one alone", "first = first + share", "first = share"),
    SCORED("rewards", "stds are added", "math.sqrt(sum(source.unit**2 for source in self.sources))", "sum(source.unit for source in self.sources)"),
    REWARD_SOURCES("rewards", "weights are left out", "return self.settings.weight * scores", "return scores"),
    REWARD_SOURCES("rewards", "what a source cannot tell is paid by its history", "paid if scores.failed is None else paid.masked_fill(scores.failed, 0.0)", "paid"),
    REWARD_SOURCES("rewards", "what a source cannot tell enters its history", "scores.scores if scores.failed is None else scores.scores[~scores.failed]", "scores.scores"),
    SOURCE_METRICS("rewards", "failures are part of a source's mean", "mean = total / count", "mean = total / responses"),
    RULES("rewards", "the soft penalty of length is a step", "return (free - length) / buffer", "return -1.0"),
    RULES("rewards", "numbers are compared as text", "if None not in numbers:", "if False:"),
    GIVEN_SCORES("rewards", "what is not finite is paid", "if not math.isfinite(number):", "if False:"),
    SERVICE("rewards", "a service that is busy is not asked again", "if status in _BUSY or status >= 500:", "if False:"),
    SERVICE("rewards of others", "half a key reaches the log", "shortened(self._hidden(text))", "self._hidden(shortened(text))"),
    NAMES("rewards of others", "two have one name", "names.append(_free(name, names))", "names.append(name)"),
    NUMBERS("rewards of others", "1 1/2 is 11/2", "whole + Fraction(above, below)", "Fraction(int(f\"{whole}{above}\"), below)"),
    OWN_FUNCTION("rewards of others", "a unit of 0 divides", "0 < float(value) < math.inf", "float(value) < math.inf"),
    CLASSIFIER("rewards", "the bias of ours is lost", "(logits.squeeze(-1).float() + bias)", "logits.squeeze(-1).float()"),
    REFERENCES("rewards", "reference answers are lost", "if isinstance(record, Prompt):\n        return record", "if False:\n        return record"),
    REWARD_SETTINGS("rewards", "any model may be trained against", 'if detail != "reward":', "if False:"),
    HEADS("rewards", "the score at the last column", "hidden[rows, batch.last_positions]", "hidden[rows, -1]"),
    SCORED_POLICY("objective", "without the unit of the scores", "scores.scores / self.rewards.score_std", "scores.scores"),
    SCORED_POLICY("objective", "without the penalty", " - self.kl_price() * kl.sum(dim=1)", ""),

    # -- log-probabilities, and the trunk ---------------------------------------------------------------
    BACKBONE("log-probabilities", "at another temperature than asked", "unembed(model, predicting) / temperature", "unembed(model, predicting)"),
    SCORED_POLICY("log-probabilities", "at another temperature than was sampled", "batch, self.settings.sampling.temperature)", "batch)"),
    BACKBONE("log-probabilities", "of the token before", "hidden[:, :-1][batch.target_mask[:, 1:]]", "hidden[:, 1:][batch.target_mask[:, 1:]]"),
    BACKBONE("log-probabilities", "positions count padding", "attention_mask.long().cumsum(dim=1)", "torch.ones_like(attention_mask.long()).cumsum(dim=1)"),
    BACKBONE("trunk", "a block is run twice", "[batch.trunk_blocks :]", "[batch.trunk_blocks - 1 :]"),
    BACKBONE("trunk", "a block is left out", "blocks_of(model, _stack(model))) - trainable_layers", "blocks_of(model, _stack(model))) - trainable_layers + 1"),
    BACKBONE("trunk", "the final norm twice", 'part._modules[norm] = nn.Identity()', "pass"),
    BACKBONE("trunk", "shared without a look", "return _equal_states(left, right)", "return True"),
    BACKBONE("trunk", "shared by blocks of several types", "return len(set(types)) == 1", "return True"),
    ROLES("trunk", "shared where weights are in parts", "if layers is None or first is None or not self._engine.whole_weights:", "if layers is None or first is None:"),
    ROLES("trunk", "of the first rows for all", "torch.cat(states)", "torch.cat(states[:1] * len(states))"),
    ROLES("trunk", "never", "self._trunk_blocks = backbone.trunk_size(model, layers)", "pass"),
    ROLES("trunk", "read by a role of another origin", "if batch.trunk_states is None or role in self._sharing:", "if True:"),
    ROLES("roles", "one is taken twice", "if role in self._modules:", "if False:"),
    LORA("adapters", "in blocks that are not to learn", "if isinstance(part, nn.Linear | Conv1D) and id(part) in inside", "if isinstance(part, nn.Linear | Conv1D)"),
    LORA("adapters", "begin from the global stream", "nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=random)", "pass"),
    LORA("adapters", "an unknown layer is let pass", "if name not in kinds:", "if False:"),
    LORA("adapters", "fused experts are let pass", "if name in fused:", "if False:"),
    LORA("adapters", "merged into the model itself", "copy.deepcopy(model, dict(shared))", "model"),
    LORA("adapters", "lost where they are merged", "weight.float() + delta.float()", "weight.float() + 0 * delta.float()"),
    LORA("adapters", "rounded where they are merged", "weight.float() + delta.float()", "weight + delta"),
    EMBEDDINGS("adapters", "added tokens are one", "known.std(dim=0) * noise", "0 * noise"),
    TRAINABLE("adapters", "told of what learns", "if weight.requires_grad:\n        return []", "pass"),
    TRAINABLE("adapters", "only what is equal to the bit", "_NEAR = 0.01", "_NEAR = 0.0"),
    SAVING("adapters", "saved beside the weights", "if not has_adapters(model):", "if True:"),
    SHARING("adapters", "weights are shared without a look", "and alike and torch.equal(other, value)", "and alike"),
    SHARING("adapters", "weights of adapted layers are held twice", 'name.replace(_ADAPTED, "")', "name"),
    SHARING_ROLES("adapters", "each role has its own backbone", "if self._lora is not None:", "if False:"),
    ADAPTERS("adapters", "dropout acts on", "for layer in layers:\n                layer.eval()", "for layer in ():\n                layer.eval()"),
    ADAPTERS("adapters", "dropout never acts", "layer.train()", "layer.eval()"),
    ADAPTERS("adapters", "dropout draws from the global stream", "torch.manual_seed(derive_seed(torch.initial_seed(), \"adapter dropout\", *names))", "pass"),
    LORA_SETTINGS("adapters", "dropout beside a ratio", "if lora is not None and lora.dropout:", "if False:"),
    LORA_ALGORITHMS("adapters", "a new head does not learn", "if self.lora is not None and self.algorithm in LEARNS_A_NEW_HEAD:", "if False:"),
    LORA_VARIANT("adapters", "at the rate of weights", "return _RATE_OF_ADAPTERS * ", "return "),
    LORA_SAMPLER("adapters", "the sampler's copy stays behind", "source = without_adapters(self._source)", "source = self._copy"),
    SCORED_POLICY("processes", "a stand-in counts", "[(part, True) for part in parts] + [(parts[0], False)] * missing",
              "[(parts[0], True)] * missing + [(part, True) for part in parts]"),
    SCORED_POLICY("processes", "no stand-in", "missing = most - len(parts)", "missing = 0"),

    # -- random streams and prompts -------------------------------------------------------------------
    SAMPLER("random streams", "no response number", "(number,) if number else ()", "()"),
    SAMPLER("random streams", "the first response has a number", "(number,) if number else ()", "(number,)"),
    SAMPLER("random streams", "no draw", "*draw, position, *further", "position, *further"),
    SAMPLER("random streams", "no position", "*draw, position, *further", "*draw, *further"),
    SOURCES("random streams", "roles share a draw", 'draw = kind if role == POLICY else f"{kind} of {role}"', "draw = kind"),
    SOURCES("random streams", "iterations share a draw", "self._sample(role, prompts, draw, self._index)", "self._sample(role, prompts, draw)"),
    SOURCES("random streams", "given prompts share the stage's", '"response to given prompts"', '"rollout"'),
    SOURCES("random streams", "a role's draws share a name", "self._draws[draw] += 1", "pass"),
    LOCAL("sampling", "the copy does not follow", "mine.copy_(current)", "pass"),
    SOURCES("sampling", "weights are not taken over", "sampler.refresh()", "pass"),
    PROMPTS("prompts", "processes share the iteration, not its mini-batches",
            "place % size * share.world_size // size == share.rank", "place * share.world_size // prompts == share.rank"),
    PROMPTS("prompts", "draws with several responses have prompts of their own",
            "first = iteration * count", "first = iteration * (count // responses)"),
    PROMPTS("prompts", "processes take turns", "place % size * share.world_size // size == share.rank", "place % share.world_size == share.rank"),
    PROMPTS("prompts", "counts that do not divide", "if size % (responses * share.world_size) or count % size:", "if count % size:"),
    SOURCES("plain text", "the same for every process", "(step * self._share.world_size + self._share.rank) * windows", "step * windows"),

    # -- the loop -------------------------------------------------------------------------------------
    LOOP("the loop", "epochs in one order", "iteration, *names, epoch)", "iteration, *names, 0)"),
    SEAM("the loop", "updates of one role in one order", "names.append(update.name)", "pass"),
    LOOP("the loop", "steps are not counted", "Step(role, batch, epoch * count + place)", "Step(role, batch, place)"),
    SEAM("the loop", "a validation that is due is skipped", "if validates and not stop:", "if False:"),
    SEAM("the loop", "means are not sent", "return updates.send(shown)", "return updates.send({})"),
    SEAM("the loop", "after_step is not called", "if update.after_step is not None:", "if False:"),
    SEAM("the loop", "what was learnt first is lost", "_log(metrics, update, {**rates, **shown})", "metrics = {**rates, **shown}"),
    SEAM("the loop", "the algorithm's state does not survive", 'self.algorithm.load_state(state["algorithm"])', "pass"),
)  # fmt: skip


def mutate(tree: Path, mutation: Mutation) -> str:
    """Break the detail below `tree`; gives the file's text before."""
    path = tree / mutation.file
    text = path.read_text(encoding="utf-8")
    count = text.count(mutation.old)
    if count != 1:
        sys.exit(f"{mutation.file}: {mutation.old!r} occurs {count} times, once is needed")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    return text


def first_failure(tree: Path, tests: tuple[str, ...]) -> str | None:
    """Run the tests below `tree` up to the first that fails, and name it."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "400"}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", done.stdout, re.MULTILINE)
    # an error of pytest itself says nothing about the tests
    if done.returncode != 1 or found is None:
        output = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        sys.exit(f"pytest ended with {done.returncode}:\n{output}")
    return found[1]


def copy_project(tree: Path) -> None:
    """Copy what the tests need."""
    tree.mkdir(parents=True)
    for part in COPIED:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tree / part)


def survivors(tree: Path, mutations: Sequence[Mutation]) -> int:
    """Try mutations one after another; gives how many no test noticed."""
    survived = 0
    for number, mutation in enumerate(mutations, 1):
        before = mutate(tree, mutation)
        failed = first_failure(tree, mutation.tests)
        (tree / mutation.file).write_text(before, encoding="utf-8")
        survived += failed is None
        columns = (
            f"{number}/{len(mutations)}",
            mutation.detail,
            mutation.what,
            failed or "SURVIVED",
        )
        print(" | ".join(columns), flush=True)
    return survived


def main() -> int:
    """Try every mutation whose detail starts with one of the words given, all without any."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=main.__doc__)
    parser.add_argument("details", nargs="*", help="the first words of details: '1 KL' 'apa'")
    words = tuple(parser.parse_args().details)
    chosen = [one for one in MUTATIONS if not words or one.detail.startswith(words)]
    tests = sorted({test for one in chosen for test in one.tests})
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "rlhf"
        copy_project(tree)
        if failed := first_failure(tree, tuple(tests)):
            sys.exit(f"{failed} fails on the code as it is")
        survived = survivors(tree, chosen)
    print(f"{len(chosen) - survived} of {len(chosen)} noticed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
