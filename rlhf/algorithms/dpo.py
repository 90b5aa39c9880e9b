"""The model of stage dpo as a policy: it is validated and saved as the policy, and learns nothing here.

So `evaluate`, the report and studies compare it with policies of other algorithms: the same prompts,
the same rewards, the same objective.
"""

from dataclasses import replace
from typing import Any, ClassVar

from rlhf.algorithms.base import POLICY, Context, Inputs, Sources, Updates
from rlhf.algorithms.scored_policy import REFERENCE, ScoredPolicy
from rlhf.models.dpo import load_dpo_model
from rlhf.models.saving import load_causal_lm
from rlhf.settings import Settings


class DpoPolicy(ScoredPolicy):
    """Policy, reference and rewards are frozen; iterations draw nothing."""

    curves: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def inputs(cls, settings: Settings) -> Inputs:
        """Its models, and what its rewards are read from."""
        inputs = super().inputs(settings)
        # base is where ppo.initial lets a policy start that learns
        models = (model for model in inputs.models if model != "base")
        return replace(inputs, models=(*models, "dpo"))

    def load_models(self, context: Context) -> None:
        """The DPO model, which must have had this very reference; raises ModelError."""
        sft, dtype = context.workspace.model("sft"), self.engine.dtype
        policy = load_dpo_model(context.workspace.model("dpo"), sft, dtype)
        # it is saved as it is
        self.models.freeze(POLICY, policy, whole=True)
        self.models.freeze(REFERENCE, load_causal_lm(sft, dtype))

    def updates(self, sources: Sources, iteration: int) -> Updates:
        """None: stage dpo has learnt all that there is to learn."""
        yield from ()

    def state(self) -> dict[str, Any]:
        """Nothing moves."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing moves."""
