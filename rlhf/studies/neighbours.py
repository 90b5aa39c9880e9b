"""Studies beyond the paper: what the papers of PPO-max's neighbours found, as claims that can fail."""

from rlhf.studies.claims import START, Claim
from rlhf.studies.study import Study

# arXiv 2306.02231, abstract: a more stable form of control over the deviation from the initial
# policy, better by a separate reward model, without collapsing to deterministic output
_APA = (
    Claim("APA holds the policy nearer than PPO", "kl_last", "apa", "ppo-max", "lower"),
    Claim("a separate reward model prefers it", "gold_last", "apa", "ppo-max", "higher"),
    Claim("its output stays less deterministic", "entropy_last", "apa", "ppo-max", "higher"),
)
# arXiv 2404.18922, table 1 and ablations: better than PPO and than DPO, and by shaping: taking the
# sum of the token rewards off again loses nothing
_RTO = (
    Claim("RTO ends above PPO-max", "gold_last", "rto", "ppo-max", "higher"),
    Claim("and above the DPO model", "gold_last", "rto", "dpo", "higher"),
    Claim("by shaping alone, too", "gold_last", "rto-shaping", "ppo-max", "higher"),
    Claim("which is all of it", "gold_last", "rto-shaping", "rto", "same"),
)
# the same place: PPO's level from an eighth of the data, so that it shows while the policy rises
_RTO_ALONE = (
    Claim("RTO rises earlier than PPO-max", "gold_mean", "rto", "ppo-max", "higher"),
    Claim("its shaping does so, too", "gold_mean", "rto-shaping", "ppo-max", "higher"),
)
# arXiv 2404.12358, section 5.1: a DPO policy gives wrong tokens low credit
_DPO = (
    Claim("its credit finds planted errors", "credit_auc_last", "dpo", START, "higher"),
    # arXiv 2404.18922, table 1: PPO is above DPO
    Claim("PPO ends above DPO", "gold_last", "ppo-max", "dpo", "higher"),
)
# the same section, beside PPO-max, and of errors of the kind that the pairs have (`planted:`); sections
# 5.2 to 5.4: five beams are better than one and more run away in length; the likelihood of the chosen
# answers falls
_DPO_ALONE = (
    Claim("its credit finds them better", "credit_auc_last", "dpo", "ppo-max", "higher"),
    Claim("it finds errors like its pairs' own", "pair_credit_auc_last", "dpo", START, "higher"),
    Claim("these better, too", "pair_credit_auc_last", "dpo", "ppo-max", "higher"),
    Claim("five beams find better", "gold_beams_5", "dpo", "dpo", "higher", "gold_beams_1"),
    Claim("twenty find worse", "gold_beams_20", "dpo", "dpo", "lower", "gold_beams_5"),
    Claim("and longer", "length_beams_20", "dpo", "dpo", "higher", "length_beams_5"),
    Claim("chosen answers get less likely", "chosen_logprob_last", "dpo", START, "lower"),
)
# arXiv 2405.21046, abstract: more sample-efficient than without exploration
_XPO = (
    Claim("XPO rises above where it began", "gold_last", "xpo", START, "higher"),
    Claim("the exploration term helps", "gold_last", "xpo", "xpo-0", "higher"),
    Claim("much of it harms", "gold_last", "xpo-large", "xpo-0", "lower"),
)
# the same where the class of answers that is paid is one that the reference hardly ever gives
_XPO_RARE = (
    Claim(
        "more answers are of a rare class", "validation_reward_last", "xpo-rare", START, "higher"
    ),
    Claim("the term finds it sooner", "validation_reward_mean", "xpo-rare", "xpo-rare-0", "higher"),
    Claim(
        "much of it harms there", "validation_reward_last", "xpo-rare-large", "xpo-rare-0", "lower"
    ),
)
# arXiv 2406.06874: one stage from demonstrations and pairs is better than one after the other, and so is
# its reward
_AIHF = (Claim("AIHF ends above PPO-max", "gold_last", "aihf", "ppo-max", "higher"),)
_AIHF_ALONE = (
    Claim("AIHF ends above SFT", "gold_last", "aihf", START, "higher"),
    Claim("its reward ranks held-out pairs better", "ranked_right_last", "aihf", START, "higher"),
)
# arXiv 2402.06700, abstract: better than a PPO of RLHF; our reading of the published code: it cannot learn
_ETPO = (
    Claim("ETPO ends above PPO-max", "gold_last", "etpo", "ppo-max", "higher"),
    Claim("the published form earns less", "reward_last", "etpo-published", "etpo", "lower"),
)
# arXiv 2402.14740 and 2402.03300, abstracts: no critic is needed
_CRITIC_FREE = (
    Claim("RLOO ends above PPO", "gold_last", "rloo", "ppo-max", "higher"),
    Claim("GRPO is as good as PPO", "gold_last", "grpo", "ppo-max", "same"),
)

