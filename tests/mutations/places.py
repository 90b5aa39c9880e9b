"""Which file a mutation breaks, and which tests watch over that file."""

from dataclasses import dataclass


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
FRAMES = Place("data/frames.py", ("data/test_chat_template.py",))
SEPARATORS = Place("core/separators.py", ("core/test_separators.py",))
TOKEN_REWARDS = Place("ppo/rto.py", ("ppo/test_rto_rewards.py",))

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
CUT_ANSWERS = Place("training/cut_answers.py", ("training/test_cut_answers.py",))
REWARD_TRAINING = Place("training/reward.py", ("training/test_cut_answers.py",))
STEP_RANKING = Place("training/step_ranking.py", ("training/test_step_ranking.py",))
PARSED_STEPS = Place("data/shapes/steps.py", ("data/test_parse.py",))
PARSED_MESSAGES = Place("data/shapes/messages.py", ("data/test_shapes.py",))
PARSED_PAIRS = Place("data/shapes/pairs.py", ("data/test_parting_pairs.py",))
PARSED_QUESTIONS = Place("data/shapes/questions.py", ("data/test_shapes.py",))
CLEANED = Place("data/clean.py", ("data/test_clean.py",))
READ_ROWS = Place("data/json_rows.py", ("data/test_read_rows.py",))
READ_TEXT = Place("data/text.py", ("data/test_read_rows.py",))
SHOWN_ROWS = Place("commands/data_rows.py", ("commands/test_data_check.py",))
SHOWN_REPORT = Place("commands/data_view.py", ("commands/test_data_check.py",))
DATA_SHARES = Place("commands/data_shares.py", ("commands/test_data_check.py",))
DATA_CHECK = Place("commands/data_check.py", ("commands/test_data_check.py",))
BESIDE_PAIRS = Place("data/shapes/pairs.py", ("data/test_nothing_lost.py",))
LABELLED = Place("data/shapes/labels.py", ("data/test_nothing_lost.py", "data/test_shapes.py"))
BASE_MODEL = Place("data/base_model.py", ("data/test_base_model.py",))
MODEL_CHECK = Place("commands/workspace_checks.py", ("commands/test_doctor.py",))
REPLY = Place("evaluation/judges/reply.py", ("evaluation/judges/test_reply.py",))
HELD_OUT = Place("data/assign.py", ("data/test_held_out.py",))
SOLUTION_ROWS = Place("data/solutions.py", ("data/test_solutions.py",))
RTO = Place("algorithms/rto.py", ("algorithms/test_rto.py",))
ON_POLICY = Place("algorithms/on_policy.py", ALGORITHMS)
CHECKPOINTS = Place("engine/checkpoints.py", ("engine/test_checkpoints.py",))
TRAINER_STATE = Place("engine/trainer_state.py", ("engine/test_trainer_state.py",))
ENGINE = Place("engine/base.py", ("algorithms/test_on_policy_batches.py",))
SCORED_POLICY = Place("algorithms/scored_policy.py", ALGORITHMS)
ACTOR_CRITIC = Place("algorithms/actor_critic.py", ALGORITHMS)
ONLINE_PREFERENCE = (
    "algorithms/test_online_preference.py",
    "algorithms/test_online_preference_batches.py",
)
XPO = Place("algorithms/xpo.py", ONLINE_PREFERENCE)
OF_PAIRS = Place(
    "algorithms/online_preference.py", (*ONLINE_PREFERENCE, "algorithms/test_pair_judge.py")
)
ONLINE_DPO = Place("algorithms/online_dpo.py", ONLINE_PREFERENCE)
PAIR_METRICS = Place("algorithms/pair_metrics.py", ONLINE_PREFERENCE)
PAIR_JUDGE = Place("algorithms/pair_judge.py", ("algorithms/test_pair_judge.py",))
JUDGE_METRICS = Place("algorithms/pair_metrics.py", ("algorithms/test_pair_judge.py",))
PAIRS = Place("rollout/sampled_pairs.py", ("rollout/test_sampled_pairs.py",))
PAIR_ADVICE = Place("settings/advice.py", ("settings/test_advice.py",))
PARTS = Place("algorithms/on_policy.py", ON_TWO_PROCESSES)
TEXT_PARTS = Place("algorithms/ppo_max.py", ON_TWO_PROCESSES)
SCORED = Place("rewards/base.py", ("rewards/test_make_rewards.py",))
PAIR_SETTINGS = Place("settings/neighbours.py", ("settings/test_pair_sections.py",))
PROCESS_SETTINGS = Place("settings/schema.py", ("settings/test_process_section.py",))
DPO_READS = Place("settings/reads.py", ("settings/test_dpo_sections.py",))
SEARCH = Place("commands/search_command.py", ("commands/test_credit.py",))
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
DPO_POLICY = Place("algorithms/dpo.py", ("algorithms/test_dpo_policy.py",))
CREDIT = Place("commands/credit.py", ("commands/test_credit.py",))
DPO_MODEL = Place("models/dpo.py", ("training/test_dpo_training.py", "algorithms/test_rto.py"))
ROLES = Place("models/roles.py", ("models/test_roles.py",))
KEPT_TRUNKS = Place("models/kept_trunks.py", ("models/test_kept_trunks.py",))
LORA = Place("models/lora.py", ("models/test_lora.py",))
STUDY_CREDIT = Place("studies/credit.py", ("studies/test_planted_errors.py",))
PLANTED = Place("data/sources/planted.py", ("data/test_planted.py",))
STUDY_MEASURE = Place("studies/measure.py", ("studies/test_measure.py",))
STUDY_BEAMS = Place("studies/beams.py", ("studies/test_beams.py",))
STUDY_CLAIMS = Place("studies/claims.py", ("studies/test_claims.py",))
ADDED_PLOTS = Place("report/neighbour_plots.py", ("report/test_neighbour_plots.py",))
WEIGHT_READS = Place("settings/reads.py", ("settings/test_sampling_section.py",))
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
