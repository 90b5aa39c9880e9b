"""The search of rate and strength that comes before the neighbours are compared.

As many trials for each algorithm: three learning rates, and at the middle one another strength of
what holds its policy to the reference. Each trial is an arm; the table of arms on the study's page
tells which ended best.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.studies.study import Study

Changes = dict[str, Any]

# the middle one is that of the preset `study`
_RATES = (1e-4, 2.5e-4, 6e-4)


@dataclass(frozen=True)
class Trials:
    """What is tried of an algorithm.

    label: what the strength is called in the arms' names; strength: its key
    usual, other: its values
    rate: the key of the learning rate
    """

    label: str
    strength: str
    usual: float
    other: float
    rate: str = "ppo.optimizer.learning_rate"

    def arms(self, arm: str, changes: Mapping[str, Any]) -> dict[str, Changes]:
        """The arms of the search of `arm`, whose own changes are `changes`."""
        tried = [(rate, self.usual) for rate in _RATES] + [(_RATES[1], self.other)]
        return {
            f"{arm}-rate{_short(rate)}-{self.label}{_short(strength)}": {
                **changes,
                self.rate: rate,
                self.strength: strength,
            }
            for rate, strength in tried
        }


def _short(value: float) -> str:
    """0.05, but 2.5e-4."""
    return (
        f"{value:g}" if value >= 1e-3 else f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-")
    )


TRIALS: dict[str, Trials] = {
    "ppo-max": Trials("kl", "ppo.kl.coefficient", 0.05, 0.02),
    "rto": Trials("dpo", "ppo.rto.coefficient", 0.05, 0.2),
    "apa": Trials("lambda", "ppo.apa.lambda", 0.1, 0.3),
    "xpo": Trials("beta", "ppo.xpo.beta", 0.1, 0.3),
    "online-dpo": Trials("beta", "ppo.online_dpo.beta", 0.1, 0.3),
    # how fast its reward moves
    "aihf": Trials("reward", "ppo.aihf.optimizer.learning_rate", 1e-5, 1e-4),
    "etpo": Trials("beta", "ppo.etpo.beta", 0.05, 0.1),
    "dpo": Trials("beta", "dpo.beta", 0.1, 0.3, rate="dpo.optimizer.learning_rate"),
    "rloo": Trials("kl", "ppo.kl.coefficient", 0.05, 0.02),
    "grpo": Trials("kl", "ppo.grpo.kl_coefficient", 0.04, 0.01),
    "reinforce-pp": Trials("kl", "ppo.kl.coefficient", 0.05, 0.02),
}


def search_arms(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, Changes]:
    """All trials by name; `arms` has the arms that they start from."""
    return {
        name: changes
        for arm, trials in TRIALS.items()
        for name, changes in trials.arms(arm, arms[arm]).items()
    }


SEARCHES: dict[str, Study] = {
    f"search-{arm}": Study(
        f"Rate and strength of {arm}", tuple(trials.arms(arm, {})), (), in_paper=False
    )
    for arm, trials in TRIALS.items()
}
