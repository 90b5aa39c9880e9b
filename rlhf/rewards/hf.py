"""`hf:DIRECTORY`: any reward model that `AutoModelForSequenceClassification` loads, asked by text.

It has a tokenizer and a chat template of its own. DVC sees the address, not what lies behind it; a
run that is resumed does.
"""

from collections.abc import Sequence
from pathlib import Path

from rlhf.common.address import Address
from rlhf.models.classifier import Answered, Classifier
from rlhf.rewards.base import RewardContext
from rlhf.rewards.records import ResponseRecord
from rlhf.workspace import Workspace


class HfReward:
    """A frozen classifier with one label; what it cannot read counts as a failure.

    That is a text longer than its window, or one that its template refuses.
    """

    score_std = 1.0

    def __init__(self, context: RewardContext, detail: str) -> None:
        directory = classifier_directory(context.workspace, Address("hf", detail))
        batch = context.settings.ppo.micro_batch
        self._classifier = Classifier.load(directory, context.models.engine, batch)

    def scores_of(self, records: Sequence[ResponseRecord]) -> Sequence[float | None]:
        """Its logit each, None for what does not fit."""
        return self._classifier.scores(
            [Answered(one.messages, one.response, one.finished) for one in records]
        )


def classifier_directory(workspace: Workspace, address: Address) -> Path:
    """Where it lies: a relative path is from the workspace on."""
    return workspace.root / address.path
