"""The models of a stage, and what of each learns."""

from dataclasses import dataclass

from rlhf.plan.memory import Ways
from rlhf.plan.shapes import ModelShape
from rlhf.settings import Settings
from rlhf.settings.training import Dpo, Lora, ProcessRewardModel, RewardModel, Sft

TrainedSection = Sft | RewardModel | Dpo | ProcessRewardModel


@dataclass(frozen=True)
class Learning:
    """What of a model learns.

    total, count: parameters with its adapters, and those that learn; blocks: how many have some
    """

    total: int
    count: int
    blocks: int


def learning(shape: ModelShape, layers: int | None, lora: Lora | None) -> Learning:
    """What learns of a model under the keys trainable_layers and lora."""
    blocks = min(layers or shape.blocks, shape.blocks)
    if lora is not None:
        added = shape.adapters(lora.rank, lora.target_modules, blocks)
        return Learning(shape.parameters + added, added, blocks)
    if layers is None:
        return Learning(shape.parameters, shape.parameters, blocks)
    return Learning(shape.parameters, blocks * shape.block + shape.norm + shape.head, blocks)


@dataclass(frozen=True)
class Role:
    """A model of the policy stage; origin: the model that it begins as."""

    name: str
    origin: str
    learns: bool


def roles(settings: Settings) -> list[Role]:
    """The models of the policy stage in the order in which they are loaded."""
    ppo = settings.ppo
    found = [Role("policy", ppo.initial, True), Role("reference", "sft", False)]
    if ppo.algorithm == "dpo":
        found[0] = Role("policy", "dpo", False)
    if ppo.critic is not None:
        found.append(Role("critic", ppo.critic.initial, True))
    if ppo.algorithm == "etpo" and ppo.critic is not None:
        found.append(Role("target", ppo.critic.initial, False))
    if ppo.algorithm == "aihf":
        found.append(Role("moving reward", "reward", True))
    if ppo.algorithm in ("rto", "process"):
        model = "dpo" if ppo.algorithm == "rto" else "process"
        found.append(Role(f"{model} model", model, False))
    for source in ppo.rewards:
        if source.address.kind == "model":
            found.append(Role("reward", source.address.detail, False))
        elif source.address.kind == "hf":
            # taken to be as large as the base model
            found.append(Role(str(source.address), str(source.address), False))
    return found


def shares_trunk(settings: Settings, ways: Ways) -> bool:
    """Whether blocks that learn in no model are run once for all; taken for granted where they may be."""
    return ways.zero == 0 and settings.ppo.trainable_layers is not None
