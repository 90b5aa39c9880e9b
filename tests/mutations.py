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
KL = Place("ppo/kl.py", ("ppo/test_kl.py",))
LOSSES = Place("ppo/losses.py", ("ppo/test_losses.py",))
MOMENTS = Place("ppo/moments.py", ("ppo/test_moments.py",))
REWARDS = Place("ppo/rewards.py", ("ppo/test_rewards.py",))

# the algorithms, and what they are made of
PPO_MAX = Place("algorithms/ppo_max.py", ALGORITHMS)
APA = Place("algorithms/apa.py", ("algorithms/test_apa.py",))
ON_POLICY = Place("algorithms/on_policy.py", ALGORITHMS)
PARTS = Place("algorithms/on_policy.py", ON_TWO_PROCESSES)
TEXT_PARTS = Place("algorithms/ppo_max.py", ON_TWO_PROCESSES)
SCORED = Place("rewards/base.py", ("rewards/test_make_rewards.py",))
REWARD_SETTINGS = Place("settings/policy.py", ("rewards/test_make_rewards.py",))
SETTINGS = Place("settings/policy.py", ("settings/test_apa_section.py",))

# models, sampling, the loop
BACKBONE = Place("models/backbone.py", ("models/test_backbone.py", "models/test_roles.py"))
HEADS = Place("models/heads.py", ("models/test_heads.py",))
ROLES = Place("models/roles.py", ("models/test_roles.py",))
SAMPLER = Place("rollout/sampler.py", ("rollout/test_sampler.py",))
LOCAL = Place("rollout/local.py", ("rollout/test_local_sampler.py",))
PROMPTS = Place("rollout/prompts.py", ("rollout/test_prompts.py",))
SOURCES = Place("training/sources.py", ("training/test_run_sources.py",))
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
    PPO_MAX("1 KL penalty", "never paid", 'sources["kl_penalty"] = kl_penalty(divergence, mask, kl.coefficient)', "pass"),
    PPO_MAX("1 KL penalty", "always by k1", 'kl.estimator if kl else "k1"', '"k1"'),
    REWARDS("1 final score", "one token early", "response_mask.sum(dim=1) - 1", "(response_mask.sum(dim=1) - 2).clamp(min=0)"),
    PPO_MAX("1 final score", "never paid", "final_score(final, mask)", "0 * final_score(final, mask)"),
    PPO_MAX("1 final score", "as it is", "final_score(final, mask)", "final_score(scores.scores, mask)"),
    LOSSES("2 importance ratio", "the ratio upside down", "(logprobs - old_logprobs).exp()", "(old_logprobs - logprobs).exp()"),
    PPO_MAX("2 importance ratio", "always against the policy",
            "part.old_logprobs if from_policy else part.reference_logprobs", "part.old_logprobs"),
    ON_POLICY("2 importance ratio", "the reference is the policy",
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
    ON_POLICY("7 value clipping", "never", "partial(self._critic_losses, self.settings.value_clip)", "partial(self._critic_losses, None)"),
    ON_POLICY("7 value clipping", "during pre-training too",
              "partial(self._critic_losses, None)", "partial(self._critic_losses, self.settings.value_clip)"),
    ON_POLICY("8 the critic's start", "the reward model whatever is asked",
              'if self.settings.critic.initial == "sft":', "if False:"),
    ON_POLICY("8 the critic's start", "at the reward model's scale", "unit_scale = transform.normalise is not None or transform.scale is not None", "unit_scale = False"),
    ON_POLICY("8 critic pre-training", "skipped", "self.warmup_iterations = self.settings.critic.pretraining_iterations", "self.warmup_iterations = 0"),
    ON_POLICY("8 critic pre-training", "as many epochs as later", "epochs = self.settings.critic.pretraining_epochs", "epochs = self.settings.epochs"),
    ON_POLICY("8 critic pre-training", "the policy learns too",
              "mini_batches, losses, epochs, metrics, signals)\n            return\n", "mini_batches, losses, epochs, metrics, signals)\n"),
    ON_POLICY("9 the policy's start", "SFT whatever is asked",
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
    ON_POLICY("means over tokens", "of the critic's micro-batch", "return losses.sum() / count", "return losses.mean()"),
    PARTS("means over tokens", "of one process", "float(self.engine.all_sum(batch.response_mask.sum().double()))", "float(batch.response_mask.sum())"),

    # -- APA ----------------------------------------------------------------------------------------
    APA_LOSS("APA", "the sign of A / lambda", "reference_logprobs + advantages / lam", "reference_logprobs - advantages / lam"),
    APA_LOSS("APA", "multiplied by lambda", "reference_logprobs + advantages / lam", "reference_logprobs + advantages * lam"),
    APA_LOSS("APA", "without the reference", "reference_logprobs + advantages / lam", "advantages / lam"),
    APA_LOSS("APA", "not squared", "(logprobs - target).square()", "(logprobs - target).abs()"),
    APA_LOSS("APA", "halved", "(logprobs - target).square()", "(logprobs - target).square() / 2"),
    APA("APA", "the sampling policy in place of the reference", "part.reference_logprobs[mask]", "part.old_logprobs[mask]"),
    APA("APA", "lambda of 1 whatever is asked", "self.settings.apa.lam)", "1.0)"),
    APA("APA", "the score as it is", "final_score(final, mask)", "final_score(scores.scores, mask)"),
    APA("APA", "scores are not reparameterised", "final = self.reparameterised(scores.scores)", "final = scores.scores"),
    APA("APA", "a KL penalty in the reward", "final_score(final, mask)}, final", "final_score(final, mask) - 0.05 * divergence}, final"),
    APA("APA", "the divergence is not watched", "scores.reference_logprobs) * mask", "scores.reference_logprobs) * 0"),
    SETTINGS("APA", "what it does not read beside it", "if getattr(self, key) != off", "if False"),
    SETTINGS("APA", "plain text beside it", '"penalty", "ptx"}', '"penalty"}'),
    SETTINGS("APA", "its section with another algorithm", '"apa": frozenset({"apa"})', '"apa": frozenset[str]()'),
    SETTINGS("APA", "without its section", "if name in _OWN_SECTION and getattr(self, name) is None:", "if False:"),

    # -- rewards ------------------------------------------------------------------------------------
    SCORED("rewards", "the last one alone", "first = first + scores", "first = scores"),
    SCORED("rewards", "stds are added", "math.sqrt(sum(reward.score_std**2 for reward in self._rewards))", "sum(reward.score_std for reward in self._rewards)"),
    REWARD_SETTINGS("rewards", "any model may be trained against", "if text != only:", "if False:"),
    HEADS("rewards", "the score at the last column", "hidden[rows, batch.last_positions]", "hidden[rows, -1]"),
    ON_POLICY("objective", "without the unit of the scores", "scores.scores / self.rewards.score_std", "scores.scores"),
    ON_POLICY("objective", "without the penalty", " - penalty * kl.sum(dim=1)", ""),

    # -- log-probabilities, and the trunk ---------------------------------------------------------------
    BACKBONE("log-probabilities", "at another temperature than asked", "unembed(model, predicting) / temperature", "unembed(model, predicting)"),
    ON_POLICY("log-probabilities", "at another temperature than was sampled", "batch, self.settings.sampling.temperature)", "batch)"),
    BACKBONE("log-probabilities", "of the token before", "hidden[:, :-1][batch.target_mask[:, 1:]]", "hidden[:, 1:][batch.target_mask[:, 1:]]"),
    BACKBONE("log-probabilities", "positions count padding", "attention_mask.long().cumsum(dim=1)", "torch.ones_like(attention_mask.long()).cumsum(dim=1)"),
    BACKBONE("trunk", "a block is run twice", "[batch.trunk_blocks :]", "[batch.trunk_blocks - 1 :]"),
    BACKBONE("trunk", "a block is left out", "len(_blocks(model)) - trainable_layers", "len(_blocks(model)) - trainable_layers + 1"),
    BACKBONE("trunk", "the final norm twice", 'part._modules["norm"] = nn.Identity()', "pass"),
    BACKBONE("trunk", "shared without a look", "return _equal_states(left, right)", "return True"),
    BACKBONE("trunk", "shared by blocks of several types", "return len(set(types)) == 1", "return True"),
    ROLES("trunk", "shared where weights are in parts", "if layers is None or first is None or not self._engine.whole_weights:", "if layers is None or first is None:"),
    ROLES("trunk", "of the first rows for all", "torch.cat(states)", "torch.cat(states[:1] * len(states))"),
    ROLES("trunk", "never", "self._trunk_blocks = backbone.trunk_size(model, layers)", "pass"),
    ROLES("trunk", "read by a role of another origin", "if batch.trunk_states is None or role in self._sharing:", "if True:"),
    ROLES("roles", "one is taken twice", "if role in self._modules:", "if False:"),
    ON_POLICY("processes", "a stand-in counts", "[(part, True) for part in parts] + [(parts[0], False)] * missing",
              "[(parts[0], True)] * missing + [(part, True) for part in parts]"),
    ON_POLICY("processes", "no stand-in", "missing = most - len(parts)", "missing = 0"),

    # -- random streams and prompts -------------------------------------------------------------------
    SAMPLER("random streams", "no response number", "(number,) if number else ()", "()"),
    SAMPLER("random streams", "the first response has a number", "(number,) if number else ()", "(number,)"),
    SAMPLER("random streams", "no draw", "*draw, position, *further", "position, *further"),
    SAMPLER("random streams", "no position", "*draw, position, *further", "*draw, *further"),
    SOURCES("random streams", "roles share a draw", 'draw = "rollout" if role == POLICY else f"rollout of {role}"', 'draw = "rollout"'),
    SOURCES("random streams", "iterations share a draw", "self._next_draw(role), self._index)", "self._next_draw(role))"),
    SOURCES("random streams", "a role's draws share a name", "self._draws[role] += 1", "pass"),
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
