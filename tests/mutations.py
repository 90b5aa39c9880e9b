"""Do the tests notice? `python -m tests.mutations` breaks each detail of PPO in a copy of the project, one at a time.

Prints which test failed first for each; ends with 1 when a broken detail passes all of its tests, or when they cannot tell:
they fail on the code as it is, or pytest ends otherwise than by a failed test.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import ROOT

PPO, ALGORITHM = "rlhf/ppo", "rlhf/algorithms/ppo_max.py"
UNIT = "tests/rlhf/ppo"
WHOLE = ("tests/rlhf/algorithms/test_ppo_max.py", "tests/rlhf/algorithms/test_ppo_details.py")


@dataclass(frozen=True)
class Mutation:
    """`old`, which `file` holds exactly once, becomes `new`; `tests` must notice."""

    detail: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _unit(detail: str, what: str, file: str, old: str, new: str, test: str) -> Mutation:
    return Mutation(detail, what, f"{PPO}/{file}.py", old, new, (f"{UNIT}/test_{test}.py",))


def _whole(detail: str, what: str, old: str, new: str) -> Mutation:
    return Mutation(detail, what, ALGORITHM, old, new, WHOLE)


MUTATIONS = (
    _unit("1 KL penalty", "sign of the penalty", "rewards", "-kl_coefficient * kl", "kl_coefficient * kl", "rewards"),
    _unit("1 KL penalty", "reference and policy change places", "kl",
          "logprobs - reference_logprobs\n", "reference_logprobs - logprobs\n", "kl"),
    _unit("1 KL penalty", "k3 without its 1", "kl", "exp() - 1 + difference", "exp() + difference", "kl"),
    _unit("1 KL penalty", "the score lands one token early", "rewards",
          "response_mask.sum(dim=1) - 1", "(response_mask.sum(dim=1) - 2).clamp(min=0)", "rewards"),
    _unit("1 KL penalty", "padding is penalised", "rewards",
          "torch.where(response_mask, -kl_coefficient * kl, torch.zeros_like(kl))", "-kl_coefficient * kl", "rewards"),
    _unit("2 importance ratio", "the ratio upside down", "losses",
          "(logprobs - old_logprobs).exp()", "(old_logprobs - logprobs).exp()", "losses"),
    _whole("2 importance ratio", "always against the policy",
           "scores.logprobs if self.settings.importance == \"policy\" else scores.reference_logprobs", "scores.logprobs"),
    _unit("3 entropy bonus", "entropy is punished", "losses",
          "return -entropies if target is None", "return entropies if target is None", "losses"),
    _unit("3 entropy bonus", "drawn from one side only", "losses",
          "(entropies - target).abs()", "(entropies - target).clamp(min=0)", "losses"),
    _whole("3 entropy bonus", "computed, never added", "losses + self.settings.entropy.coefficient * bonus", "losses"),
    _unit("4 reward scaling", "the mean is taken off", "rewards",
          "return scores / history.std", "return (scores - history.mean) / history.std", "rewards"),
    _whole("4 reward scaling", "never called", "rewards = scale(rewards, self._history)", "pass"),
    _unit("5 reward normalisation", "the mean stays", "rewards",
          "(scores - history.mean) / history.std", "scores / history.std", "rewards"),
    _unit("5 reward normalisation", "biased spread", "moments", "self.squares / (self.count - 1)", "self.squares / self.count", "moments"),
    _unit("5 reward normalisation", "shift between batches forgotten", "moments",
          " + shift * shift * history.count * count / merged", "", "moments"),
    _unit("5 reward normalisation", "each process its own", "moments",
          "float(all_sum((values - mean).square().sum()))", "float((values - mean).square().sum())", "moments"),
    _whole("5 reward normalisation", "the history stands still",
           "self._history = merge(self._history, rewards, self.engine.all_sum)", "pass"),
    _unit("5 reward clipping", "one side only", "rewards", "values.clamp(-delta, delta)", "values.clamp(max=delta)", "rewards"),
    _whole("5 reward clipping", "before normalisation",
           "        if transform.normalise == \"running\":", "        rewards = clip(rewards, transform.clip)\n        if transform.normalise == \"running\":"),
    _unit("6 advantage normalisation", "padding takes part", "advantages",
          "advantages[response_mask], all_sum", "advantages.flatten(), all_sum", "advantages"),
    _whole("6 advantage normalisation", "never called",
           "whiten(advantages, batch.response_mask, self.engine.all_sum)", "advantages"),
    _whole("6 advantage clipping", "never called", "advantages=clip(advantages, transform.clip)", "advantages=advantages"),
    _unit("7 value clipping", "the kinder of both", "losses", "torch.maximum(plain, clipped)", "torch.minimum(plain, clipped)", "losses"),
    _unit("7 value clipping", "no lower bound", "losses",
          "torch.maximum(torch.minimum(values, old_values + clip), old_values - clip)",
          "torch.minimum(values, old_values + clip)", "losses"),
    _whole("7 value clipping", "during pre-training too",
           "self.settings.value_clip if iteration >= 0 else None", "self.settings.value_clip"),
    _whole("8 initialisation", "the policy starts from SFT whatever is asked",
           "load_causal_lm(workspace.model(ppo.initial))", "load_causal_lm(workspace.model(\"sft\"))"),
    _whole("8 initialisation", "the critic starts from the reward model whatever is asked",
           "if ppo.critic.initial == \"reward\"", "if ppo.critic.initial"),
    _whole("9 critic pre-training", "skipped",
           "self.warmup_iterations = ppo.critic.pretraining_iterations", "self.warmup_iterations = 0"),
    _whole("9 critic pre-training", "the policy learns too",
           "return {\"critic\": self.settings.critic.pretraining_epochs}",
           "return {\"policy\": 1, \"critic\": self.settings.critic.pretraining_epochs}"),
    _unit("10 GAE", "the value of the next state without gamma", "advantages", "gamma * following", "following", "advantages"),
    _unit("10 GAE", "no lambda", "advantages", "gamma * lam * running", "gamma * running", "advantages"),
    _unit("10 GAE", "the last token is left out", "advantages", "values.shape[1] - 1, -1, -1", "values.shape[1] - 2, -1, -1", "advantages"),
    _unit("10 GAE", "values of padding leak in", "advantages",
          "values, rewards = values * keep, rewards * keep", "rewards = rewards * keep", "advantages"),
    _unit("11 clipped surrogate", "the larger of both", "losses", "-torch.minimum(plain, clipped)", "-torch.maximum(plain, clipped)", "losses"),
    _unit("11 clipped surrogate", "no upper bound", "losses", "ratio.clamp(1 - epsilon, 1 + epsilon)", "ratio.clamp(min=1 - epsilon)", "losses"),
    _unit("11 clipped surrogate", "sign", "losses", "return -plain, ratio", "return plain, ratio", "losses"),
    Mutation("12 gradient clipping", "never", "rlhf/engine/single.py", "self.settings.max_gradient_norm or float(\"inf\")",
             "float(\"inf\")", ("tests/rlhf/engine/test_single.py",)),
    Mutation("12 gradient clipping", "never, with ZeRO", "rlhf/engine/zero.py", "settings.max_gradient_norm or 0.0", "0.0",
             ("tests/rlhf/engine/test_zero.py",)),
    _unit("penalty (eq. 14)", "backwards", "losses", "return ratio - 1 - ratio.log()", "return ratio - 1 + ratio.log()", "losses"),
    _unit("penalty (eq. 14)", "grows where it should shrink", "losses", "return coefficient / 2", "return coefficient * 2", "losses"),
    _whole("penalty (eq. 14)", "computed, never added", "losses = losses + self._penalty * divergence", "pass"),
    _whole("ptx (eq. 17)", "without its weight", "self.settings.ptx.coefficient * losses.sum()", "losses.sum()"),
    _whole("ptx (eq. 17)", "never added", "losses.append(lambda: self._ptx_loss(pretrain, tally))", "pass"),
    _whole("means over tokens", "of the micro-batch", "return losses.sum() / count\n\n    def _critic_loss", "return losses.mean()\n\n    def _critic_loss"),
    Mutation("log-probabilities", "at another temperature than was sampled", "rlhf/models/backbone.py",
             "(predicting).float() / temperature", "(predicting).float()", WHOLE),
    Mutation("log-probabilities", "of the token before", "rlhf/models/backbone.py",
             "hidden[:, :-1][batch.target_mask[:, 1:]]", "hidden[:, 1:][batch.target_mask[:, 1:]]", (*WHOLE, "tests/rlhf/models/test_backbone.py")),
)  # fmt: skip


def mutate(tree: Path, mutation: Mutation) -> str:
    """Break the detail below `tree`; gives the file's text before."""
    path = tree / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        sys.exit(
            f"{mutation.file}: {mutation.old!r} occurs {text.count(mutation.old)} times, once is needed"
        )
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
    if (
        done.returncode != 1 or found is None
    ):  # an error of pytest itself tells nothing of the tests
        sys.exit(
            f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return found[1]


def main() -> int:
    """Try every mutation whose detail starts with one of the words given, all without any."""
    chosen = [
        one for one in MUTATIONS if not sys.argv[1:] or one.detail.startswith(tuple(sys.argv[1:]))
    ]
    survived = 0
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "rlhf"
        for part in ("rlhf", "tests", "tasks", "flows", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            (tree / part).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / part, tree / part)
        if failed := first_failure(
            tree, tuple(sorted({test for one in chosen for test in one.tests}))
        ):
            sys.exit(f"{failed} fails on the code as it is")
        for number, mutation in enumerate(chosen, 1):
            before = mutate(tree, mutation)
            failed = first_failure(tree, mutation.tests)
            (tree / mutation.file).write_text(before, encoding="utf-8")
            survived += failed is None
            print(
                f"{number}/{len(chosen)} | {mutation.detail} | {mutation.what} | {failed or 'SURVIVED'}",
                flush=True,
            )
    print(f"{len(chosen) - survived} of {len(chosen)} noticed")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