# arXiv 2312.08935, table 2: steps paid by a process reward model give more right answers than a score
# at the end; arXiv 2211.14275: the final error is similar, but wrong steps among right answers fall
_PROCESS = (
    Claim("it gets more answers right", "right_last", "process", START, "higher"),
    Claim("more than paid for the answer alone", "right_last", "process", "ppo-max", "higher"),
    Claim("and sooner", "right_mean", "process", "ppo-max", "higher"),
    Claim("fewer right answers have a wrong line", "flawed_last", "process", "ppo-max", "lower"),
    Claim("the sum pays for more lines", "lines_last", "process", "process-difference", "higher"),
)

NEIGHBOURS: dict[str, Study] = {
    "neighbours": Study(
        "PPO-max and its neighbours, side by side",
        (
            *("ppo-max", "rto", "rto-shaping", "apa", "xpo", "online-dpo", "aihf"),
            *("etpo", "dpo", "rloo", "grpo", "reinforce-pp"),
        ),
        (*_APA, *_RTO, *_DPO, _XPO[0], *_AIHF, _ETPO[0], *_CRITIC_FREE),
        in_paper=False,
    ),
    "apa": Study(
        "Advantage-induced policy alignment (arXiv 2306.02231)",
        ("ppo-max", "apa", "apa-0.05", "apa-0.1", "apa-1", "awr"),
        (
            *_APA,
            Claim("a larger lambda holds it nearer", "kl_last", "apa-1", "apa", "lower"),
            Claim("APA ends above AWR", "gold_last", "apa", "awr", "higher"),
        ),
        in_paper=False,
    ),
    "rto": Study(
        "Reinforced token optimisation (arXiv 2404.18922)",
        ("ppo-max", "rto", "rto-shaping", "dpo"),
        (*_RTO, *_RTO_ALONE),
        in_paper=False,
    ),
    "dpo": Study(
        "DPO as a token-level Q function (arXiv 2404.12358)",
        ("ppo-max", "dpo"),
        (*_DPO, *_DPO_ALONE),
        in_paper=False,
    ),
    "xpo": Study(
        "Exploratory preference optimisation (arXiv 2405.21046)",
        (
            *("xpo", "xpo-0", "xpo-large", "online-dpo"),
            *("xpo-rare", "xpo-rare-0", "xpo-rare-large"),
        ),
        (*_XPO, *_XPO_RARE),
        in_paper=False,
    ),
    "aihf": Study(
        "Demonstrations and pairs in one stage (arXiv 2406.06874)",
        ("ppo-max", "aihf", "aihf-direct"),
        (*_AIHF, *_AIHF_ALONE),
        in_paper=False,
    ),
    "etpo": Study(
        "Soft Q of every token (arXiv 2402.06700)",
        ("ppo-max", "etpo", "etpo-published"),
        _ETPO,
        in_paper=False,
    ),
    "process": Study(
        "Process supervision (arXiv 2312.08935, 2211.14275)",
        ("ppo-max", "process", "process-difference", "process-both"),
        _PROCESS,
        in_paper=False,
        preset="verifiable",
    ),
}
